//! Frames between two threads of one process: one byte queue a direction, made of two buffers.
//!
//! The sender appends to one buffer; the receiver, when it has read its own to the end, swaps the two. Frames stay
//! whole and in order, a warm ring allocates nothing, and each side takes the lock once a batch.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::endpoint::{MAX_BACKLOG_BYTES, SendError};

/// One direction.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    closed: bool,
}

impl Queue {
    fn send(&self, frame: &[u8]) -> Result<(), SendError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.closed && !state.bytes.is_empty() && state.bytes.len() + frame.len() > MAX_BACKLOG_BYTES {
            state.closed = true;
            self.changed.notify_all();
        }
        if state.closed {
            return Err(SendError::Closed);
        }
        let was_empty = state.bytes.is_empty();
        state.bytes.extend_from_slice(frame);
        drop(state);
        if was_empty {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Moves what was sent behind `buffer`. Ok(false): the deadline passed. Err: closed, and all is read.
    fn receive(&self, buffer: &mut Vec<u8>, deadline: Option<Instant>) -> Result<bool, Closed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if !state.bytes.is_empty() {
                if buffer.is_empty() {
                    std::mem::swap(&mut state.bytes, buffer);
                } else {
                    buffer.append(&mut state.bytes);
                }
                return Ok(true);
            }
            if state.closed {
                return Err(Closed);
            }
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(false);
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_all();
    }
}

/// The other end is gone.
#[derive(Debug)]
pub(crate) struct Closed;

/// One end: what it sends, and what it receives.
pub(crate) struct Ring {
    outgoing: Arc<Queue>,
    incoming: Arc<Queue>,
}

impl Ring {
    pub fn pair() -> (Self, Self) {
        let (one, other) = (Arc::<Queue>::default(), Arc::<Queue>::default());
        (Self { outgoing: one.clone(), incoming: other.clone() }, Self { outgoing: other, incoming: one })
    }

    pub fn split(self) -> (RingSender, RingReceiver) {
        let sender = RingSender(Self { outgoing: self.outgoing.clone(), incoming: self.incoming.clone() });
        (sender, RingReceiver(self))
    }
}

/// Closes both directions; what was sent can still be received.
impl Drop for Ring {
    fn drop(&mut self) {
        self.outgoing.close();
        self.incoming.close();
    }
}

pub(crate) struct RingSender(Ring);

impl RingSender {
    pub fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        let result = self.0.outgoing.send(frame);
        if result.is_err() {
            self.0.incoming.close();
        }
        result
    }
}

pub(crate) struct RingReceiver(Ring);

impl RingReceiver {
    pub fn receive(&mut self, buffer: &mut Vec<u8>, deadline: Option<Instant>) -> Result<bool, Closed> {
        self.0.incoming.receive(buffer, deadline)
    }
}
