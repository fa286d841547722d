//! Log-probabilities of prompts: each token's once, in rows that nobody else samples from. What they are is checked by
//! the clients of the simulator.

use octavo_core::EngineConfig;
use octavo_wire::{FailReason, Report, Submission};

use crate::random::WORK;
use crate::simulator::{Simulator, config, submission};

fn scored(request: u64, length: u32, max_tokens: u32) -> Submission {
    let mut asked = submission(request, (0..length).map(|token| token % 61), max_tokens);
    asked.sampling.prompt_logprobs = Some(2);
    asked
}

#[test]
fn each_prompt_token_but_the_first_is_scored_once() {
    for device_work in [None, Some(WORK)] {
        for (max_num_seqs, chunked) in [(1, true), (4, true), (4, false)] {
            let mut simulator = Simulator::new(EngineConfig {
                max_num_seqs,
                max_num_batched_tokens: 128,
                enable_chunked_prefill: chunked,
                device_work,
                ..config()
            });
            for (request, length) in [(1, 1), (2, 2), (3, 30), (4, 9)] {
                simulator.submit(scored(request, length, 3));
            }
            simulator.finish();
            for (request, length) in [(1, 1), (2, 2), (3, 30), (4, 9)] {
                assert_eq!(simulator.client(request).num_scored, length - 1);
            }
            simulator.check();
        }
    }
}

#[test]
fn a_chunk_ends_where_the_places_for_samples_do() {
    let mut simulator = Simulator::new(config());
    simulator.submit(scored(1, 12, 2));
    let steps: Vec<_> = std::iter::from_fn(|| {
        let (plan, columns) = simulator.plan(false)?;
        simulator.commit();
        Some((plan.num_tokens, columns.logits_index))
    })
    .collect();
    // Four places a step; the last token's is the answer's.
    let all = vec![0, 1, 2, 3];
    assert_eq!(steps, [(4, all.clone()), (4, all.clone()), (4, all), (1, vec![0])]);
}

#[test]
fn those_who_sample_and_those_who_come_keep_their_places() {
    let mut simulator = Simulator::new(EngineConfig { max_num_batched_tokens: 64, ..config() });
    simulator.submit(submission(1, [7], 40));
    simulator.plan(false).expect("it runs");
    simulator.commit();
    simulator.submit(scored(2, 60, 2));
    simulator.submit(submission(3, [9], 40));
    let (plan, _) = simulator.plan(false).expect("they run");
    // One of the three free rows is borrowed, since the third request waits for one.
    assert_eq!((plan.num_reqs, plan.num_samples), (3, 4));
    simulator.finish();
    assert_eq!(simulator.client(2).num_scored, 59);
}

#[test]
fn scoring_reads_no_cached_prefix_and_leaves_one() {
    let mut simulator = Simulator::new(config());
    let prompt = || (0..21).map(|token| token % 61);
    simulator.submit(submission(1, prompt(), 2));
    simulator.finish();
    simulator.submit(scored(2, 21, 2));
    simulator.finish();
    assert_eq!((simulator.client(2).num_scored, simulator.client(2).answers[0].num_cached), (20, 0));
    simulator.inbox.push(octavo_wire::Command::ResetPrefixCache);
    simulator.submit(scored(3, 21, 2));
    simulator.finish();
    simulator.submit(submission(4, prompt(), 2));
    simulator.finish();
    assert_eq!(simulator.client(4).answers[0].num_cached, 20);
}

#[test]
fn a_preempted_prompt_is_scored_once() {
    let limits = EngineConfig { num_blocks: 14, max_model_len: 50, max_num_seqs: 3, ..config() };
    let mut simulator = Simulator::new(limits);
    for request in 1..=3 {
        let mut asked = scored(request, 17, 30);
        asked.prompt.iter_mut().for_each(|token| *token = (*token + request as u32) % 61);
        simulator.submit(asked);
    }
    simulator.finish();
    assert!(simulator.engine.stats().num_preemptions > 0);
    assert!((1..=3).all(|request| simulator.client(request).num_scored == 16));
}

#[test]
fn more_than_is_allowed_is_refused() {
    let mut simulator = Simulator::new(config());
    let mut asked = scored(1, 5, 2);
    asked.sampling.prompt_logprobs = Some(4);
    simulator.submit(asked);
    simulator.finish();
    assert_eq!(simulator.client(1).failed, Some(FailReason::Invalid));
}

#[test]
fn long_lists_go_out_in_frames_of_their_own() {
    let mut simulator = Simulator::new(EngineConfig { max_logprobs: 1 << 20, ..config() });
    for request in 1..=4 {
        let mut asked = submission(request, [request as u32], 1);
        asked.sampling.logprobs = Some(1 << 20);
        simulator.submit(asked);
    }
    let (plan, _) = simulator.plan(false).expect("they run");
    simulator.engine.commit(plan.epoch, &mut simulator.arenas).expect("the step is the oldest");
    let lengths = simulator.reports.take().into_iter().map(|report| match report {
        Report::Step(step) => step.outputs.iter().map(|output| output.logprobs[0].top.len()).sum(),
        report => panic!("{report:?}"),
    });
    assert_eq!(lengths.collect::<Vec<usize>>(), [2 << 20, 2 << 20]);
}
