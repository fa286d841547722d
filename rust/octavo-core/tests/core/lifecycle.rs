//! How requests come and end: refusals, aborts, stops, failures, draining, and the front end's death.

use std::time::Duration;

use octavo_core::{Engine, EngineConfig, EngineError, HeapArenas, Inbox};
use octavo_wire::{Command, Endpoint, FailReason, FinishReason, Report};

use crate::simulator::{EOS, Reports, Simulator, config, submission};

#[test]
fn a_full_queue_refuses() {
    let mut simulator = Simulator::new(EngineConfig { max_num_seqs: 1, max_num_queued_reqs: Some(2), ..config() });
    for request in 1..=4 {
        simulator.submit(submission(request, 1..=5, 2));
    }
    simulator.plan(false);
    assert_eq!(simulator.client(4).failed, Some(FailReason::QueueFull));
    simulator.finish();
    assert!((1..=3).all(|request| simulator.client(request).answers[0].tokens.len() == 2));
    assert_eq!(simulator.engine.stats().num_rejected, 1);
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let limits = EngineConfig { num_blocks: 8, max_model_len: 100, ..config() };
    let mut simulator = Simulator::new(limits);
    let refused = [
        submission(1, [], 1),
        submission(2, 1..=60, 1),
        submission(3, 1..=10, 24),
        submission(4, [64], 1),
        submission(5, 1..=10, 0),
    ];
    refused.into_iter().for_each(|submission| simulator.submit(submission));
    let mut many = submission(6, 1..=10, 1);
    many.sampling.n = 5;
    simulator.submit(many);
    let mut verbose = submission(7, 1..=10, 1);
    verbose.sampling.logprobs = Some(4);
    simulator.submit(verbose);
    assert!(simulator.plan(false).is_none());
    assert!((1..=7).all(|request| simulator.client(request).failed == Some(FailReason::Invalid)));
    // 33 tokens of which 32 are computed fill the pool exactly.
    simulator.submit(submission(8, 1..=10, 23));
    simulator.finish();
    assert_eq!(simulator.client(8).answers[0].tokens.len(), 23);
}

#[test]
fn an_answer_ends_at_the_context_length() {
    let mut simulator = Simulator::new(EngineConfig { max_model_len: 12, ..config() });
    simulator.submit(submission(1, 1..=9, 50));
    simulator.finish();
    assert_eq!(simulator.client(1).answers[0].tokens.len(), 3);
    assert_eq!(simulator.client(1).answers[0].finish, Some(FinishReason::Length));
}

#[test]
fn end_of_sequence_and_stop_tokens_end_an_answer_but_not_before_min_tokens() {
    let mut simulator = Simulator::new(EngineConfig { max_model_len: 1000, num_blocks: 1000, ..config() });
    for (request, min_tokens) in [(1, 0), (2, 30)] {
        let mut asked = submission(request, 1..=4, 900);
        asked.sampling.ignore_eos = false;
        asked.sampling.min_tokens = min_tokens;
        asked.sampling.stop_token_ids = (40..60).collect();
        simulator.submit(asked);
    }
    simulator.finish();
    let [early, late] = [1, 2].map(|request| simulator.client(request).answers[0].clone());
    assert!(matches!(early.finish, Some(FinishReason::StopToken(40..60) | FinishReason::EndOfSequence)));
    assert!(late.tokens.len() >= 30);
    assert!(!late.tokens[..30].iter().any(|token| *token == EOS || (40..60).contains(token)));
}

#[test]
fn an_abort_in_mid_chunk_takes_effect_at_the_commit() {
    let mut simulator = Simulator::new(config());
    simulator.submit(submission(1, (0..100).map(|token| token % 61), 5));
    simulator.plan(false).expect("a request waits");
    simulator.abort(1);
    assert!(simulator.plan(false).is_none());
    assert!(!simulator.client(1).is_done());
    simulator.check();
    simulator.commit();
    assert_eq!(simulator.client(1).answers[0].finish, Some(FinishReason::Abort));
    assert_eq!(simulator.engine.stats().num_used_blocks, 0);
    simulator.check();
}

#[test]
fn an_abort_ends_every_choice_running_or_waiting() {
    let mut simulator = Simulator::new(config());
    for request in [1, 2] {
        let mut asked = submission(request, 1..=5, 20);
        asked.sampling.n = 3;
        simulator.submit(asked);
    }
    simulator.plan(false);
    simulator.commit();
    simulator.abort(1);
    simulator.abort(2);
    simulator.abort(3);
    assert!(simulator.plan(false).is_none());
    for request in [1, 2] {
        assert!(simulator.client(request).answers.iter().all(|answer| answer.finish == Some(FinishReason::Abort)));
    }
}

#[test]
fn a_stop_ends_one_choice_silently() {
    let mut simulator = Simulator::new(config());
    let mut asked = submission(1, 1..=5, 6);
    asked.sampling.n = 2;
    simulator.submit(asked);
    simulator.plan(false);
    simulator.commit();
    simulator.stop(1, 0);
    simulator.finish();
    let answers = &simulator.client(1).answers;
    assert_eq!((answers[0].tokens.len(), answers[0].finish), (1, None));
    assert_eq!((answers[1].tokens.len(), answers[1].finish), (6, Some(FinishReason::Length)));
    simulator.inbox.push(Command::Stop { request: 1, choice: 1 });
    assert!(simulator.plan(false).is_none());
}

#[test]
fn epochs_are_committed_once_and_in_order() {
    let mut simulator = Simulator::new(config());
    simulator.submit(submission(1, 1..=5, 4));
    let (first, _) = simulator.plan(false).expect("a request waits");
    simulator.submit(submission(2, 11..=15, 4));
    let (second, _) = simulator.plan(false).expect("another waits");
    simulator.submit(submission(3, 21..=25, 4));
    let mut arenas = HeapArenas::new(simulator.engine.arena_layout());
    assert!(matches!(simulator.engine.plan(Duration::ZERO, &mut arenas), Err(EngineError::NoFreeArena)));
    let stale = |result| matches!(result, Err(EngineError::StaleEpoch { .. }));
    assert!(stale(simulator.commit_epoch(second.epoch)));
    assert!(stale(simulator.commit_epoch(99)));
    simulator.commit();
    assert!(stale(simulator.commit_epoch(first.epoch)));
    assert!(stale(simulator.engine.fail(first.epoch, "late")));
    assert!(simulator.engine.sampling(first.epoch).is_err());
    simulator.finish();
    assert!((1..=3).all(|request| simulator.client(request).is_done()));
}

#[test]
fn a_broken_step_fails_its_requests_alone() {
    let mut simulator = Simulator::new(EngineConfig { max_num_seqs: 2, ..config() });
    for request in 1..=3 {
        simulator.submit(submission(request, (0..30).map(|index| index + request as u32), 3));
    }
    simulator.plan(true);
    simulator.commit();
    simulator.check();
    simulator.finish();
    assert_eq!([1, 2, 3].map(|request| simulator.client(request).failed.is_some()), [true, true, false]);
    assert_eq!(simulator.client(3).answers[0].tokens.len(), 3);
}

#[test]
fn a_token_outside_the_vocabulary_fails_its_request_alone() {
    let mut simulator = Simulator::new(config());
    simulator.submit(submission(1, 1..=5, 3));
    simulator.submit(submission(2, 2..=5, 3));
    let (plan, _) = simulator.plan(false).expect("requests wait");
    simulator.write("sampled", &plan, &[-1]);
    simulator.finish();
    assert_eq!(simulator.client(1).failed, Some(FailReason::Internal));
    assert_eq!(simulator.client(2).answers[0].tokens.len(), 3);
    simulator.check();
}

#[test]
fn draining_finishes_what_is_there_and_refuses_the_rest() {
    let mut simulator = Simulator::new(EngineConfig { max_num_seqs: 1, ..config() });
    simulator.submit(submission(1, 1..=5, 3));
    simulator.submit(submission(2, 1..=5, 3));
    simulator.inbox.push(Command::Drain);
    simulator.submit(submission(3, 1..=5, 3));
    simulator.plan(false);
    assert!(!simulator.engine.closed());
    simulator.finish();
    assert!(simulator.engine.closed());
    assert_eq!(simulator.client(3).failed, Some(FailReason::Draining));
    assert!((1..=2).all(|request| simulator.client(request).answers[0].tokens.len() == 3));
}

#[test]
fn the_front_ends_death_closes_the_engine_at_once() {
    let mut simulator = Simulator::new(config());
    simulator.submit(submission(1, 1..=5, 30));
    simulator.plan(false);
    simulator.inbox.close();
    assert!(simulator.plan(false).is_none());
    assert!(simulator.engine.closed());
    simulator.commit();
}

#[test]
fn an_idle_engine_says_that_it_lives() {
    let reports = Reports::default();
    let mut engine = Engine::new(config(), Inbox::default(), Box::new(reports.clone())).expect("the limits agree");
    let mut arenas = HeapArenas::new(engine.arena_layout());
    assert!(engine.plan(Duration::from_millis(1100), &mut arenas).expect("an arena is free").is_none());
    let reports = reports.take();
    assert!(matches!(&reports[..], [Report::Idle(stats)] if stats.num_blocks == 64), "{reports:?}");
}

#[test]
fn over_the_wire_a_request_wakes_the_engine_and_is_answered() {
    let (front, back) = Endpoint::pair();
    let mut engine = Engine::connect(config(), back).expect("the limits agree");
    let mut arenas = HeapArenas::new(engine.arena_layout());
    let (mut sender, mut receiver) = front.split();
    engine.ready("{}".into());
    assert_eq!(receiver.recv_report(None), Ok(Some(Report::Ready { info: "{}".into() })));
    sender.send_command(&Command::Submit(Box::new(submission(1, 1..=5, 1)))).expect("the engine lives");
    let plan = engine.plan(Duration::from_secs(60), &mut arenas).expect("an arena is free").expect("a request came");
    engine.commit(plan.epoch, &mut arenas).expect("the step is the oldest");
    let Ok(Some(Report::Step(step))) = receiver.recv_report(None) else { panic!("a step was committed") };
    assert_eq!(step.outputs[0].tokens, [0]);
    drop((sender, receiver));
    while !engine.closed() {
        assert!(engine.plan(Duration::from_secs(60), &mut arenas).expect("an arena is free").is_none());
    }
}

#[test]
fn limits_which_contradict_each_other_are_refused() {
    let refused = [
        EngineConfig { block_size: 0, ..config() },
        EngineConfig { max_num_seqs: 64, max_num_batched_tokens: 32, ..config() },
        EngineConfig { enable_chunked_prefill: false, max_num_batched_tokens: 64, ..config() },
        EngineConfig { num_blocks: 1 << 30, block_size: 16, ..config() },
    ];
    for limits in refused {
        let engine = Engine::new(limits, Inbox::default(), Box::new(Reports::default()));
        assert!(matches!(engine, Err(EngineError::Config(_))));
    }
}
