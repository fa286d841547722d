//! Frames between the processes of octavo: versioned codec, in-process ring, Unix socket.
