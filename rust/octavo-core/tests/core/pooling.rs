//! Prompts that are pooled: scheduled like others, ended by their prompt, refused by name.

use octavo_core::{EngineConfig, PoolingLimits};
use octavo_wire::{FailReason, FinishReason, Pooling, PoolingTask, RequestId, Submission};

use crate::simulator::{Simulator, config, submission};

/// A decoder: its last token is enough for an embedding, but not for one of each token.
fn decoder() -> EngineConfig {
    let tasks = vec![PoolingTask::Embed, PoolingTask::TokenEmbed];
    let whole = vec![PoolingTask::TokenEmbed];
    EngineConfig { pooling: Some(PoolingLimits { tasks, whole, width: 8, num_labels: 0 }), ..config() }
}

/// An encoder: a block is the place of one sequence.
fn encoder() -> EngineConfig {
    let tasks = vec![PoolingTask::Embed];
    EngineConfig {
        pooling: Some(PoolingLimits { tasks: tasks.clone(), whole: tasks, width: 8, num_labels: 0 }),
        block_size: 32,
        num_blocks: 4,
        max_model_len: 32,
        enable_prefix_caching: false,
        enable_chunked_prefill: false,
        ..config()
    }
}

fn pooled(request: RequestId, prompt: impl IntoIterator<Item = u32>, task: PoolingTask) -> Submission {
    let pooling = Pooling { task, dimensions: None, normalize: None, num_first: 0 };
    Submission { pooling: Some(pooling), ..submission(request, prompt, 1) }
}

#[test]
fn a_long_prompt_is_computed_in_chunks_and_found_again() {
    let mut simulator = Simulator::new(decoder());
    simulator.submit(pooled(1, 1..=60, PoolingTask::Embed));
    assert_eq!(simulator.finish(), 2);
    assert_eq!(simulator.client(1).pooled, Some(0));
    simulator.submit(pooled(2, 1..=60, PoolingTask::Embed));
    simulator.finish();
    assert_eq!(simulator.client(2).pooled, Some(56));
    let stats = simulator.engine.stats();
    assert_eq!((stats.prompt_tokens, stats.generation_tokens, stats.num_used_blocks), (120, 0, 0));
    simulator.check();
}

#[test]
fn a_whole_prompt_takes_nothing_from_the_cache_and_runs_in_one_step() {
    let mut simulator = Simulator::new(decoder());
    for request in 1..=3 {
        simulator.submit(pooled(request, 1..=30, PoolingTask::TokenEmbed));
    }
    while let Some((plan, columns)) = simulator.plan(false) {
        assert_eq!((plan.num_reqs, columns.positions[0], plan.num_samples), (1, 0, 1));
        simulator.commit();
        simulator.check();
    }
    assert!((1..=3).all(|request| simulator.client(request).pooled == Some(0)));
}

#[test]
fn an_encoder_packs_whole_prompts() {
    let mut simulator = Simulator::new(encoder());
    for request in 0..20 {
        simulator.submit(pooled(request, (0..1 + request as u32 % 16).map(|token| token % 60), PoolingTask::Embed));
    }
    while let Some((plan, columns)) = simulator.plan(false) {
        assert_eq!(plan.num_samples, plan.num_reqs);
        assert!(columns.query_start.windows(2).all(|ends| columns.positions[ends[0] as usize] == 0));
        simulator.commit();
        simulator.check();
    }
    assert!((0..20).all(|request| simulator.client(request).pooled == Some(0)));
}

#[test]
fn what_the_model_does_not_pool_is_refused() {
    let mut simulator = Simulator::new(decoder());
    simulator.submit(submission(1, 1..=5, 5));
    simulator.submit(pooled(2, 1..=5, PoolingTask::Classify));
    simulator.submit(pooled(3, (0..129).map(|token| token % 60), PoolingTask::Embed));
    simulator.submit(pooled(4, 1..=33, PoolingTask::TokenEmbed));
    for (request, dimensions) in [(5, 0), (6, 9)] {
        let mut submission = pooled(request, 1..=5, PoolingTask::Embed);
        submission.pooling.as_mut().expect("it pools").dimensions = Some(dimensions);
        simulator.submit(submission);
    }
    // A whole context is no limit to a prompt that nothing follows.
    simulator.submit(pooled(7, (0..128).map(|token| token % 60), PoolingTask::Embed));
    simulator.finish();
    assert!((1..=6).all(|request| simulator.client(request).failed == Some(FailReason::Invalid)));
    assert_eq!(simulator.client(7).pooled, Some(0));
    let mut simulator = Simulator::new(config());
    simulator.submit(pooled(1, 1..=5, PoolingTask::Embed));
    simulator.finish();
    assert_eq!(simulator.client(1).failed, Some(FailReason::Invalid));
}

#[test]
fn an_abort_and_a_broken_step_end_it_as_they_end_others() {
    let mut simulator = Simulator::new(decoder());
    simulator.submit(pooled(1, 1..=60, PoolingTask::Embed));
    simulator.submit(pooled(2, 30..=40, PoolingTask::Embed));
    simulator.plan(false);
    simulator.abort(1);
    simulator.commit();
    simulator.finish();
    assert_eq!(simulator.client(1).answers[0].finish, Some(FinishReason::Abort));
    assert_eq!((simulator.client(1).pooled, simulator.client(2).pooled), (None, Some(0)));
    simulator.submit(pooled(3, 1..=7, PoolingTask::Embed));
    simulator.plan(true);
    simulator.commit();
    assert_eq!(simulator.client(3).failed, Some(FailReason::Internal));
    simulator.check();
}
