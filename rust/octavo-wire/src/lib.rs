//! Frames between the processes of octavo: versioned codec, in-process ring, Unix socket.
//!
//! In the order of a message's way: `message` (what is said) → `frame` (its bytes; `bytes` reads and writes them) →
//! `endpoint` (who says it) → `ring` or `socket` (how it gets there).

mod message;

mod bytes;
mod frame;

mod endpoint;
mod ring;
mod socket;

pub use endpoint::{Endpoint, MAX_BACKLOG_BYTES, Receiver, RecvError, SendError, Sender};
pub use frame::{
    FrameError, HEADER_BYTES, MAX_FRAME_BYTES, Message, decode, encode_command, encode_report, frame_length,
};
pub use message::*;
