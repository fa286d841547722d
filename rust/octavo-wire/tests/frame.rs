//! Frames: every message comes back as it went, and no other bytes do harm.

use octavo_wire::{
    BeamStop, Beams, ChoiceOutput, Command, FailReason, Finish, FinishReason, FrameError, HEADER_BYTES,
    MAX_FRAME_BYTES, Message, PooledOutput, Pooling, PoolingTask, Report, Sampling, Stats, StepOutput, Structure,
    StructureKind, Submission, Timings, TokenLogprobs, decode, encode_command, encode_report, frame_length,
};
use proptest::prelude::*;

fn encode(message: &Message) -> Vec<u8> {
    let mut frame = Vec::new();
    match message {
        Message::Command(command) => encode_command(command, &mut frame),
        Message::Report(report) => encode_report(report, &mut frame),
    }
    .unwrap();
    frame
}

prop_compose! {
    fn structure()(
        kind in prop_oneof![Just(StructureKind::JsonSchema), Just(StructureKind::Regex), Just(StructureKind::Lark)],
        text in ".{0,40}",
    ) -> Structure {
        Structure { kind, text }
    }
}

prop_compose! {
    fn beams()(
        width: u32,
        length_penalty in -10f64..10.0,
        stop in prop_oneof![Just(BeamStop::Exact), Just(BeamStop::Likely), Just(BeamStop::Enough)],
    ) -> Beams {
        Beams { width, length_penalty, stop }
    }
}

prop_compose! {
    fn sampling()(
        (n, top_k, max_tokens, min_tokens) in any::<(u32, u32, u32, u32)>(),
        floats in prop::array::uniform6(-1e6f32..1e6),
        (seed, ignore_eos, logprobs, prompt_logprobs) in any::<(Option<u64>, bool, Option<u32>, Option<u32>)>(),
        logprob_token_ids in prop::collection::vec(any::<u32>(), 0..5),
        stop_token_ids in prop::collection::vec(any::<u32>(), 0..5),
        allowed_token_ids in prop::collection::vec(any::<u32>(), 0..5),
        bad_words in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..4), 0..5),
        logit_bias in prop::collection::vec((any::<u32>(), -100f32..100.0), 0..5),
        structure in prop::option::of(structure()),
        reasoning_end in prop::collection::vec(any::<u32>(), 0..5),
        thinking_token_budget: Option<u32>,
        beams in prop::option::of(beams()),
        is_processed: bool,
    ) -> Sampling {
        let [temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty] = floats;
        Sampling {
            n, temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty, repetition_penalty, seed,
            max_tokens, min_tokens, ignore_eos, stop_token_ids, allowed_token_ids, bad_words, logit_bias, logprobs,
            structure, reasoning_end, thinking_token_budget,
            beams, is_processed,
            logprob_token_ids, prompt_logprobs,
        }
    }
}

prop_compose! {
    fn pooling()(
        task in prop::sample::select(&PoolingTask::ALL),
        (dimensions, normalize, num_first) in any::<(Option<u32>, Option<bool>, u32)>(),
    ) -> Pooling {
        Pooling { task, dimensions, normalize, num_first }
    }
}

prop_compose! {
    fn pooled()(
        (request, num_cached_tokens) in any::<(u64, u32)>(),
        shape in prop::collection::vec(any::<u32>(), 0..3),
        data in prop::collection::vec(-1e6f32..1e6, 0..50),
    ) -> PooledOutput {
        PooledOutput { request, shape, data, num_cached_tokens }
    }
}

fn command() -> impl Strategy<Value = Command> {
    let submission = (
        (any::<u64>(), any::<i32>(), 0f64..1e9, ".{0,20}"),
        prop::collection::vec(any::<u32>(), 0..300),
        sampling(),
        prop::option::of(pooling()),
    )
        .prop_map(|((request, priority, arrival, cache_salt), prompt, sampling, pooling)| {
            let submission = Submission { request, prompt, sampling, pooling, priority, arrival, cache_salt };
            Command::Submit(Box::new(submission))
        });
    prop_oneof![
        4 => submission,
        1 => any::<u64>().prop_map(|request| Command::Abort { request }),
        1 => any::<(u64, u32)>().prop_map(|(request, choice)| Command::Stop { request, choice }),
        1 => Just(Command::ResetPrefixCache),
        1 => Just(Command::Drain),
    ]
}

prop_compose! {
    fn stats()(
        time in 0f64..1e9,
        small in prop::array::uniform6(any::<u32>()),
        large in prop::array::uniform7(any::<u64>()),
    ) -> Stats {
        let [num_running, num_waiting, num_blocks, num_used_blocks, num_wasted_slots, step_tokens] = small;
        let [prefix_queries, prefix_hits, prompt_tokens, generation_tokens, num_preemptions, num_rejected, num_steps] =
            large;
        Stats {
            time, num_running, num_waiting, num_blocks, num_used_blocks, num_wasted_slots, prefix_queries, prefix_hits,
            prompt_tokens, generation_tokens, num_preemptions, num_rejected, num_steps, step_tokens,
        }
    }
}

prop_compose! {
    fn finish()(
        reason in prop_oneof![
            Just(FinishReason::EndOfSequence),
            any::<u32>().prop_map(FinishReason::StopToken),
            Just(FinishReason::Length),
            Just(FinishReason::Abort),
        ],
        times in prop::array::uniform4(0f64..1e9),
        num_preemptions: u32,
    ) -> Finish {
        let [arrival, scheduled, first_token, last_token] = times;
        Finish { reason, timings: Timings { arrival, scheduled, first_token, last_token, num_preemptions } }
    }
}

prop_compose! {
    fn output()(
        request: u64,
        choice in prop_oneof![Just(0), any::<u32>()],
        tokens in prop_oneof![any::<u32>().prop_map(|token| vec![token]), prop::collection::vec(any::<u32>(), 0..4)],
        num_cached_tokens in prop_oneof![Just(0), any::<u32>()],
        scheduled in prop_oneof![Just(0.0), 0.0..1e9],
        logprobs in prop::collection::vec((-50f32..0.0, any::<u32>(), prop::collection::vec((any::<u32>(), -50f32..0.0), 0..4)), 0..3),
        num_prompt in 0_usize..3,
        finish in prop::option::of(finish()),
    ) -> ChoiceOutput {
        let mut logprobs: Vec<_> =
            logprobs.into_iter().map(|(logprob, rank, top)| TokenLogprobs { logprob, rank, top }).collect();
        let prompt_logprobs = logprobs.split_off(logprobs.len().saturating_sub(num_prompt));
        ChoiceOutput { request, choice, tokens, logprobs, prompt_logprobs, num_cached_tokens, scheduled, finish }
    }
}

fn report() -> impl Strategy<Value = Report> {
    let reason = prop_oneof![
        Just(FailReason::QueueFull),
        Just(FailReason::Draining),
        Just(FailReason::Invalid),
        Just(FailReason::Internal),
    ];
    prop_oneof![
        1 => ".{0,40}".prop_map(|info| Report::Ready { info }),
        6 => (prop::collection::vec(output(), 0..20), stats())
            .prop_map(|(outputs, stats)| Report::Step(Box::new(StepOutput { outputs, stats }))),
        1 => (any::<u64>(), reason, prop::option::of("[a-z_]{1,20}"), ".{0,40}")
            .prop_map(|(request, reason, param, message)| Report::Failed { request, reason, param, message }),
        1 => pooled().prop_map(|output| Report::Pooled(Box::new(output))),
        1 => stats().prop_map(|stats| Report::Idle(Box::new(stats))),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![command().prop_map(Message::Command), report().prop_map(Message::Report)]
}

proptest! {
    #[test]
    fn a_message_comes_back_as_it_went(message in message()) {
        let frame = encode(&message);
        prop_assert_eq!(frame_length(&frame), Ok(Some(frame.len())));
        prop_assert_eq!(decode(&frame), Ok(message));
    }

    #[test]
    fn every_shortened_frame_is_an_error(message in message(), cut in any::<prop::sample::Index>()) {
        let frame = encode(&message);
        let length = cut.index(frame.len());
        prop_assert!(decode(&frame[..length]).is_err());
        if length >= HEADER_BYTES {
            // The same with a header that tells the shorter length: the payload itself ends early.
            let mut frame = frame[..length].to_vec();
            frame[8..12].copy_from_slice(&((length - HEADER_BYTES) as u32).to_le_bytes());
            prop_assert!(decode(&frame).is_err());
        }
    }

    #[test]
    fn changed_bytes_are_an_error_or_another_message(
        message in message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut frame = encode(&message);
        for (index, byte) in changes {
            let index = index.index(frame.len());
            frame[index] = byte;
        }
        if let Ok(message) = decode(&frame) {
            // Compared as bytes, since NaN is unlike itself.
            let again = encode(&message);
            prop_assert_eq!(encode(&decode(&again).unwrap()), again);
        }
    }

    #[test]
    fn noise_is_an_error(payload in prop::collection::vec(any::<u8>(), 0..400), kind in 0u16..8, high: bool) {
        prop_assume!(payload.get(..4) != Some(b"OCTV"));
        prop_assert!(decode(&payload).is_err());
        let mut frame = encode(&Message::Command(Command::Drain));
        frame[6..8].copy_from_slice(&(kind + if high { 0x100 } else { 0 }).to_le_bytes());
        frame[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        frame.extend(payload);
        let _either = decode(&frame);
    }
}

#[test]
fn headers_are_checked_before_the_payload_has_come() {
    let frame = encode(&Message::Command(Command::Drain));
    assert_eq!(frame_length(&frame[..HEADER_BYTES - 1]), Ok(None));
    assert_eq!(frame_length(b"\x80\x04pickle"), Err(FrameError::Magic));
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = frame.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame_length(&frame)
    };
    assert_eq!(with(4, &[9, 0]), Err(FrameError::Version(9)));
    assert_eq!(with(8, &[0xff; 4]), Err(FrameError::TooLong(u32::MAX as usize)));
    let mut surplus = frame.clone();
    surplus.push(0);
    assert_eq!(decode(&surplus), Err(FrameError::Surplus));
    let mut unknown = frame.clone();
    unknown[6] = 99;
    assert_eq!(decode(&unknown), Err(FrameError::Kind(99)));
}

#[test]
fn a_count_is_not_believed_beyond_the_payload() {
    let mut frame = encode(&Message::Report(Report::Step(Box::default())));
    let at = frame.len() - 4;
    frame[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode(&frame), Err(FrameError::Truncated));
}

#[test]
fn a_message_over_the_limit_is_refused_and_leaves_the_buffer() {
    let mut buffer = b"before".to_vec();
    let report = Report::Ready { info: "x".repeat(MAX_FRAME_BYTES) };
    assert_eq!(encode_report(&report, &mut buffer), Err(FrameError::TooLong(MAX_FRAME_BYTES + 4)));
    assert_eq!(buffer, b"before");
}

#[test]
fn the_usual_row_takes_13_bytes() {
    let output = |request| ChoiceOutput {
        request,
        choice: 0,
        tokens: vec![7],
        logprobs: vec![],
        prompt_logprobs: vec![],
        num_cached_tokens: 0,
        scheduled: 0.0,
        finish: None,
    };
    let step = |count| StepOutput { outputs: (0..count).map(output).collect(), stats: Stats::default() };
    let length = |count| encode(&Message::Report(Report::Step(Box::new(step(count))))).len();
    assert_eq!(length(256) - length(0), 256 * 13);
}
