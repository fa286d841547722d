//! The prefix cache: what is shared, what is never shared, and what is forgotten first.

use octavo_core::EngineConfig;
use octavo_wire::Command;

use crate::simulator::{Simulator, config, submission};

/// Runs one request to its end; the prompt tokens which it found in the cache.
fn cached_of(simulator: &mut Simulator, request: u64, prompt: impl IntoIterator<Item = u32>) -> u32 {
    simulator.submit(submission(request, prompt, 1));
    simulator.finish();
    simulator.check();
    simulator.client(request).answers[0].num_cached
}

#[test]
fn a_common_beginning_is_computed_once() {
    let mut simulator = Simulator::new(config());
    assert_eq!(cached_of(&mut simulator, 1, 1..=10), 0);
    assert_eq!(cached_of(&mut simulator, 2, (1..=8).chain(20..30)), 8);
    assert_eq!(cached_of(&mut simulator, 3, 2..=10), 0);
    let stats = simulator.engine.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (10 + 18 + 9, 8));
}

#[test]
fn a_fully_cached_prompt_computes_its_last_block_for_the_logits() {
    let mut simulator = Simulator::new(config());
    assert_eq!(cached_of(&mut simulator, 1, 1..=8), 0);
    simulator.submit(submission(2, 1..=8, 1));
    let (plan, columns) = simulator.plan(false).expect("a request waits");
    assert_eq!((plan.num_tokens, plan.num_samples), (4, 1));
    assert_eq!(columns.positions, [4, 5, 6, 7]);
    simulator.finish();
    // One token more, and every cached block serves.
    assert_eq!(cached_of(&mut simulator, 3, 1..=9), 8);
}

#[test]
fn the_same_prompt_twice_in_one_step_is_computed_once() {
    let mut simulator = Simulator::new(EngineConfig { max_num_batched_tokens: 128, ..config() });
    simulator.submit(submission(1, 1..=40, 4));
    simulator.submit(submission(2, 1..=40, 4));
    simulator.submit(submission(3, (1..=20).chain(41..=60), 4));
    let (plan, _) = simulator.plan(false).expect("requests wait");
    assert_eq!((plan.num_reqs, plan.num_tokens), (1, 40));
    simulator.commit();
    let (plan, _) = simulator.plan(false).expect("all run");
    assert_eq!((plan.num_reqs, plan.num_tokens), (3, 1 + 4 + 20));
    simulator.finish();
    assert_eq!([1, 2, 3].map(|request| simulator.client(request).answers[0].num_cached), [0, 36, 20]);
    simulator.check();
}

#[test]
fn the_same_prompt_computed_twice_is_kept_once() {
    // Too short a block for the second to wait for: both compute it, the first is cached.
    let mut simulator = Simulator::new(EngineConfig { block_size: 16, ..config() });
    simulator.submit(submission(1, 1..=16, 20));
    simulator.submit(submission(2, 1..=16, 20));
    let (plan, _) = simulator.plan(false).expect("requests wait");
    assert_eq!((plan.num_reqs, plan.num_tokens), (2, 32));
    simulator.finish();
    simulator.check();
    assert_eq!(cached_of(&mut simulator, 3, 1..=17), 16);
}

#[test]
fn a_prompt_in_chunks_takes_what_another_has_computed_meanwhile() {
    let limits = EngineConfig { max_num_batched_tokens: 128, max_model_len: 512, num_blocks: 512, ..config() };
    let mut simulator = Simulator::new(limits);
    simulator.submit(submission(1, (0..400).map(|token| token % 61), 1));
    simulator.submit(submission(2, (0..400).map(|token| token % 61), 1));
    assert_eq!(simulator.finish(), 5);
    assert_eq!([1, 2].map(|request| simulator.client(request).answers[0].num_cached), [0, 396]);
}

#[test]
fn forced_collisions_never_share_a_wrong_block() {
    for bits in [0, 1, 3] {
        let mut simulator = Simulator::with_hash_bits(config(), bits);
        for request in 0..40 {
            // The simulator compares each position's history.
            cached_of(&mut simulator, request, (0..20).map(|index| (request as u32 % 7 + index) % 60));
        }
        let salted = |request, salt: &str| {
            let mut submission = submission(request, (0..20).map(|index| index % 60), 1);
            submission.cache_salt = salt.into();
            submission
        };
        for (request, salt) in [(50, "a"), (51, "b"), (52, ""), (53, "a")] {
            simulator.submit(salted(request, salt));
            simulator.finish();
            let expected = if salt.is_empty() { 16 } else { 0 };
            assert!(bits > 0 || simulator.client(request).answers[0].num_cached <= expected);
        }
    }
}

#[test]
fn requests_share_only_under_the_same_salt() {
    let mut simulator = Simulator::new(config());
    let mut cached = |request, salt: &str| {
        let mut submission = submission(request, 1..=17, 1);
        submission.cache_salt = salt.into();
        simulator.submit(submission);
        simulator.finish();
        simulator.client(request).answers[0].num_cached
    };
    assert_eq!(cached(1, "one"), 0);
    assert_eq!(cached(2, "two"), 0);
    assert_eq!(cached(3, ""), 0);
    assert_eq!(cached(4, "two"), 16);
    assert_eq!(cached(5, "one"), 16);
    assert_eq!(cached(6, ""), 16);
}

#[test]
fn the_block_freed_longest_ago_is_forgotten_first() {
    // Each prompt leaves two full blocks behind, and a third which holds one token.
    let mut simulator = Simulator::new(EngineConfig { num_blocks: 7, max_model_len: 28, ..config() });
    let prompt = |family: u32| (0..9).map(move |index| family * 10 + index + 1);
    for (request, family) in [(1, 0), (2, 1), (3, 2)] {
        assert_eq!(cached_of(&mut simulator, request, prompt(family)), 0);
    }
    // Touched again, the first is the youngest; a new one takes the blocks of the second, last block first.
    assert_eq!(cached_of(&mut simulator, 4, prompt(0)), 8);
    assert_eq!(cached_of(&mut simulator, 5, prompt(3)), 0);
    assert_eq!(cached_of(&mut simulator, 6, prompt(0)), 8);
    assert_eq!(cached_of(&mut simulator, 7, prompt(2)), 8);
    assert_eq!(cached_of(&mut simulator, 8, prompt(1)), 0);
}

#[test]
fn a_reset_forgets_what_nobody_uses() {
    let mut simulator = Simulator::new(config());
    assert_eq!(cached_of(&mut simulator, 1, 1..=9), 0);
    simulator.inbox.push(Command::ResetPrefixCache);
    assert_eq!(cached_of(&mut simulator, 2, 1..=9), 0);
    assert_eq!(cached_of(&mut simulator, 3, 1..=9), 8);
}

#[test]
fn without_prefix_caching_nothing_is_found() {
    let mut simulator = Simulator::new(EngineConfig { enable_prefix_caching: false, ..config() });
    assert_eq!(cached_of(&mut simulator, 1, 1..=9), 0);
    assert_eq!(cached_of(&mut simulator, 2, 1..=9), 0);
    assert_eq!(simulator.engine.stats().prefix_queries, 0);
}
