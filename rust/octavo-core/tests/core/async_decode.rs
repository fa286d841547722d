//! Steps that are planned while the one before them runs, for tokens that nobody knows yet. `random` mixes them with all
//! else that can happen; its clients know every token, so answers are those of steps one by one.

use octavo_core::EngineConfig;
use octavo_wire::{FailReason, FinishReason};

use crate::simulator::{Simulator, config, submission};

fn ahead() -> EngineConfig {
    EngineConfig { async_decode: true, ..config() }
}

fn num_used_blocks(simulator: &Simulator) -> u32 {
    simulator.engine.stats().num_used_blocks
}

#[test]
fn the_next_token_is_planned_before_the_one_before_it_is_known() {
    let mut simulator = Simulator::new(ahead());
    simulator.submit(submission(1, [9], 5));
    simulator.submit(submission(2, 1..=8, 5));
    simulator.plan_late(false).expect("requests wait");
    let (plan, columns) = simulator.plan_late(false).expect("both may run ahead");
    assert_eq!((plan.num_reqs, plan.num_tokens, plan.num_samples, plan.max_query_len), (2, 2, 2, 1));
    assert_eq!(columns.row, [0, 1]);
    assert_eq!(columns.input_ids, [-1, -2]);
    assert_eq!((&columns.positions, &columns.seq_len), (&vec![1, 8], &vec![2, 9]));
    // The ninth token starts a block.
    assert_eq!(columns.deltas.iter().map(|delta| delta[..2].to_vec()).collect::<Vec<_>>(), [[1, 2]]);
    simulator.check();
    simulator.commit();
    // What is committed meanwhile is known, and the next is ahead again.
    let (_, columns) = simulator.plan_late(false).expect("both may run ahead again");
    assert_eq!((columns.input_ids, columns.positions), (vec![-1, -2], vec![2, 9]));
    simulator.check();
    assert_eq!(simulator.finish(), 2);
    assert!([1, 2].iter().all(|&request| simulator.client(request).answers[0].tokens.len() == 5));
    assert_eq!(simulator.engine.stats().num_steps, 5);
    assert_eq!(simulator.engine.stats().generation_tokens, 10);
}

#[test]
fn an_answer_whose_last_token_is_in_flight_is_not_planned_again() {
    let mut simulator = Simulator::new(EngineConfig { max_model_len: 10, ..ahead() });
    simulator.submit(submission(1, 1..=5, 1));
    simulator.submit(submission(2, 11..=19, 7));
    simulator.submit(submission(3, 21..=28, 7));
    simulator.plan(false).expect("requests wait");
    let (plan, columns) = simulator.plan(false).expect("one goes on");
    assert_eq!((plan.num_reqs, columns.positions), (1, vec![8]));
    simulator.commit();
    assert!([1, 2].iter().all(|&request| simulator.client(request).is_done()));
    assert!(simulator.plan(false).is_none());
    simulator.commit();
    assert_eq!(simulator.client(3).answers[0].finish, Some(FinishReason::Length));
    assert_eq!(num_used_blocks(&simulator), 0);
}

#[test]
fn what_an_end_makes_void_keeps_its_blocks_until_the_device_is_done() {
    let mut simulator = Simulator::new(EngineConfig { max_model_len: 1000, num_blocks: 1000, ..ahead() });
    let mut asked = submission(1, 1..=4, 900);
    asked.sampling.ignore_eos = false;
    asked.sampling.stop_token_ids = (32..64).collect();
    simulator.submit(asked);
    while !simulator.client(1).is_done() {
        assert!(simulator.plan_late(false).is_some());
        if simulator.in_flight.len() == 2 {
            simulator.commit();
            simulator.check();
        }
    }
    let num_tokens = simulator.client(1).answers[0].tokens.len();
    assert!(num_used_blocks(&simulator) > 0);
    // Its row and blocks are not given to another.
    simulator.submit(submission(2, 11..=14, 1));
    let (_, columns) = simulator.plan_late(false).expect("another waits");
    assert_eq!(columns.row, [1]);
    simulator.commit();
    simulator.check();
    assert_eq!(num_used_blocks(&simulator), 1);
    simulator.finish();
    assert_eq!(simulator.client(1).answers[0].tokens.len(), num_tokens);
    assert_eq!(simulator.engine.stats().generation_tokens as usize, num_tokens + 1);
}

#[test]
fn samples_of_the_host_wait_for_the_commit() {
    let changes: [fn(&mut octavo_wire::Sampling); 5] = [
        |sampling| sampling.logprobs = Some(33),
        |sampling| sampling.presence_penalty = 0.5,
        |sampling| sampling.frequency_penalty = 0.5,
        |sampling| sampling.repetition_penalty = 1.5,
        |sampling| sampling.logit_bias = vec![(3, 1.0)],
    ];
    for change in changes {
        // Without the columns of a GPU nobody counts for penalties.
        let mut simulator = Simulator::new(EngineConfig { max_logprobs: 33, ..ahead() });
        let mut asked = submission(1, 1..=5, 4);
        change(&mut asked.sampling);
        simulator.submit(asked);
        for _ in 0..4 {
            simulator.plan(false).expect("it runs");
            assert!(simulator.plan(false).is_none());
            simulator.commit();
        }
        assert!(simulator.client(1).is_done());
    }
}

#[test]
fn an_answer_runs_ahead_once_min_tokens_are_there() {
    let mut simulator = Simulator::new(ahead());
    let mut asked = submission(1, 1..=5, 10);
    (asked.sampling.min_tokens, asked.sampling.stop_token_ids) = (2, vec![63]);
    simulator.submit(asked);
    for expected in [false, false, true] {
        simulator.plan(false).expect("it runs");
        assert_eq!(simulator.plan(false).is_some(), expected);
        simulator.commit();
    }
    simulator.finish();
}

#[test]
fn choices_run_ahead_once_they_have_parted() {
    let mut simulator = Simulator::new(ahead());
    let mut asked = submission(1, 1..=6, 6);
    asked.sampling.n = 3;
    simulator.submit(asked);
    simulator.plan_late(false).expect("a request waits");
    assert!(simulator.plan_late(false).is_none());
    simulator.commit();
    let (plan, _) = simulator.plan_late(false).expect("three choices run");
    assert_eq!((plan.num_reqs, plan.num_block_copies), (3, 2));
    let (plan, columns) = simulator.plan_late(false).expect("all may run ahead");
    assert_eq!((plan.num_reqs, plan.num_block_copies), (3, 0));
    assert!(columns.input_ids.iter().zip(&columns.row).all(|(input, row)| *input == -1 - row));
    simulator.finish();
    assert!(simulator.client(1).answers.iter().all(|answer| answer.tokens.len() == 6));
    simulator.check();
}

#[test]
fn when_a_step_fails_its_entries_in_the_next_are_void() {
    let mut simulator = Simulator::new(ahead());
    simulator.submit(submission(1, 1..=5, 9));
    simulator.plan_late(true).expect("a request waits");
    simulator.submit(submission(2, 11..=15, 9));
    let (plan, _) = simulator.plan_late(false).expect("one runs ahead, another comes");
    assert_eq!(plan.num_reqs, 2);
    simulator.commit();
    simulator.check();
    assert_eq!(simulator.client(1).failed, Some(FailReason::Internal));
    assert_eq!(num_used_blocks(&simulator), 4);
    simulator.commit();
    simulator.check();
    assert_eq!(num_used_blocks(&simulator), 2);
    simulator.finish();
    assert_eq!(simulator.client(2).answers[0].tokens.len(), 9);
}

#[test]
fn when_both_steps_fail_each_request_fails_once() {
    let mut simulator = Simulator::new(ahead());
    simulator.submit(submission(1, 1..=5, 9));
    simulator.plan_late(true).expect("a request waits");
    simulator.plan_late(true).expect("it runs ahead");
    simulator.commit();
    simulator.commit();
    simulator.check();
    assert_eq!(simulator.client(1).failed, Some(FailReason::Internal));
    assert_eq!(num_used_blocks(&simulator), 0);
}

#[test]
fn a_token_that_is_none_fails_its_request_and_voids_the_next() {
    let mut simulator = Simulator::new(ahead());
    simulator.submit(submission(1, 1..=5, 9));
    simulator.submit(submission(2, 2..=5, 9));
    let (plan, _) = simulator.plan(false).expect("requests wait");
    simulator.plan(false).expect("both run ahead");
    simulator.write("sampled", &plan, &[-1]);
    simulator.commit();
    simulator.check();
    assert_eq!(simulator.client(1).failed, Some(FailReason::Internal));
    simulator.finish();
    simulator.check();
    assert_eq!(simulator.client(2).answers[0].tokens.len(), 9);
}

#[test]
fn an_abort_is_reported_at_the_next_commit_and_a_stop_never() {
    let mut simulator = Simulator::new(ahead());
    for request in 1..=3 {
        simulator.submit(submission(request, (0..5).map(|index| request as u32 * 7 + index), 20));
    }
    simulator.plan(false).expect("requests wait");
    simulator.commit();
    simulator.plan_late(false).expect("all run");
    simulator.abort(1);
    simulator.stop(2, 0);
    let (plan, columns) = simulator.plan_late(false).expect("one runs ahead");
    assert_eq!((plan.num_reqs, columns.row), (1, vec![2]));
    simulator.commit();
    assert_eq!(simulator.client(1).answers[0].finish, Some(FinishReason::Abort));
    assert_eq!(num_used_blocks(&simulator), 2);
    simulator.abort(3);
    assert!(simulator.plan_late(false).is_none());
    simulator.commit();
    simulator.check();
    assert_eq!(simulator.client(3).answers[0].finish, Some(FinishReason::Abort));
    assert_eq!(num_used_blocks(&simulator), 0);
}

#[test]
fn an_abort_with_two_steps_in_flight_frees_with_the_second() {
    let mut simulator = Simulator::new(ahead());
    simulator.submit(submission(1, 1..=5, 20));
    simulator.plan_late(false).expect("a request waits");
    simulator.plan_late(false).expect("it runs ahead");
    simulator.abort(1);
    simulator.commit();
    assert!(simulator.plan_late(false).is_none());
    assert_eq!(simulator.client(1).answers[0].finish, None);
    simulator.commit();
    assert_eq!(simulator.client(1).answers[0].finish, Some(FinishReason::Abort));
    assert_eq!(num_used_blocks(&simulator), 0);
    simulator.check();
}

#[test]
fn when_blocks_run_out_the_first_in_turn_goes_on() {
    // When the first wants its third block, the second holds two, and has room for some tokens more.
    let limits = EngineConfig { block_size: 16, num_blocks: 4, max_model_len: 60, ..ahead() };
    let mut simulator = Simulator::new(limits);
    simulator.submit(submission(1, 1..=15, 40));
    simulator.submit(submission(2, 21..=30, 40));
    let mut lengths = Vec::new();
    while !simulator.client(1).is_done() {
        while simulator.in_flight.len() < 2 && simulator.plan_late(false).is_some() {}
        simulator.commit();
        simulator.check();
        lengths.push(simulator.client(1).answers[0].tokens.len());
    }
    assert!(lengths.windows(3).all(|lengths| lengths[0] < lengths[2]), "the first in turn waits: {lengths:?}");
    simulator.finish();
    assert!([1, 2].iter().all(|&request| simulator.client(request).answers[0].tokens.len() == 40));
    assert!(simulator.engine.stats().num_preemptions > 0);
}
