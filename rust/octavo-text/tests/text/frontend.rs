//! The front end against the other end of its connection, where the tests speak for the engine.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::tokenizers::{END, byte_level, cross_encoder};
use octavo_text::{
    Delta, EndReason, Event, Failed, FailedReason, Frontend, Limits, Pooled, Prompt, Request, Sampling,
    SamplingOptions, Side, StopReason, Tokenizer,
};
use octavo_wire::{
    ChoiceOutput, Command, Endpoint, FailReason, Finish, FinishReason, PooledOutput, Pooling, PoolingTask, Receiver,
    RecvError, Report, Sender, Stats, StepOutput, Submission, Timings, TokenLogprobs,
};

const LONG: Duration = Duration::from_secs(20);
const LIMITS: Limits = Limits { max_model_len: 50, vocab_size: 300 };

/// The engine's end.
pub(crate) struct Engine {
    sender: Sender,
    receiver: Receiver,
}

impl Engine {
    pub fn next(&mut self) -> Command {
        self.receiver.recv_command(Some(LONG)).expect("the front end is there").expect("a command comes")
    }

    pub fn submission(&mut self) -> Submission {
        match self.next() {
            Command::Submit(submission) => *submission,
            command => panic!("a submission was due, not {command:?}"),
        }
    }

    fn send(&mut self, report: &Report) {
        self.sender.send_report(report).expect("the front end is there");
    }

    pub fn step(&mut self, time: f64, outputs: Vec<ChoiceOutput>) {
        let stats = Stats { time, ..Stats::default() };
        self.send(&Report::Step(Box::new(StepOutput { outputs, stats })));
    }
}

pub(crate) fn output(request: u64, choice: u32, tokens: &[u32], finish: Option<FinishReason>) -> ChoiceOutput {
    let finish = finish.map(|reason| Finish { reason, timings: TIMINGS });
    ChoiceOutput {
        request,
        choice,
        tokens: tokens.to_vec(),
        logprobs: vec![],
        prompt_logprobs: vec![],
        num_cached_tokens: 0,
        scheduled: 2.0,
        finish,
    }
}

const TIMINGS: Timings =
    Timings { arrival: 1.0, scheduled: 2.0, first_token: 3.0, last_token: 4.0, num_preemptions: 5 };

fn start_with(tokenizer: Option<Arc<Tokenizer>>) -> (Frontend, Engine) {
    let (front, engine) = Endpoint::pair();
    let (sender, receiver) = engine.split();
    (Frontend::new(front, tokenizer, LIMITS, 2).unwrap(), Engine { sender, receiver })
}

pub(crate) fn start() -> (Frontend, Engine) {
    start_with(Some(byte_level()))
}

pub(crate) fn sampling(change: impl FnOnce(&mut SamplingOptions)) -> Arc<Sampling> {
    let mut options = SamplingOptions::default();
    change(&mut options);
    Arc::new(Sampling::new(options).unwrap())
}

pub(crate) fn text(prompt: &str, change: impl FnOnce(&mut SamplingOptions)) -> Request {
    Request::new(Prompt::Text(prompt.into()), sampling(change))
}

pub(crate) fn ids(prompt: &[u32]) -> Request {
    Request::new(Prompt::Ids(prompt.to_vec()), sampling(|_| {}))
}

/// The next `count` events.
pub(crate) fn events(frontend: &Frontend, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        assert!(frontend.wait(LONG), "{count} events are due, only these came: {events:?}");
        events.extend(frontend.drain());
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

pub(crate) fn accepted(frontend: &Frontend) -> Vec<u32> {
    match events(frontend, 1).pop() {
        Some(Event::Accepted(accepted)) => accepted.prompt_token_ids,
        event => panic!("{event:?}"),
    }
}

pub(crate) fn delta(frontend: &Frontend) -> Delta {
    match events(frontend, 1).pop() {
        Some(Event::Delta(delta)) => delta,
        event => panic!("{event:?}"),
    }
}

pub(crate) fn failed(frontend: &Frontend) -> Failed {
    match events(frontend, 1).pop() {
        Some(Event::Failed(failed)) => failed,
        event => panic!("{event:?}"),
    }
}

#[test]
fn a_text_becomes_tokens_and_its_answer_becomes_text() {
    let (frontend, mut engine) = start();
    let tokenizer = byte_level();
    let request = frontend.submit(Request { priority: 3, cache_salt: "s".into(), ..text("hello world", |_| {}) });
    let prompt = tokenizer.encode("hello world", true).unwrap();
    assert_eq!(accepted(&frontend), prompt);
    let submission = engine.submission();
    assert_eq!((submission.request, &submission.prompt), (request, &prompt));
    assert_eq!((submission.priority, submission.cache_salt.as_str()), (3, "s"));
    assert_eq!(submission.sampling.max_tokens as usize, LIMITS.max_model_len - prompt.len());
    assert!(submission.arrival > 0.0 && submission.arrival <= octavo_wire::monotonic());

    engine.step(7.0, vec![output(request, 0, &[b'h'.into(), 0xc3], None)]);
    let first = delta(&frontend);
    assert_eq!((first.text.as_str(), first.token_ids.as_slice()), ("h", [104, 0xc3].as_slice()));
    assert_eq!((first.finish_reason, first.timings, first.logprobs), (None, None, None));
    assert_eq!(frontend.stats().unwrap().time, 7.0);

    let end = tokenizer.token_id(END).unwrap();
    engine.step(8.0, vec![output(request, 0, &[0xa9, end], Some(FinishReason::EndOfSequence))]);
    let last = delta(&frontend);
    assert_eq!((last.text.as_str(), last.token_ids.as_slice()), ("é", [0xa9, end].as_slice()));
    assert_eq!((last.finish_reason, last.stop_reason), (Some(EndReason::Stop), None));
    assert_eq!(last.timings, Some(TIMINGS));
    assert_eq!(frontend.num_open(), 0);
}

#[test]
fn an_incomplete_end_is_shown_and_a_stop_token_is_not() {
    let (frontend, mut engine) = start();
    let cut = frontend.submit(text("a", |_| {}));
    accepted(&frontend);
    engine.step(1.0, vec![output(cut, 0, &[0xf0, 0x9f], Some(FinishReason::Length))]);
    let last = delta(&frontend);
    assert_eq!((last.text.as_str(), last.finish_reason), ("\u{fffd}", Some(EndReason::Length)));

    for (include, shown) in [(false, "x"), (true, "xy")] {
        let request = frontend.submit(text("a", |o| o.include_stop_str_in_output = include));
        accepted(&frontend);
        engine.step(1.0, vec![output(request, 0, &[120, 121], Some(FinishReason::StopToken(121)))]);
        let last = delta(&frontend);
        assert_eq!((last.text.as_str(), last.token_ids.len()), (shown, 2));
        assert_eq!(last.stop_reason, Some(StopReason::Token(121)));
    }
}

#[test]
fn requests_that_cannot_run_fail_with_their_parameter() {
    let (frontend, _engine) = start();
    let refuse = |request: Request| {
        let id = frontend.submit(request);
        let failed = failed(&frontend);
        assert_eq!((failed.request, failed.reason), (id, FailedReason::Invalid));
        (failed.param.unwrap(), failed.message)
    };
    assert_eq!(refuse(text("", |_| {})).0, "prompt");
    assert_eq!(refuse(ids(&[])), ("prompt".into(), "The prompt is empty: it needs at least one token.".into()));
    assert_eq!(
        refuse(ids(&[1, 300])),
        ("prompt".into(), "prompt: token id 300 is out of range, the model has 300.".into())
    );
    let (param, message) = refuse(ids(&[1; 50]));
    assert_eq!(param, "prompt");
    assert!(
        message.starts_with("This model's maximum context length is 50 tokens. However, your prompt has 50 tokens")
    );
    assert_eq!(refuse(text(&"a b".repeat(40), |_| {})).0, "prompt");
    let (param, message) = refuse(Request::new(Prompt::Ids(vec![1; 20]), sampling(|o| o.max_tokens = Some(31))));
    assert_eq!(param, "max_tokens");
    assert!(message.contains("you requested 51 tokens (20 in the prompt, 31 in the completion)"), "{message}");
    assert_eq!(refuse(text("a", |o| o.stop_token_ids = vec![300])).0, "stop_token_ids");
    assert_eq!(refuse(text("a", |o| o.logit_bias = vec![(300, 1.0)])).0, "logit_bias");
    assert_eq!(refuse(Request { cache_salt: "s".repeat(1025), ..ids(&[1]) }).0, "cache_salt");
    assert_eq!(frontend.num_open(), 0);
}

#[test]
fn a_text_that_cannot_fit_is_refused_without_tokenizing_it() {
    let (frontend, _engine) = start();
    let huge = "a".repeat(64 << 20);
    let start = Instant::now();
    frontend.submit(text(&huge, |_| {}));
    let failed = failed(&frontend);
    assert_eq!((failed.reason, failed.param.as_deref()), (FailedReason::Invalid, Some("prompt")));
    assert!(failed.message.contains("67108864 bytes"), "{}", failed.message);
    // Tokenizing takes this long for a fraction of it.
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn max_tokens_is_cut_to_the_context_if_asked() {
    let (frontend, mut engine) = start();
    let wanted = sampling(|o| (o.max_tokens, o.min_tokens) = (Some(1000), 100));
    frontend.submit(Request { clamp_max_tokens: true, ..Request::new(Prompt::Ids(vec![1; 20]), wanted) });
    let submission = engine.submission();
    assert_eq!((submission.sampling.max_tokens, submission.sampling.min_tokens), (30, 30));
    // All of the rest is no error.
    frontend.submit(Request::new(Prompt::Ids(vec![1; 20]), sampling(|o| o.max_tokens = Some(30))));
    assert_eq!(engine.submission().sampling.max_tokens, 30);
}

#[test]
fn a_stop_string_ends_a_choice_here_and_in_the_engine() {
    for (include, shown) in [(false, "ab"), (true, "ab\nU:")] {
        let (frontend, mut engine) = start();
        let request = frontend.submit(text("a", |o| {
            (o.stop, o.include_stop_str_in_output, o.n) = (vec!["zz".into(), "\nU:".into()], include, 2);
        }));
        accepted(&frontend);
        engine.submission();
        engine.step(5.0, vec![output(request, 1, b"ab\nU".map(u32::from).as_slice(), None)]);
        let first = delta(&frontend);
        assert_eq!((first.text.as_str(), first.finish_reason), ("ab", None));
        engine.step(6.0, vec![output(request, 1, b":xyz".map(u32::from).as_slice(), None)]);
        let last = delta(&frontend);
        assert_eq!(format!("{}{}", first.text, last.text), shown);
        assert_eq!((last.finish_reason, last.token_ids.len()), (Some(EndReason::Stop), 4));
        assert_eq!(last.stop_reason, Some(StopReason::Text("\nU:".into())));
        let timings = last.timings.unwrap();
        assert_eq!((timings.scheduled, timings.first_token, timings.last_token), (2.0, 5.0, 6.0));
        assert_eq!(engine.next(), Command::Stop { request, choice: 1 });

        // What the engine had under way for it is not heard, and the other choice goes on.
        engine.step(7.0, vec![output(request, 1, &[97], Some(FinishReason::Abort)), output(request, 0, &[98], None)]);
        assert_eq!((delta(&frontend).index, frontend.num_open()), (0, 1));
        engine.step(8.0, vec![output(request, 0, b"\nU".map(u32::from).as_slice(), Some(FinishReason::Length))]);
        let last = delta(&frontend);
        assert_eq!((last.text.as_str(), last.finish_reason), ("\nU", Some(EndReason::Length)));
        assert_eq!(frontend.num_open(), 0);
    }
}

#[test]
fn stop_strings_do_not_count_before_min_tokens() {
    let (frontend, mut engine) = start();
    let request = frontend.submit(text("a", |o| (o.stop, o.min_tokens) = (vec!["x".into()], 3)));
    accepted(&frontend);
    engine.step(1.0, vec![output(request, 0, b"axbcxd".map(u32::from).as_slice(), None)]);
    let last = delta(&frontend);
    assert_eq!((last.text.as_str(), last.finish_reason), ("axbc", Some(EndReason::Stop)));
}

#[test]
fn token_ids_alone_need_no_tokenizer() {
    let (frontend, mut engine) = start_with(None);
    frontend.submit(text("hello", |_| {}));
    assert_eq!(failed(&frontend).message, "The prompt must be token ids: there is no tokenizer.");
    frontend.submit(Request::new(Prompt::Ids(vec![1]), sampling(|o| o.stop = vec!["x".into()])));
    assert_eq!(failed(&frontend).param.as_deref(), Some("stop"));
    let request = frontend.submit(Request::new(Prompt::Ids(vec![1, 2]), sampling(|o| o.logprobs = Some(1))));
    assert_eq!(accepted(&frontend), [1, 2]);
    let logprobs = vec![TokenLogprobs { logprob: -0.5, rank: 1, top: vec![(9, -0.5)] }];
    let output = ChoiceOutput {
        logprobs: logprobs.clone(),
        num_cached_tokens: 16,
        ..output(request, 0, &[9], Some(FinishReason::Length))
    };
    engine.step(1.0, vec![output]);
    let last = delta(&frontend);
    assert_eq!((last.text.as_str(), last.token_ids.as_slice()), ("", [9].as_slice()));
    assert_eq!((last.logprobs, last.num_cached_tokens), (Some(logprobs), 16));
}

#[test]
fn an_aborted_request_ends_with_its_choices() {
    let (frontend, mut engine) = start();
    let request = frontend.submit(text("a", |o| o.n = 2));
    accepted(&frontend);
    engine.submission();
    frontend.abort(request);
    frontend.abort(999);
    assert_eq!(engine.next(), Command::Abort { request });
    let end = Some(FinishReason::Abort);
    engine.step(1.0, vec![output(request, 0, &[], end), output(request, 1, &[], end)]);
    for event in events(&frontend, 2) {
        assert!(matches!(event, Event::Delta(Delta { finish_reason: Some(EndReason::Abort), .. })));
    }
    frontend.abort(request);
    frontend.reset_prefix_cache();
    assert_eq!(engine.next(), Command::ResetPrefixCache);
    frontend.drain_engine();
    assert_eq!(engine.next(), Command::Drain);
}

#[test]
fn the_engines_refusals_are_passed_on() {
    let (frontend, mut engine) = start();
    for (reason, expected) in [
        (FailReason::QueueFull, FailedReason::QueueFull),
        (FailReason::Draining, FailedReason::Draining),
        (FailReason::Invalid, FailedReason::Invalid),
        (FailReason::Internal, FailedReason::Internal),
    ] {
        let request = frontend.submit(ids(&[1]));
        accepted(&frontend);
        engine.send(&Report::Failed { request, reason, param: Some("prompt".into()), message: "no".into() });
        // Nothing follows a last event.
        engine.step(1.0, vec![output(request, 0, &[1], None)]);
        let failed = failed(&frontend);
        assert_eq!((failed.request, failed.reason, failed.message.as_str()), (request, expected, "no"));
        assert_eq!(failed.param.as_deref(), Some("prompt"));
    }
    engine.step(9.0, vec![]);
    engine.send(&Report::Ready { info: "{}".into() });
    assert!(frontend.wait(LONG));
    assert!(frontend.drain().is_empty());
    assert_eq!((frontend.ready().as_deref(), frontend.num_open()), (Some("{}"), 0));
}

#[test]
fn the_death_of_the_engine_fails_what_is_open_and_a_new_one_takes_over() {
    let (frontend, mut engine) = start();
    engine.send(&Report::Ready { info: "old".into() });
    let requests: Vec<u64> = (0..3).map(|_| frontend.submit(ids(&[1]))).collect();
    events(&frontend, 3);
    engine.step(1.0, vec![output(requests[0], 0, &[97], None)]);
    delta(&frontend);
    assert!(frontend.connected());
    drop(engine);
    let failures = events(&frontend, 3);
    for (event, request) in failures.iter().zip(&requests) {
        let Event::Failed(failed) = event else { panic!("{event:?}") };
        assert_eq!((failed.request, failed.reason), (*request, FailedReason::EngineDied));
    }
    assert_eq!((frontend.connected(), frontend.num_open()), (false, 0));
    let late = frontend.submit(text("hello", |_| {}));
    assert_eq!((failed(&frontend).reason, frontend.num_open()), (FailedReason::EngineDied, 0));

    let (front, engine) = Endpoint::pair();
    let (sender, receiver) = engine.split();
    let mut engine = Engine { sender, receiver };
    frontend.reconnect(front).unwrap();
    assert!(frontend.connected() && frontend.ready().is_none() && frontend.stats().is_none());
    let request = frontend.submit(text("hello", |_| {}));
    assert!(late < request && requests[2] < late);
    accepted(&frontend);
    assert_eq!(engine.submission().request, request);

    // A second reconnection while the old engine lives: it is hung up on, and what it had fails.
    let (front, _newer) = Endpoint::pair();
    frontend.reconnect(front).unwrap();
    assert_eq!(failed(&frontend).request, request);
    assert_eq!(engine.receiver.recv_command(Some(LONG)), Err(RecvError::Closed));
    assert!(frontend.connected());
}

#[test]
fn an_engine_that_speaks_garbage_counts_as_dead() {
    let (mut engine, front) = UnixStream::pair().unwrap();
    let frontend =
        Frontend::new(Endpoint::from_fd(front.into_raw_fd()).unwrap(), Some(byte_level()), LIMITS, 1).unwrap();
    frontend.submit(ids(&[1]));
    accepted(&frontend);
    engine.write_all(b"\x80\x04\x95 pickled").unwrap();
    assert_eq!(failed(&frontend).reason, FailedReason::EngineDied);
    assert!(!frontend.connected());
}

#[test]
fn dropping_the_front_end_tells_the_engine() {
    let (frontend, mut engine) = start();
    drop(frontend);
    assert_eq!(engine.receiver.recv_command(Some(LONG)), Err(RecvError::Closed));
}

/// Answers every request with three tokens, or aborts it, until the front end goes.
fn serve(mut engine: Engine) {
    let mut steps: u32 = 0;
    while let Ok(Some(command)) = engine.receiver.recv_command(None) {
        steps += 1;
        let mut outputs = Vec::new();
        match command {
            Command::Submit(submission) => {
                for choice in 0..submission.sampling.n {
                    outputs.push(output(submission.request, choice, &[97, 98], None));
                    // Every third waits for its abort.
                    if submission.request % 3 != 0 {
                        outputs.push(output(submission.request, choice, &[99], Some(FinishReason::Length)));
                    }
                }
            }
            Command::Abort { request } => {
                outputs.extend((0..2).map(|choice| output(request, choice, &[], Some(FinishReason::Abort))));
            }
            command => panic!("{command:?}"),
        }
        engine.step(f64::from(steps), outputs);
    }
}

#[test]
fn every_request_of_many_threads_ends_exactly_once() {
    const THREADS: u64 = 4;
    const REQUESTS: u64 = 500;
    let (frontend, engine) = start();
    let engine = std::thread::spawn(move || serve(engine));
    let frontend = Arc::new(frontend);
    let clients: Vec<_> = (0..THREADS)
        .map(|thread| {
            let frontend = frontend.clone();
            std::thread::spawn(move || {
                for index in 0..REQUESTS {
                    let prompt = if index % 2 == 0 { "hello world" } else { "" };
                    let request = match index % 5 {
                        0 => ids(&[1, 2, 3]),
                        _ => text(prompt, |o| o.n = 2),
                    };
                    let id = frontend.submit(request);
                    if id % 3 == 0 || (thread + index) % 7 == 0 {
                        frontend.abort(id);
                    }
                }
            })
        })
        .collect();
    let mut ends: HashMap<u64, u32> = HashMap::new();
    let mut shown: HashMap<(u64, u32), String> = HashMap::new();
    clients.into_iter().for_each(|client| client.join().unwrap());
    while frontend.num_open() > 0 || frontend.wait(Duration::ZERO) {
        assert!(frontend.wait(LONG), "{} requests have no end", frontend.num_open());
        for event in frontend.drain() {
            match event {
                Event::Accepted(accepted) => assert!(!ends.contains_key(&accepted.request)),
                Event::Failed(failed) => assert_eq!(ends.insert(failed.request, u32::MAX), None),
                Event::Pooled(pooled) => panic!("{pooled:?} of no such request"),
                Event::Delta(delta) => {
                    let text = shown.entry((delta.request, delta.index)).or_default();
                    text.push_str(&delta.text);
                    if let Some(reason) = delta.finish_reason {
                        *ends.entry(delta.request).or_default() += 1;
                        assert!(reason == EndReason::Abort || text == "abc");
                    }
                }
            }
        }
    }
    assert_eq!(ends.len() as u64, THREADS * REQUESTS);
    assert!(ends.values().all(|count| [1, 2, u32::MAX].contains(count)));
    drop(frontend);
    engine.join().unwrap();
}

/// A request for an embedding of a prompt, cut to so many tokens.
fn embed(prompt: Prompt, cut: Option<(i64, Side)>) -> Request {
    let pooling = Pooling { task: PoolingTask::Embed, dimensions: None, normalize: None, num_first: 0 };
    let sampling = sampling(|options| {
        options.detokenize = false;
        if let Some((limit, side)) = cut {
            (options.truncate_prompt_tokens, options.truncation_side) = (Some(limit), side);
        }
    });
    Request { pooling: Some(pooling), ..Request::new(prompt, sampling) }
}

#[test]
fn a_prompt_is_pooled_and_that_is_its_last_event() {
    let (frontend, mut engine) = start();
    let request = frontend.submit(embed(Prompt::Ids(vec![7; 50]), None));
    assert_eq!(accepted(&frontend).len(), 50);
    let submission = engine.submission();
    assert_eq!(submission.pooling.map(|pooling| (pooling.task, pooling.num_first)), Some((PoolingTask::Embed, 50)));
    let output = PooledOutput { request, shape: vec![2], data: vec![0.5, -1.0], num_cached_tokens: 3 };
    engine.send(&Report::Pooled(Box::new(output.clone())));
    engine.send(&Report::Pooled(Box::new(output)));
    let pooled = Pooled { request, num_prompt_tokens: 50, num_cached_tokens: 3, shape: vec![2], data: vec![0.5, -1.0] };
    assert_eq!(events(&frontend, 1), [Event::Pooled(pooled)]);
    assert_eq!(frontend.num_open(), 0);
}

#[test]
fn a_prompt_to_be_pooled_is_cut_where_that_was_asked_for_and_else_refused() {
    let (frontend, mut engine) = start();
    let ids: Vec<u32> = (0..60).collect();
    frontend.submit(embed(Prompt::Ids(ids.clone()), None));
    assert_eq!(failed(&frontend).param.as_deref(), Some("prompt"));
    for (side, kept) in [(Side::Left, 56..60), (Side::Right, 0..4)] {
        frontend.submit(embed(Prompt::Ids(ids.clone()), Some((4, side))));
        assert_eq!(accepted(&frontend), kept.collect::<Vec<u32>>());
        assert_eq!(engine.submission().prompt.len(), 4);
    }
}

#[test]
fn the_tokenizer_says_what_stands_around_the_texts_of_a_pair_and_a_cut_leaves_it() {
    let (frontend, mut engine) = start_with(Some(cross_encoder()));
    let pair = || Prompt::Pair("a a a".into(), "b".into());
    frontend.submit(embed(pair(), None));
    // [CLS] a a a [SEP] b [SEP]
    assert_eq!(accepted(&frontend), [0, 2, 2, 2, 1, 3, 1]);
    assert_eq!(engine.submission().pooling.map(|pooling| pooling.num_first), Some(5));
    for (side, first) in [(Side::Left, "b a"), (Side::Right, "a b")] {
        frontend.submit(embed(Prompt::Pair("a b a".into(), "b".into()), Some((6, side))));
        let [one, other] = if first == "b a" { [3, 2] } else { [2, 3] };
        assert_eq!(accepted(&frontend), [0, one, other, 1, 3, 1]);
        engine.submission();
    }
    frontend.submit(embed(Prompt::Text("a b a".into()), Some((3, Side::Right))));
    assert_eq!(accepted(&frontend), [0, 2, 1]);
}

#[test]
fn bad_words_are_tokenized_at_the_beginning_and_behind_a_space() {
    let (frontend, mut engine) = start();
    let tokenizer = byte_level();
    for prompt in [Prompt::Text("hello".into()), Prompt::Ids(vec![7, 8])] {
        let words = sampling(|options| options.bad_words = vec![" world".into(), "hello".into()]);
        frontend.submit(Request::new(prompt, words));
        accepted(&frontend);
        let submission = engine.submission();
        let mut expected: Vec<Vec<u32>> =
            ["world", " world", "hello", " hello"].map(|word| tokenizer.encode(word, false).unwrap()).to_vec();
        expected.sort_unstable();
        assert_eq!(submission.sampling.bad_words, expected);
    }
}

#[test]
fn a_request_about_its_prompt_gets_nothing_else() {
    let (frontend, mut engine) = start();
    let asked = |options: &mut SamplingOptions| {
        (options.prompt_only, options.max_tokens) = (true, Some(1));
        (options.prompt_logprobs, options.logprobs) = (Some(1), Some(-1));
    };
    let request = frontend.submit(Request::new(Prompt::Ids(vec![7, 8]), sampling(asked)));
    accepted(&frontend);
    let submission = engine.submission();
    assert_eq!((submission.sampling.prompt_logprobs, submission.sampling.max_tokens), (Some(1), 1));
    assert_eq!(submission.sampling.logprobs, Some(LIMITS.vocab_size as u32));
    let entry = TokenLogprobs { logprob: -0.5, rank: 1, top: vec![(8, -0.5)] };
    let scores = ChoiceOutput { prompt_logprobs: vec![entry.clone()], ..output(request, 0, &[], None) };
    let last = ChoiceOutput {
        logprobs: vec![entry.clone()],
        ..output(request, 0, &[b'h'.into()], Some(FinishReason::EndOfSequence))
    };
    engine.step(7.0, vec![scores]);
    let first = delta(&frontend);
    assert_eq!((first.prompt_logprobs, first.finish_reason), (vec![entry], None));
    engine.step(8.0, vec![last]);
    let end = delta(&frontend);
    assert_eq!((end.text.as_str(), end.token_ids, end.logprobs), ("", vec![], Some(vec![])));
    assert_eq!(end.finish_reason, Some(EndReason::Length));
}

#[test]
fn the_log_probabilities_of_a_prompt_are_bounded() {
    let (frontend, _engine) = start();
    let asked = sampling(|options| options.prompt_logprobs = Some(1 << 30));
    frontend.submit(Request::new(Prompt::Ids(vec![7, 8]), asked));
    let failure = failed(&frontend);
    assert_eq!((failure.reason, failure.param.as_deref()), (FailedReason::Invalid, Some("prompt_logprobs")));
}
