//! One end of a connection, whatever carries it, and its two halves: [`Sender`] and [`Receiver`].
//!
//! - Sending never blocks, so neither side can hold up the other: what the peer has not read yet is queued and counted,
//!   and a peer that leaves [`MAX_BACKLOG_BYTES`] unread counts as gone.
//! - Receiving blocks without spinning.
//! - Dropping either half ends the connection in both directions: the peer receives what was sent before, then `Closed`.
//!   The own other half wakes with `Closed` too, which is how a thread that waits in `recv` is ended.

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::frame::{FrameError, Message, decode, encode_command, encode_report, frame_length};
use crate::message::{Command, Report};
use crate::ring::{Ring, RingReceiver, RingSender};
use crate::socket::{self, Socket, SocketReceiver, SocketSender};

/// Unread bytes that a connection queues before its peer counts as gone. A single frame always fits.
pub const MAX_BACKLOG_BYTES: usize = 256 << 20;

/// Buffers that grew past this for one large frame are given back when empty.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the other end of the connection is closed")]
    Closed,
    /// The connection is as before.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Why no message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    #[error("the other end of the connection is closed")]
    Closed,
    /// One frame was no message. If its header was whole the frame is skipped, and the next call goes on after it;
    /// otherwise every later call returns `Closed`.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// One end of the connection between a front end and an engine.
pub struct Endpoint(Carrier);

enum Carrier {
    Ring(Ring),
    Socket(Socket),
}

impl Endpoint {
    /// Two ends joined inside this process.
    pub fn pair() -> (Self, Self) {
        let (one, other) = Ring::pair();
        (Self(Carrier::Ring(one)), Self(Carrier::Ring(other)))
    }

    /// Takes over a connected Unix stream socket: `fd` is closed with the endpoint. On an error (`fd` is not open, or
    /// something else) it stays the caller's.
    pub fn from_fd(fd: RawFd) -> io::Result<Self> {
        socket::adopt(fd).map(|socket| Self(Carrier::Socket(socket)))
    }

    pub fn split(self) -> (Sender, Receiver) {
        let (outgoing, incoming) = match self.0 {
            Carrier::Ring(ring) => {
                let (sender, receiver) = ring.split();
                (Outgoing::Ring(sender), Incoming::Ring(receiver))
            }
            Carrier::Socket(socket) => {
                let (sender, receiver) = socket.split();
                (Outgoing::Socket(sender), Incoming::Socket(receiver))
            }
        };
        let receiver = Receiver { incoming, buffer: Vec::new(), start: 0, broken: false };
        (Sender { outgoing, scratch: Vec::new() }, receiver)
    }
}

enum Outgoing {
    Ring(RingSender),
    Socket(SocketSender),
}

/// The sending half. No call blocks.
pub struct Sender {
    outgoing: Outgoing,
    /// The encoded frame; kept so that a warm sender does not allocate.
    scratch: Vec<u8>,
}

impl Sender {
    /// Sends one encoded frame, whole.
    pub fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        match &mut self.outgoing {
            Outgoing::Ring(ring) => ring.send(frame),
            Outgoing::Socket(socket) => socket.send(frame),
        }
    }

    pub fn send_command(&mut self, command: &Command) -> Result<(), SendError> {
        self.send_encoded(|scratch| encode_command(command, scratch))
    }

    pub fn send_report(&mut self, report: &Report) -> Result<(), SendError> {
        self.send_encoded(|scratch| encode_report(report, scratch))
    }

    fn send_encoded(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), FrameError>) -> Result<(), SendError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let result = encode(&mut scratch).map_err(SendError::Frame).and_then(|()| self.send(&scratch));
        if scratch.capacity() <= KEPT_BUFFER_BYTES {
            self.scratch = scratch;
        }
        result
    }
}

enum Incoming {
    Ring(RingReceiver),
    Socket(SocketReceiver),
}

/// The receiving half.
pub struct Receiver {
    incoming: Incoming,
    /// Received bytes; those before `start` are done.
    buffer: Vec<u8>,
    start: usize,
    broken: bool,
}

impl Receiver {
    /// The next command. Waits at most `timeout`, or for ever; `Ok(None)` when that time passed.
    pub fn recv_command(&mut self, timeout: Option<Duration>) -> Result<Option<Command>, RecvError> {
        match self.recv(timeout)? {
            Some(Message::Command(command)) => Ok(Some(command)),
            Some(Message::Report(_)) => Err(RecvError::Frame(FrameError::Value("direction"))),
            None => Ok(None),
        }
    }

    /// The next report; otherwise as [`Self::recv_command`].
    pub fn recv_report(&mut self, timeout: Option<Duration>) -> Result<Option<Report>, RecvError> {
        match self.recv(timeout)? {
            Some(Message::Report(report)) => Ok(Some(report)),
            Some(Message::Command(_)) => Err(RecvError::Frame(FrameError::Value("direction"))),
            None => Ok(None),
        }
    }

    /// The next message of either direction.
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<Option<Message>, RecvError> {
        if self.broken {
            return Err(RecvError::Closed);
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let rest = &self.buffer[self.start..];
            match frame_length(rest) {
                Ok(Some(length)) if length <= rest.len() => {
                    let message = decode(&rest[..length]);
                    self.start += length;
                    return Ok(Some(message?));
                }
                Ok(_) => {}
                Err(error) => {
                    self.broken = true;
                    return Err(error.into());
                }
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Receives more bytes behind those not yet read.
    fn fill(&mut self, deadline: Option<Instant>) -> Result<bool, RecvError> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            if self.buffer.capacity() > KEPT_BUFFER_BYTES {
                self.buffer = Vec::new();
            }
        } else {
            self.buffer.drain(..self.start);
        }
        self.start = 0;
        match &mut self.incoming {
            Incoming::Ring(ring) => ring.receive(&mut self.buffer, deadline).map_err(|_| RecvError::Closed),
            Incoming::Socket(socket) => socket.receive(&mut self.buffer, deadline).map_err(|_| RecvError::Closed),
        }
    }
}
