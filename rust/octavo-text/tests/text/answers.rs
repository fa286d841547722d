//! What becomes of a request's answers on their way to the caller: best-of, intervals, repetitions; and cut prompts.

use octavo_text::{EndReason, Event, Prompt, RepetitionDetection, Request, Side, StopReason};
use octavo_wire::{ChoiceOutput, Command, FinishReason, TokenLogprobs};

use crate::frontend::{accepted, delta, events, failed, ids, output, sampling, start, text};

fn scored(request: u64, choice: u32, token: u32, logprob: f32, finish: Option<FinishReason>) -> ChoiceOutput {
    let logprobs = vec![TokenLogprobs { logprob, rank: 1, top: vec![] }];
    ChoiceOutput { logprobs, ..output(request, choice, &[token], finish) }
}

#[test]
fn best_of_gives_the_most_probable_choices_when_all_have_ended() {
    for wants_logprobs in [false, true] {
        let (frontend, mut engine) = start();
        let request = frontend.submit(text("a", |o| {
            (o.n, o.best_of, o.logprobs) = (2, Some(3), wants_logprobs.then_some(0));
        }));
        accepted(&frontend);
        let sampling = engine.submission().sampling;
        assert_eq!((sampling.n, sampling.logprobs), (3, Some(0)));
        let end = Some(FinishReason::Length);
        engine.step(1.0, vec![scored(request, 0, 97, -3.0, end), scored(request, 1, 98, -1.0, None)]);
        // Two tokens of -1.5 together are better per token than one of -1.
        engine.step(2.0, vec![scored(request, 1, 99, -0.5, end), scored(request, 2, 100, -1.0, end)]);
        let best: Vec<_> = events(&frontend, 2)
            .into_iter()
            .map(|event| match event {
                Event::Delta(delta) => (delta.index, delta.text, delta.finish_reason, delta.logprobs.map(|l| l.len())),
                event => panic!("{event:?}"),
            })
            .collect();
        let end = Some(EndReason::Length);
        let count = |count| wants_logprobs.then_some(count);
        assert_eq!(best, [(0, "bc".into(), end, count(2)), (1, "d".into(), end, count(1))]);
        assert_eq!(frontend.num_open(), 0);
    }
}

#[test]
fn an_interval_holds_back_what_is_neither_first_nor_last() {
    let (frontend, mut engine) = start();
    let request = frontend.submit(text("a", |o| o.stream_interval = 3));
    accepted(&frontend);
    let mut texts = Vec::new();
    for (time, byte) in (0u32..).zip(b"abcdefgh") {
        let end = (*byte == b'h').then_some(FinishReason::Length);
        engine.step(f64::from(time), vec![output(request, 0, &[u32::from(*byte)], end)]);
        if matches!(byte, b'a' | b'd' | b'g' | b'h') {
            texts.push(delta(&frontend).text);
        }
    }
    assert_eq!(texts, ["a", "bcd", "efg", "h"]);
    assert_eq!(frontend.num_open(), 0);
}

#[test]
fn a_choice_that_repeats_itself_ends() {
    let (frontend, mut engine) = start();
    let limits = RepetitionDetection { max_pattern_size: 2, min_pattern_size: 0, min_count: 3 };
    let request = frontend.submit(text("a", |o| o.repetition_detection = Some(limits)));
    accepted(&frontend);
    engine.submission();
    let mut shown = String::new();
    for (time, byte) in (0u32..).zip(b"xababab") {
        engine.step(f64::from(time), vec![output(request, 0, &[u32::from(*byte)], None)]);
        let news = delta(&frontend);
        shown += &news.text;
        let is_last = time == 6;
        assert_eq!(news.finish_reason, is_last.then_some(EndReason::Stop));
        assert_eq!(news.stop_reason, is_last.then(|| StopReason::Text("repetition_detected".into())));
    }
    assert_eq!(shown, "xababab");
    assert_eq!(engine.next(), Command::Stop { request, choice: 0 });
}

#[test]
fn a_prompt_is_cut_on_the_side_that_is_asked_for() {
    let (frontend, mut engine) = start();
    let cut = |limit, side, max_tokens: Option<i64>| {
        sampling(|o| (o.truncate_prompt_tokens, o.truncation_side, o.max_tokens) = (Some(limit), side, max_tokens))
    };
    let prompt: Vec<u32> = (0..100).collect();
    let cases = [
        (cut(3, Side::Left, None), 97..100),
        (cut(3, Side::Right, None), 0..3),
        (cut(-1, Side::Left, Some(20)), 70..100),
        (cut(-1, Side::Left, None), 51..100),
        (cut(-1, Side::Right, Some(500)), 0..1),
    ];
    for (sampling, rest) in cases {
        let is_too_long = rest.len() == 1;
        frontend.submit(Request::new(Prompt::Ids(prompt.clone()), sampling));
        if is_too_long {
            assert_eq!(failed(&frontend).param.as_deref(), Some("max_tokens"));
        } else {
            assert_eq!(accepted(&frontend), rest.collect::<Vec<_>>());
            engine.submission();
        }
    }
    // A text of any length may be cut.
    let long = "word ".repeat(5000);
    frontend.submit(text(&long, |o| o.truncate_prompt_tokens = Some(4)));
    assert_eq!(accepted(&frontend).len(), 4);
    frontend.submit(ids(&prompt));
    assert_eq!(failed(&frontend).param.as_deref(), Some("prompt"));
}
