//! Frames over a connected Unix stream socket.
//!
//! `send` never waits: what the socket does not take at once goes to a backlog, which a thread of its own (started the
//! first time it is needed) writes as the peer reads. Every call passes MSG_DONTWAIT and MSG_NOSIGNAL, so neither the
//! socket's own flags nor SIGPIPE matter, and a dead peer is an end of file or EPIPE.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::endpoint::{MAX_BACKLOG_BYTES, SendError};

/// How long a dropped sender waits for its backlog to be read.
const LINGER: Duration = Duration::from_secs(1);
/// Room that each read offers; also the least growth of the receiver's buffer.
const READ_BYTES: usize = 64 << 10;

/// Takes over `fd` after it proved to be a connected Unix stream socket; otherwise it stays the caller's.
pub(crate) fn adopt(fd: RawFd) -> io::Result<Socket> {
    let option = |name| -> io::Result<libc::c_int> {
        let mut value: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `value` and `length` outlive the call and describe each other.
        let rc = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &mut length) };
        if rc == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
    };
    if option(libc::SO_DOMAIN)? != libc::AF_UNIX || option(libc::SO_TYPE)? != libc::SOCK_STREAM {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a Unix stream socket"));
    }
    // SAFETY: sockaddr_un is plain data, for which zero bytes are a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` and `length` outlive the call and describe each other.
    if unsafe { libc::getpeername(fd, (&raw mut address).cast(), &mut length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open, as the calls above showed; FD_CLOEXEC takes no pointer.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is an open socket, and the caller hands it over.
    Ok(Socket(unsafe { OwnedFd::from_raw_fd(fd) }))
}

pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub fn split(self) -> (SocketSender, SocketReceiver) {
        let socket = Arc::new(self);
        let outbox = Outbox { socket: socket.clone(), state: Mutex::default(), changed: Condvar::new() };
        (SocketSender(Arc::new(outbox)), SocketReceiver(socket))
    }

    /// Sends what the socket takes now; returns how much that was.
    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            let rest = &bytes[sent..];
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: `rest` is readable for its length.
            let count = unsafe { libc::send(self.0.as_raw_fd(), rest.as_ptr().cast(), rest.len(), flags) };
            if count >= 0 {
                sent += count as usize;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => break,
                _ => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Appends what can be read now. WouldBlock when there is nothing; Ok(0) at the end of the stream.
    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        buffer.reserve(READ_BYTES);
        loop {
            let room = buffer.spare_capacity_mut();
            let (start, length) = (room.as_mut_ptr(), room.len());
            // SAFETY: the spare room is writable for its length.
            let count = unsafe { libc::recv(self.0.as_raw_fd(), start.cast(), length, libc::MSG_DONTWAIT) };
            if count >= 0 {
                // SAFETY: the call has initialised `count` bytes of the spare room.
                unsafe { buffer.set_len(buffer.len() + count as usize) };
                return Ok(count as usize);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Blocks until the socket is ready for `events` or has ended; false when the deadline passed first.
    fn wait(&self, events: libc::c_short, deadline: Option<Instant>) -> io::Result<bool> {
        loop {
            let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events, revents: 0 };
            let milliseconds = match deadline {
                None => -1,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    libc::c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX)
                }
            };
            // SAFETY: `poll` is one pollfd and outlives the call.
            match unsafe { libc::poll(&mut poll, 1, milliseconds) } {
                0 if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Ok(false),
                0 => {}
                count if count > 0 => return Ok(true),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Ends both directions, which wakes every thread that waits on this socket. The peer still reads what was sent.
    fn shut(&self) {
        // SAFETY: no pointer is passed; a second call or a dead peer is only an error code.
        unsafe { libc::shutdown(self.0.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

/// What the sender and its writer thread share.
struct Outbox {
    socket: Arc<Socket>,
    state: Mutex<Backlog>,
    changed: Condvar,
}

#[derive(Default)]
struct Backlog {
    bytes: VecDeque<u8>,
    closed: bool,
    has_writer: bool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, backlog: &mut Backlog) {
        backlog.closed = true;
        backlog.bytes = VecDeque::new();
        self.socket.shut();
        self.changed.notify_all();
    }

    /// The writer thread: sleeps while the backlog is empty, ends with the connection.
    fn write_backlog(&self) {
        let mut backlog = self.lock();
        while !backlog.closed {
            if backlog.bytes.is_empty() {
                backlog = self.changed.wait(backlog).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(backlog);
            let waited = self.socket.wait(libc::POLLOUT, None);
            backlog = self.lock();
            let sent = waited.and_then(|_| self.socket.send(backlog.bytes.as_slices().0));
            match sent {
                Ok(count) => {
                    backlog.bytes.drain(..count);
                    if backlog.bytes.is_empty() {
                        backlog.bytes.shrink_to(READ_BYTES);
                        self.changed.notify_all();
                    }
                }
                Err(_) => self.close(&mut backlog),
            }
        }
    }
}

pub(crate) struct SocketSender(Arc<Outbox>);

impl SocketSender {
    pub fn send(&mut self, frame: &[u8]) -> Result<(), SendError> {
        let mut backlog = self.0.lock();
        if backlog.closed {
            return Err(SendError::Closed);
        }
        let mut rest = frame;
        if backlog.bytes.is_empty() {
            match self.0.socket.send(frame) {
                Ok(sent) => rest = &frame[sent..],
                Err(_) => {
                    self.0.close(&mut backlog);
                    return Err(SendError::Closed);
                }
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        if !backlog.bytes.is_empty() && backlog.bytes.len() + rest.len() > MAX_BACKLOG_BYTES {
            self.0.close(&mut backlog);
            return Err(SendError::Closed);
        }
        backlog.bytes.extend(rest);
        if !backlog.has_writer {
            let outbox = self.0.clone();
            let writer = std::thread::Builder::new().name("octavo-writer".into());
            if writer.spawn(move || outbox.write_backlog()).is_err() {
                self.0.close(&mut backlog);
                return Err(SendError::Closed);
            }
            backlog.has_writer = true;
        }
        drop(backlog);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl Drop for SocketSender {
    fn drop(&mut self) {
        let deadline = Instant::now() + LINGER;
        let mut backlog = self.0.lock();
        while !backlog.bytes.is_empty() && !backlog.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            backlog = self.0.changed.wait_timeout(backlog, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.0.close(&mut backlog);
    }
}

pub(crate) struct SocketReceiver(Arc<Socket>);

impl SocketReceiver {
    /// Appends bytes to `buffer`. Ok(false): the deadline passed. Err: the peer is gone, and all is read.
    pub fn receive(&mut self, buffer: &mut Vec<u8>, deadline: Option<Instant>) -> io::Result<bool> {
        loop {
            match self.0.receive(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.0.wait(libc::POLLIN, deadline)? {
                        return Ok(false);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for SocketReceiver {
    fn drop(&mut self) {
        self.0.shut();
    }
}
