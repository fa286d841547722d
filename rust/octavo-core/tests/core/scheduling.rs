//! Who runs, and how much: shares, priorities, preemption, choices and waste.

use octavo_core::{EngineConfig, Policy};
use octavo_wire::FinishReason;

use crate::simulator::{Simulator, config, submission};

/// A configuration with room for long prompts.
fn roomy() -> EngineConfig {
    EngineConfig { num_blocks: 4096, max_model_len: 4096, max_num_batched_tokens: 256, max_num_seqs: 8, ..config() }
}

fn long_prompt() -> impl Iterator<Item = u32> {
    (0..4000).map(|index| index * 7 % 61)
}

#[test]
fn a_long_prompt_does_not_stop_those_behind_it() {
    let mut simulator = Simulator::new(roomy());
    simulator.submit(submission(1, long_prompt(), 1));
    simulator.submit(submission(2, 1..=50, 3));
    simulator.submit(submission(3, 11..=60, 3));
    for _ in 0..5 {
        let (plan, _) = simulator.plan(false).expect("requests wait");
        assert!(plan.num_tokens > 250, "the budget is used");
        simulator.commit();
    }
    assert!(simulator.client(2).is_done() && simulator.client(3).is_done());
    assert!(!simulator.client(1).is_done());
    // The long one had at least half of each step.
    assert!(simulator.finish() <= 4000 / 128 + 1 - 5);
}

#[test]
fn a_running_answer_gets_a_token_in_each_step_beside_a_long_prompt() {
    let mut simulator = Simulator::new(roomy());
    simulator.submit(submission(1, 1..=5, 60));
    simulator.plan(false);
    simulator.commit();
    simulator.submit(submission(2, long_prompt(), 1));
    for count in 2..15 {
        simulator.plan(false);
        simulator.commit();
        assert_eq!(simulator.client(1).answers[0].tokens.len(), count);
    }
}

#[test]
fn the_threshold_caps_each_chunk() {
    let mut simulator = Simulator::new(EngineConfig { long_prefill_token_threshold: 20, ..roomy() });
    simulator.submit(submission(1, long_prompt(), 1));
    let (plan, _) = simulator.plan(false).expect("a request waits");
    assert_eq!(plan.max_query_len, 20);
}

#[test]
fn without_chunks_a_prompt_runs_whole() {
    let limits = EngineConfig { enable_chunked_prefill: false, max_num_batched_tokens: 128, ..config() };
    let mut simulator = Simulator::new(limits);
    simulator.submit(submission(1, (0..100).map(|token| token % 61), 2));
    simulator.submit(submission(2, (0..100).map(|token| (token + 7) % 61), 2));
    let (plan, _) = simulator.plan(false).expect("requests wait");
    assert_eq!((plan.num_reqs, plan.num_tokens, plan.num_samples), (1, 100, 1));
    simulator.commit();
    let (plan, _) = simulator.plan(false).expect("requests wait");
    assert_eq!((plan.num_reqs, plan.num_tokens, plan.num_samples), (2, 101, 2));
    simulator.finish();
}

#[test]
fn smaller_priority_values_run_first() {
    let order = |policy| {
        let mut simulator = Simulator::new(EngineConfig { policy, max_num_seqs: 1, ..config() });
        for (request, priority) in [(1, 5), (2, 0), (3, -1), (4, 0)] {
            let mut submission = submission(request, 1..=5, 2);
            submission.priority = priority;
            simulator.submit(submission);
        }
        let mut order = Vec::new();
        while simulator.plan(false).is_some() {
            simulator.commit();
            let done = |request: &u64| simulator.client(*request).is_done() && !order.contains(request);
            order.extend((1..=4).filter(done).collect::<Vec<u64>>());
        }
        order
    };
    assert_eq!(order(Policy::Priority), [3, 2, 4, 1]);
    assert_eq!(order(Policy::Fcfs), [1, 2, 3, 4]);
}

#[test]
fn when_blocks_run_out_the_last_in_turn_is_preempted_and_still_finishes() {
    // Four sequences of 40 tokens take 40 blocks; 20 are there.
    let mut simulator = Simulator::new(EngineConfig { num_blocks: 20, max_model_len: 60, ..config() });
    for request in 1..=4 {
        simulator.submit(submission(request, (0..8).map(|index| (request as u32 * 11 + index) % 60), 32));
    }
    let mut first_done = None;
    while simulator.plan(false).is_some() {
        simulator.commit();
        simulator.check();
        first_done = first_done.or_else(|| (1..=4).find(|&request| simulator.client(request).is_done()));
    }
    assert_eq!(first_done, Some(1));
    assert!((1..=4).all(|request| simulator.client(request).answers[0].tokens.len() == 32));
    assert!(simulator.engine.stats().num_preemptions > 0);
}

#[test]
fn choices_share_the_prompt_and_part_where_they_write() {
    let mut simulator = Simulator::new(config());
    let mut asked = submission(1, 1..=10, 6);
    asked.sampling.n = 3;
    simulator.submit(asked);
    let (plan, columns) = simulator.plan(false).expect("a request waits");
    assert_eq!((plan.num_reqs, plan.num_tokens, plan.num_samples), (1, 10, 3));
    assert_eq!(columns.logits_index, [9, 9, 9]);
    assert_eq!(simulator.engine.stats().num_used_blocks, 3);
    simulator.commit();
    // The third block, with two tokens, is copied for all but the last.
    let (plan, columns) = simulator.plan(false).expect("three choices run");
    assert_eq!((plan.num_reqs, plan.num_block_copies), (3, 2));
    assert_eq!(columns.copies[0].0, columns.copies[1].0);
    assert_eq!(simulator.engine.stats().num_used_blocks, 5);
    simulator.finish();
    assert!(simulator.client(1).answers.iter().all(|answer| answer.finish == Some(FinishReason::Length)));
    assert_ne!(simulator.client(1).answers[0].tokens, simulator.client(1).answers[1].tokens);
}

#[test]
fn more_than_one_choice_waits_for_rows_for_all() {
    let mut simulator = Simulator::new(EngineConfig { max_num_seqs: 3, ..config() });
    simulator.submit(submission(1, 1..=5, 4));
    let mut asked = submission(2, 1..=5, 4);
    asked.sampling.n = 3;
    simulator.submit(asked);
    for _ in 0..4 {
        let (plan, _) = simulator.plan(false).expect("a request runs");
        assert_eq!(plan.num_reqs, 1);
        simulator.commit();
    }
    simulator.finish();
    assert!(simulator.client(2).is_done());
}

#[test]
fn preempted_choices_recompute_alone_and_keep_their_answers() {
    let mut simulator = Simulator::new(EngineConfig { num_blocks: 14, max_model_len: 48, ..config() });
    let mut asked = submission(1, 1..=10, 30);
    asked.sampling.n = 4;
    simulator.submit(asked);
    simulator.finish();
    assert!(simulator.engine.stats().num_preemptions > 0);
    assert!(simulator.client(1).answers.iter().all(|answer| answer.tokens.len() == 30));
    simulator.check();
}

#[test]
fn a_sequence_is_in_one_step_at_a_time() {
    let mut simulator = Simulator::new(config());
    simulator.submit(submission(1, 1..=5, 4));
    let (first, _) = simulator.plan(false).expect("a request waits");
    assert!(simulator.plan(false).is_none());
    simulator.submit(submission(2, 21..=26, 4));
    let (second, _) = simulator.plan(false).expect("another request waits");
    assert_eq!((second.num_reqs, second.num_tokens), (1, 6));
    assert_ne!(first.arena, second.arena);
    simulator.finish();
}

#[test]
fn less_than_four_percent_of_the_used_slots_are_empty() {
    let limits = EngineConfig {
        block_size: 16,
        num_blocks: 32_768,
        max_num_seqs: 256,
        max_num_batched_tokens: 65_536,
        max_model_len: 4096,
        ..config()
    };
    let mut simulator = Simulator::new(limits);
    for request in 0..256_u64 {
        let length = 200 + (request * 1_103) % 1_800;
        simulator.submit(submission(request, (0..length).map(|index| (index * request % 61) as u32), 40));
    }
    let mut worst: f64 = 0.0;
    while simulator.plan(false).is_some() {
        simulator.commit();
        let stats = simulator.engine.stats();
        if stats.num_running == 256 {
            worst = worst.max(f64::from(stats.num_wasted_slots) / f64::from(stats.num_used_blocks * 16));
        }
    }
    assert!(worst > 0.0 && worst < 0.04, "{:.1} % are wasted", worst * 100.0);
}
