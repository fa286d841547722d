//! Beam search: what it finds, against the plain algorithm, and what it holds meanwhile. `random` mixes it with all else.

use octavo_core::EngineConfig;
use octavo_wire::{BeamStop, Beams, Command, FailReason, FinishReason, Submission};

use crate::simulator::{EOS, Simulator, candidates, config, history, submission};

/// A beam as the plain algorithm finds it.
pub struct Best {
    pub tokens: Vec<u32>,
    pub logprob: f64,
    pub reason: FinishReason,
}

/// vLLM's beam search, to its very end, over the simulated model: the best beams, best first.
pub fn best_beams(asked: &Submission, config: &EngineConfig) -> Vec<Best> {
    let beams = asked.sampling.beams.expect("it asks for beams");
    let length = (asked.prompt.len() as u32 + asked.sampling.max_tokens).min(config.max_model_len) as usize;
    let score = |beam: &Best| {
        let is_eos = beam.tokens.last() == Some(&EOS);
        let length = asked.prompt.len() + beam.tokens.len() - usize::from(is_eos);
        beam.logprob / (length as f64).powf(beams.length_penalty)
    };
    let by_score = |one: &Best, other: &Best| score(other).total_cmp(&score(one));
    let mut live = vec![Best { tokens: vec![], logprob: 0.0, reason: FinishReason::Length }];
    let mut ended: Vec<Best> = Vec::new();
    for _ in asked.prompt.len()..length {
        let mut next = Vec::new();
        for beam in &live {
            let before = history(&[&asked.prompt[..], &beam.tokens].concat());
            for (token, logprob) in candidates(before).take(2 * beams.width as usize) {
                let tokens = [&beam.tokens[..], &[token]].concat();
                let logprob = beam.logprob + f64::from(logprob);
                if token == EOS && !asked.sampling.ignore_eos {
                    ended.push(Best { tokens, logprob, reason: FinishReason::EndOfSequence });
                } else {
                    next.push(Best { tokens, logprob, reason: FinishReason::Length });
                }
            }
        }
        next.sort_by(by_score);
        next.truncate(beams.width as usize);
        live = next;
    }
    ended.extend(live);
    ended.sort_by(by_score);
    ended.truncate(beams.width as usize);
    ended
}

fn search(request: u64, prompt: impl IntoIterator<Item = u32>, max_tokens: u32, width: u32) -> Submission {
    let mut asked = submission(request, prompt, max_tokens);
    asked.sampling.n = width;
    asked.sampling.ignore_eos = false;
    asked.sampling.beams = Some(Beams { width, length_penalty: 1.0, stop: BeamStop::Exact });
    asked
}

fn roomy() -> EngineConfig {
    EngineConfig { num_blocks: 1000, max_num_seqs: 16, max_num_batched_tokens: 128, max_model_len: 400, ..config() }
}

/// Runs to the end; the most blocks that were held at once.
fn finish(simulator: &mut Simulator) -> u32 {
    let mut most = 0;
    while simulator.plan(false).is_some() {
        most = most.max(simulator.engine.stats().num_used_blocks);
        simulator.check();
        simulator.commit();
        simulator.check();
    }
    most
}

#[test]
fn the_best_beams_come_at_the_end_best_first() {
    for (width, n) in [(1, 1), (2, 2), (5, 3), (16, 16)] {
        let mut simulator = Simulator::new(roomy());
        for request in 0..6 {
            let mut asked = search(request, (0..7).map(|index| index + request as u32), 30, width);
            asked.sampling.n = n;
            asked.sampling.logprobs = [None, Some(0), Some(20)][request as usize % 3];
            asked.sampling.ignore_eos = request % 2 == 0;
            let length_penalty = [1.0, 0.0, 2.0, -1.5, 0.5, 1.0][request as usize];
            asked.sampling.beams = Some(Beams { width, length_penalty, stop: BeamStop::Exact });
            simulator.submit(asked);
        }
        finish(&mut simulator);
        assert!((0..6).all(|request| simulator.client(request).is_done()));
        assert_eq!(simulator.engine.stats().num_used_blocks, 0);
    }
}

#[test]
fn a_whole_search_ends_before_its_last_token_when_nothing_better_can_come() {
    let steps = |stop| {
        let mut simulator = Simulator::new(roomy());
        let mut asked = search(1, [3, 4, 5], 300, 4);
        asked.sampling.beams = Some(Beams { width: 4, length_penalty: 0.0, stop });
        simulator.submit(asked);
        simulator.finish()
    };
    assert!(steps(BeamStop::Exact) < 100);
}

#[test]
fn a_search_may_be_content_with_less() {
    // Lengths differ: a long beam may yet become better than short ones that have ended.
    let run = |stop| {
        let mut simulator = Simulator::new(roomy());
        let mut asked = search(1, [1, 2], 200, 3);
        asked.sampling.beams = Some(Beams { width: 3, length_penalty: 1.0, stop });
        simulator.submit(asked);
        simulator.finish()
    };
    let [enough, likely, exact] = [BeamStop::Enough, BeamStop::Likely, BeamStop::Exact].map(run);
    assert!(enough <= likely && likely <= exact && enough < exact, "{enough} {likely} {exact}");
}

#[test]
fn beams_share_what_they_have_in_common() {
    let mut simulator = Simulator::new(roomy());
    let mut asked = search(1, (0..100).map(|index| index % 60 + 1), 60, 8);
    asked.sampling.ignore_eos = true;
    simulator.submit(asked);
    let most = finish(&mut simulator);
    // 25 blocks of prompt and at most 15 of output; eight beams without sharing would take 320.
    assert!(most < 80, "{most} blocks");
    assert_eq!(simulator.client(1).answers[7].tokens.len(), 60);
}

#[test]
fn a_row_keeps_its_table_when_its_beam_is_replaced() {
    let mut simulator = Simulator::new(roomy());
    let mut asked = search(1, (0..100).map(|index| index % 60 + 1), 40, 8);
    asked.sampling.ignore_eos = true;
    simulator.submit(asked);
    simulator.plan(false).expect("a request waits");
    simulator.commit();
    // The forks' rows are new once.
    simulator.plan(false).expect("eight beams run");
    simulator.commit();
    let mut num_deltas = 0;
    let mut num_steps = 0;
    while let Some((plan, _)) = simulator.plan(false) {
        num_deltas += plan.num_table_deltas;
        num_steps += 1;
        simulator.commit();
    }
    assert!(num_deltas < 12 * num_steps, "{num_deltas} deltas in {num_steps} steps");
}

#[test]
fn beams_that_do_not_fit_together_take_turns() {
    // One beam just fits; width 4 cannot be held at once.
    let limits = EngineConfig { num_blocks: 10, max_model_len: 40, max_num_seqs: 4, ..config() };
    for caching in [true, false] {
        let mut simulator = Simulator::new(EngineConfig { enable_prefix_caching: caching, ..limits.clone() });
        let mut asked = search(1, [7; 9], 30, 4);
        asked.sampling.ignore_eos = true;
        simulator.submit(asked);
        simulator.submit(submission(2, 1..=20, 15));
        simulator.submit(search(3, 2..=15, 20, 3));
        finish(&mut simulator);
        assert!((1..=3).all(|request| simulator.client(request).is_done()));
        assert!(simulator.engine.stats().num_preemptions > 0);
    }
}

#[test]
fn an_abort_ends_a_search_at_once_and_once() {
    let mut simulator = Simulator::new(roomy());
    let mut asked = search(1, 1..=9, 30, 4);
    asked.sampling.n = 2;
    simulator.submit(asked);
    for _ in 0..3 {
        simulator.plan(false).expect("it runs");
        simulator.commit();
    }
    simulator.plan(false).expect("it runs");
    simulator.abort(1);
    simulator.abort(1);
    simulator.inbox.push(Command::Stop { request: 1, choice: 0 });
    assert!(simulator.plan(false).is_none());
    assert!(simulator.client(1).answers.iter().all(|answer| answer.finish == Some(FinishReason::Abort)));
    simulator.check();
    simulator.commit();
    simulator.check();
    assert_eq!(simulator.engine.stats().num_used_blocks, 0);
}

#[test]
fn a_search_that_is_too_wide_is_refused() {
    let mut simulator = Simulator::new(EngineConfig { max_num_seqs: 20, ..config() });
    simulator.submit(search(1, 1..=3, 5, 17));
    let mut narrow = search(2, 1..=3, 5, 2);
    narrow.sampling.n = 3;
    simulator.submit(narrow);
    simulator.submit(search(3, 1..=3, 5, 16));
    simulator.finish();
    assert_eq!(
        [1, 2, 3].map(|request| simulator.client(request).failed),
        [Some(FailReason::Invalid), Some(FailReason::Invalid), None]
    );
}
