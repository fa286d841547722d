//! Structures of the output: every answer follows its grammar, whatever runs beside it, and a grammar that cannot be
//! enforced is the error of its request alone.

use std::time::{Duration, Instant};

use octavo_core::{EngineConfig, Vocabulary};
use octavo_wire::{Command, FailReason, FinishReason, RequestId, Structure, StructureKind, Submission};

use crate::simulator::{EOS, Simulator, VOCAB_SIZE, config, submission};

/// Token 0 ends a sequence, 1 to 26 are letters, then ten digits, and some pieces of JSON. The model's vocabulary is
/// larger than the tokenizer's.
const TEXTS: [&str; 19] =
    ["{", "}", "\"", ":", ",", "[", "]", " ", "\n", "true", "false", "null", "\":", "{\"", "ab", "abc", "-", ".", "_"];
const END_OF_REASONING: u32 = 60;

fn text_of(token: u32) -> String {
    match token {
        1..=26 => char::from(b'a' + (token - 1) as u8).to_string(),
        27..=36 => char::from(b'0' + (token - 27) as u8).to_string(),
        37..=55 => TEXTS[token as usize - 37].to_owned(),
        _ => String::new(),
    }
}

fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|&token| text_of(token)).collect()
}

pub fn vocabulary() -> Result<Vocabulary, String> {
    let mut vocabulary = Vocabulary::default();
    for token in 0..END_OF_REASONING + 1 {
        match token {
            EOS => vocabulary.push_special("<|end|>"),
            END_OF_REASONING => vocabulary.push_special("</think>"),
            1..=55 => vocabulary.push_text(text_of(token).as_bytes()),
            _ => vocabulary.push_hole(),
        }
    }
    Ok(vocabulary)
}

fn simulator(config: EngineConfig) -> Simulator {
    let mut simulator = Simulator::new(config);
    simulator.engine.set_vocabulary(Box::new(vocabulary));
    simulator
}

fn structured(request: RequestId, kind: StructureKind, text: &str, max_tokens: u32) -> Submission {
    let mut submission = submission(request, [5, 6, request as u32 % VOCAB_SIZE], max_tokens);
    submission.sampling.ignore_eos = false;
    submission.sampling.structure = Some(Structure { kind, text: text.into() });
    submission
}

/// Runs until nothing does, compilations included.
pub fn finish(simulator: &mut Simulator) {
    let began = Instant::now();
    loop {
        simulator.finish();
        simulator.check();
        if simulator.engine.stats().num_waiting == 0 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "a request never ends");
        std::thread::yield_now();
    }
}

#[test]
fn answers_follow_their_structures() {
    let mut simulator = simulator(config());
    simulator.submit(structured(1, StructureKind::Regex, "(abc|xyz)-[0-9]{3}", 40));
    simulator.submit(structured(2, StructureKind::JsonSchema, r#"{"enum": ["ab", true, {"a": null}]}"#, 60));
    simulator.submit(structured(3, StructureKind::Lark, "start: \"[\" NUM (\",\" NUM){2} \"]\"\nNUM: /[0-9]/", 40));
    simulator.submit(submission(4, [9, 9], 20));
    finish(&mut simulator);
    for request in 1..=3 {
        let answer = &simulator.client(request).answers[0];
        assert_eq!(answer.finish, Some(FinishReason::EndOfSequence), "{}", text(&answer.tokens));
        assert_eq!(answer.tokens.last(), Some(&EOS));
    }
    let answer = |request| text(&simulator.client(request).answers[0].tokens);
    assert!(["abc-", "xyz-"].contains(&&answer(1)[..4]) && answer(1).len() == 7, "{}", answer(1));
    let shortened: String = answer(2).split_whitespace().collect();
    assert!(["\"ab\"", "true", "{\"a\":null}"].contains(&shortened.as_str()), "{}", answer(2));
    assert_eq!(answer(3).len(), 7);
    assert!(simulator.client(4).failed.is_none());
}

#[test]
fn choices_go_their_own_ways_and_survive_preemption() {
    // Too few blocks for all choices at once.
    let mut simulator = simulator(EngineConfig { num_blocks: 8, ..config() });
    for request in 1..=3 {
        let mut submission = structured(request, StructureKind::Regex, "([a-z0-9]{3}-){5}", 25);
        submission.sampling.n = 2;
        simulator.submit(submission);
    }
    finish(&mut simulator);
    assert!(simulator.engine.stats().num_preemptions > 0);
    let mut answers = Vec::new();
    for client in simulator.clients.values() {
        for answer in &client.answers {
            assert_eq!(answer.finish, Some(FinishReason::EndOfSequence));
            let parts: Vec<String> = text(&answer.tokens).split_terminator('-').map(str::to_owned).collect();
            assert!(parts.len() == 5 && parts.iter().all(|part| part.len() == 3), "{parts:?}");
            answers.push(parts);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 6);
}

#[test]
fn what_cannot_be_enforced_is_refused_and_harms_nobody() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(60_000), close.repeat(60_000));
    let chain: String = (0..20_000).map(|rule| format!("r{rule}: r{}\n", rule + 1)).collect();
    let slow: String = (0..8_000).map(|rule| format!("r{rule}: r{} \"a\" | \"b\"\n", rule + 1)).collect();
    let refused = [
        (StructureKind::Regex, "(".to_owned()),
        (StructureKind::Regex, deep("(", ")")),
        (StructureKind::Regex, "(?=a)b".into()),
        (StructureKind::Lark, "start: nothing".into()),
        (StructureKind::Lark, String::new()),
        (StructureKind::Lark, format!("start: {} \"a\" {}", "(".repeat(60_000), ")".repeat(60_000))),
        (StructureKind::Lark, format!("start: r0\n{chain}")),
        (StructureKind::Lark, "start: <|unheard_of|>".into()),
        // Its first step alone takes a second.
        (StructureKind::Lark, format!("start: r0\n{slow}r8000: \"z\"\n")),
        (StructureKind::JsonSchema, "{".into()),
        (StructureKind::JsonSchema, deep("[", "]")),
        (StructureKind::JsonSchema, deep(r#"{"items":"#, "}")),
        (StructureKind::JsonSchema, r##"{"$ref": "#/nowhere"}"##.into()),
        (StructureKind::JsonSchema, r#"{"$ref": "http://example.com/schema"}"#.into()),
        (StructureKind::JsonSchema, r#"{"type": "strnig"}"#.into()),
        (StructureKind::JsonSchema, r#"{"type": "string", "pattern": "("}"#.into()),
        (StructureKind::JsonSchema, r#"{"type": "array", "uniqueItems": true}"#.into()),
        (StructureKind::JsonSchema, r#"{"not": {"type": "string"}}"#.into()),
        (StructureKind::JsonSchema, "false".into()),
        (StructureKind::JsonSchema, r#"{"enum": [-9223372036854775808]}"#.into()),
        (StructureKind::Lark, r#"start: %json {"const": -9223372036854775808}"#.into()),
    ];
    let mut alone = simulator(config());
    alone.submit(submission(1, [9, 9], 60));
    finish(&mut alone);

    let mut simulator = simulator(config());
    simulator.submit(submission(1, [9, 9], 60));
    for (request, (kind, text)) in (2..).zip(&refused) {
        simulator.submit(structured(request, *kind, text, 20));
    }
    let last = refused.len() as u64 + 2;
    simulator.submit(structured(last, StructureKind::Regex, "abc", 20));
    finish(&mut simulator);
    assert_eq!(simulator.client(1).answers[0].tokens, alone.client(1).answers[0].tokens);
    for (request, (_, text)) in (2..last).zip(&refused) {
        let shown: String = text.chars().take(60).collect();
        assert_eq!(simulator.client(request).failed, Some(FailReason::Invalid), "{shown}");
    }
    assert_eq!(text(&simulator.client(last).answers[0].tokens), "abc");
}

#[test]
fn a_recursive_schema_is_followed() {
    let mut simulator = simulator(config());
    let schema = r##"{"$ref": "#/$defs/list", "$defs": {"list": {"anyOf": [{"type": "null"},
        {"type": "array", "items": {"$ref": "#/$defs/list"}, "minItems": 1, "maxItems": 2}]}}}"##;
    simulator.submit(structured(1, StructureKind::JsonSchema, schema, 50));
    finish(&mut simulator);
    assert!(simulator.client(1).failed.is_none());
}

#[test]
fn a_cut_answer_ends_by_its_length() {
    let mut simulator = simulator(config());
    simulator.submit(structured(1, StructureKind::Regex, "[a-z]{50}", 7));
    finish(&mut simulator);
    assert_eq!(simulator.client(1).answers[0].finish, Some(FinishReason::Length));
}

#[test]
fn the_grammar_wins_over_min_tokens_and_ignore_eos_where_it_leaves_nothing_else() {
    let mut simulator = simulator(config());
    let mut early = structured(1, StructureKind::Regex, "[a-z]{2,20}", 30);
    early.sampling.min_tokens = 4;
    simulator.submit(early);
    let mut late = structured(2, StructureKind::Regex, "ab", 30);
    (late.sampling.min_tokens, late.sampling.ignore_eos) = (20, true);
    simulator.submit(late);
    let mut endless = structured(3, StructureKind::Regex, "[a-z]*", 25);
    endless.sampling.ignore_eos = true;
    simulator.submit(endless);
    finish(&mut simulator);
    let answer = |request| &simulator.client(request).answers[0];
    assert!(answer(1).tokens.len() >= 5, "{}", text(&answer(1).tokens));
    assert_eq!((text(&answer(2).tokens).as_str(), answer(2).finish), ("ab", Some(FinishReason::EndOfSequence)));
    assert_eq!((answer(3).tokens.len(), answer(3).finish), (25, Some(FinishReason::Length)));
}

#[test]
fn the_structure_follows_the_reasoning_whose_budget_is_kept() {
    for (budget, end) in [(0, vec![END_OF_REASONING]), (9, vec![END_OF_REASONING]), (6, vec![41, END_OF_REASONING, 41])]
    {
        let mut simulator = simulator(config());
        let mut submission = structured(1, StructureKind::Regex, "abc", 40);
        submission.sampling.reasoning_end.clone_from(&end);
        submission.sampling.thinking_token_budget = Some(budget);
        simulator.submit(submission.clone());
        submission.request = 2;
        submission.sampling.structure = None;
        submission.sampling.ignore_eos = true;
        simulator.submit(submission);
        finish(&mut simulator);
        for (request, client) in &simulator.clients {
            let output = &client.answers[0].tokens;
            let place = output.windows(end.len()).position(|window| window == end).expect("the reasoning ends");
            assert!(place <= budget as usize, "{place} tokens of reasoning");
            let rest = &output[place + end.len()..];
            if *request == 1 {
                assert_eq!((text(rest).as_str(), rest.last()), ("abc", Some(&EOS)));
            } else {
                assert_eq!(output.len(), 40);
            }
        }
    }
}

#[test]
fn a_request_may_be_aborted_while_its_grammar_is_compiled() {
    let mut simulator = simulator(config());
    let mut submission = structured(1, StructureKind::Regex, "abc", 9);
    submission.sampling.n = 3;
    simulator.submit(submission);
    simulator.abort(1);
    simulator.plan(false);
    simulator.check();
    assert!(simulator.client(1).answers.iter().all(|answer| answer.finish == Some(FinishReason::Abort)));
    finish(&mut simulator);
    assert_eq!(simulator.engine.stats().num_waiting, 0);
}

#[test]
fn an_engine_drains_when_the_last_grammar_is_done() {
    let mut simulator = simulator(config());
    simulator.submit(structured(1, StructureKind::Regex, "abc", 9));
    simulator.inbox.push(Command::Drain);
    simulator.plan(false);
    assert!(!simulator.engine.closed() || simulator.client(1).is_done());
    finish(&mut simulator);
    simulator.plan(false);
    assert!(simulator.engine.closed());
}

#[test]
fn without_a_vocabulary_a_structure_is_refused() {
    let mut simulator = Simulator::new(config());
    simulator.submit(structured(1, StructureKind::Regex, "abc", 9));
    finish(&mut simulator);
    assert_eq!(simulator.client(1).failed, Some(FailReason::Invalid));
    let mut unusable = Simulator::new(config());
    unusable.engine.set_vocabulary(Box::new(|| Err("no such file".into())));
    unusable.submit(structured(1, StructureKind::Regex, "abc", 9));
    finish(&mut unusable);
    assert_eq!(unusable.client(1).failed, Some(FailReason::Invalid));
}

#[test]
fn a_flood_of_grammars_is_compiled_and_forgotten() {
    let mut simulator = simulator(config());
    for request in 1..=300 {
        simulator.submit(structured(request, StructureKind::Regex, &format!("a{{{}}}", request % 150 + 1), 3));
    }
    finish(&mut simulator);
    assert!(simulator.clients.values().all(|client| client.failed.is_none()));
}
