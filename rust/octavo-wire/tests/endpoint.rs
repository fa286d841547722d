//! Connections: order, blocking, backlog and death, the same over the ring and over a socket.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use octavo_wire::{
    Command, Endpoint, FrameError, MAX_BACKLOG_BYTES, Receiver, RecvError, Report, SendError, Stats, encode_command,
};

/// Longer than any answer takes, shorter than a person's patience.
const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn socket_pair() -> (Endpoint, Endpoint) {
    let (one, other) = UnixStream::pair().unwrap();
    (Endpoint::from_fd(one.into_raw_fd()).unwrap(), Endpoint::from_fd(other.into_raw_fd()).unwrap())
}

fn both(test: impl Fn(Endpoint, Endpoint)) {
    let (one, other) = Endpoint::pair();
    test(one, other);
    let (one, other) = socket_pair();
    test(one, other);
}

fn abort(request: u64) -> Command {
    Command::Abort { request }
}

fn ready(bytes: usize) -> Report {
    Report::Ready { info: "i".repeat(bytes) }
}

#[test]
fn messages_arrive_in_order_both_ways() {
    both(|front, engine| {
        let (mut commands, mut reports) = front.split();
        let (mut answers, mut requests) = engine.split();
        let engine = std::thread::spawn(move || {
            while let Ok(Some(Command::Abort { request })) = requests.recv_command(LONG) {
                let stats = Stats { num_steps: request, ..Stats::default() };
                answers.send_report(&Report::Idle(Box::new(stats))).unwrap();
            }
        });
        for request in 0..5000 {
            commands.send_command(&abort(request)).unwrap();
        }
        for request in 0..5000 {
            let stats = Stats { num_steps: request, ..Stats::default() };
            assert_eq!(reports.recv_report(LONG), Ok(Some(Report::Idle(Box::new(stats)))));
        }
        drop(commands);
        engine.join().unwrap();
    });
}

#[test]
fn a_timeout_passes_and_the_connection_stays() {
    both(|front, engine| {
        let (mut commands, _reports) = front.split();
        let (_answers, mut requests) = engine.split();
        let start = Instant::now();
        assert_eq!(requests.recv_command(Some(Duration::from_millis(20))), Ok(None));
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(requests.recv_command(Some(Duration::ZERO)), Ok(None));
        commands.send_command(&Command::Drain).unwrap();
        assert_eq!(requests.recv_command(Some(Duration::ZERO)), Ok(Some(Command::Drain)));
    });
}

#[test]
fn a_waiting_receiver_wakes_when_the_peer_goes() {
    both(|front, engine| {
        let (_answers, mut requests) = engine.split();
        let (entered, has_entered) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            entered.send(()).unwrap();
            requests.recv_command(None)
        });
        has_entered.recv().unwrap();
        drop(front);
        assert_eq!(waiting.join().unwrap(), Err(RecvError::Closed));
    });
}

#[test]
fn dropping_the_own_sender_wakes_the_own_receiver() {
    both(|front, _engine| {
        let (commands, mut reports) = front.split();
        let waiting = std::thread::spawn(move || reports.recv_report(None));
        drop(commands);
        assert_eq!(waiting.join().unwrap(), Err(RecvError::Closed));
    });
}

#[test]
fn what_was_sent_before_the_end_still_arrives() {
    both(|front, engine| {
        let (mut answers, requests) = engine.split();
        // A command that the engine never reads must not destroy what it has sent.
        let (mut commands, mut reports) = front.split();
        commands.send_command(&abort(1)).unwrap();
        answers.send_report(&ready(10)).unwrap();
        answers.send_report(&ready(20)).unwrap();
        drop((answers, requests));
        assert_eq!(reports.recv_report(LONG), Ok(Some(ready(10))));
        assert_eq!(reports.recv_report(LONG), Ok(Some(ready(20))));
        assert_eq!(reports.recv_report(LONG), Err(RecvError::Closed));
        assert_eq!(reports.recv_report(None), Err(RecvError::Closed));
        assert_eq!(commands.send_command(&abort(1)), Err(SendError::Closed));
    });
}

#[test]
fn a_peer_that_does_not_read_never_blocks_the_sender() {
    both(|front, engine| {
        let (mut answers, _requests) = engine.split();
        // Far more than a socket buffers.
        for _ in 0..64 {
            answers.send_report(&ready(1 << 20)).unwrap();
        }
        let (_commands, mut reports) = front.split();
        let reader = std::thread::spawn(move || {
            for _ in 0..64 {
                assert_eq!(reports.recv_report(LONG), Ok(Some(ready(1 << 20))));
            }
            reports.recv_report(LONG)
        });
        // Waits until the backlog is read, then ends the connection.
        drop(answers);
        assert_eq!(reader.join().unwrap(), Err(RecvError::Closed));
    });
}

#[test]
fn two_sides_that_send_much_at_once_do_not_deadlock() {
    both(|front, engine| {
        let side = |endpoint: Endpoint| {
            std::thread::spawn(move || {
                let (mut sender, mut receiver) = endpoint.split();
                for _ in 0..32 {
                    sender.send_report(&ready(1 << 20)).unwrap();
                }
                for _ in 0..32 {
                    assert_eq!(receiver.recv_report(LONG), Ok(Some(ready(1 << 20))));
                }
                (sender, receiver)
            })
        };
        let (front, engine) = (side(front), side(engine));
        drop((front.join().unwrap(), engine.join().unwrap()));
    });
}

#[test]
fn a_backlog_over_the_limit_counts_as_death() {
    both(|front, engine| {
        let (mut answers, mut requests) = engine.split();
        let frame_bytes = 64 << 20;
        let mut sent = 0;
        while answers.send_report(&ready(frame_bytes)).is_ok() {
            sent += frame_bytes;
            assert!(sent < 2 * MAX_BACKLOG_BYTES);
        }
        assert!(sent > MAX_BACKLOG_BYTES / 2);
        assert_eq!(requests.recv_command(None), Err(RecvError::Closed));
        drop(front);
    });
}

#[test]
fn a_message_over_the_limit_is_refused_and_the_connection_stays() {
    both(|front, engine| {
        let (mut answers, _requests) = engine.split();
        let (_commands, mut reports) = front.split();
        let error = answers.send_report(&ready(octavo_wire::MAX_FRAME_BYTES)).unwrap_err();
        assert!(matches!(error, SendError::Frame(FrameError::TooLong(_))));
        answers.send_report(&ready(1)).unwrap();
        assert_eq!(reports.recv_report(LONG), Ok(Some(ready(1))));
    });
}

fn raw_peer() -> (UnixStream, Receiver, octavo_wire::Sender) {
    let (peer, own) = UnixStream::pair().unwrap();
    let (sender, receiver) = Endpoint::from_fd(own.into_raw_fd()).unwrap().split();
    (peer, receiver, sender)
}

#[test]
fn a_frame_in_single_bytes_is_put_together() {
    let (mut peer, mut receiver, _sender) = raw_peer();
    let mut frames = Vec::new();
    encode_command(&abort(7), &mut frames).unwrap();
    encode_command(&abort(8), &mut frames).unwrap();
    for byte in frames {
        assert_eq!(receiver.recv_command(Some(Duration::ZERO)).unwrap_or(None), None);
        peer.write_all(&[byte]).unwrap();
        if let Ok(Some(command)) = receiver.recv_command(Some(Duration::ZERO)) {
            assert!(command == abort(7) || command == abort(8));
        }
    }
}

#[test]
fn garbage_ends_the_connection_with_an_error_and_a_bad_payload_is_skipped() {
    let (mut peer, mut receiver, _sender) = raw_peer();
    let mut frame = Vec::new();
    encode_command(&Command::Stop { request: 1, choice: 2 }, &mut frame).unwrap();
    frame[6] = 77;
    encode_command(&abort(7), &mut frame).unwrap();
    frame.extend(b"GET / HTTP/1.1\r\n");
    peer.write_all(&frame).unwrap();
    assert_eq!(receiver.recv_command(LONG), Err(RecvError::Frame(FrameError::Kind(77))));
    assert_eq!(receiver.recv_command(LONG), Ok(Some(abort(7))));
    assert_eq!(receiver.recv_command(LONG), Err(RecvError::Frame(FrameError::Magic)));
    assert_eq!(receiver.recv_command(LONG), Err(RecvError::Closed));
}

#[test]
fn a_peer_that_dies_in_the_middle_of_a_frame_is_closed() {
    let (mut peer, mut receiver, mut sender) = raw_peer();
    let mut frame = Vec::new();
    encode_command(&abort(7), &mut frame).unwrap();
    peer.write_all(&frame[..frame.len() - 1]).unwrap();
    drop(peer);
    assert_eq!(receiver.recv_command(LONG), Err(RecvError::Closed));
    assert_eq!(sender.send_command(&abort(1)), Err(SendError::Closed));
}

#[test]
fn bytes_arrive_unchanged_through_a_full_socket() {
    let (mut peer, _receiver, mut sender) = raw_peer();
    let mut expected = Vec::new();
    for request in 0..200_000 {
        encode_command(&abort(request), &mut expected).unwrap();
        sender.send_command(&abort(request)).unwrap();
    }
    let mut received = vec![0; expected.len()];
    peer.read_exact(&mut received).unwrap();
    assert!(received == expected);
}

#[test]
fn only_a_connected_unix_stream_is_taken() {
    assert!(Endpoint::from_fd(-1).is_err());
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Endpoint::from_fd(file.as_raw_fd()).is_err());
    let (datagram, _other) = UnixDatagram::pair().unwrap();
    assert!(Endpoint::from_fd(datagram.as_raw_fd()).is_err());
    let path = std::env::temp_dir().join(format!("octavo-wire-test-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(Endpoint::from_fd(listener.as_raw_fd()).is_err());
    // All of them are still open, and closed here by their owners.
    assert!(file.metadata().is_ok() && datagram.local_addr().is_ok() && listener.local_addr().is_ok());
}
