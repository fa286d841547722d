//! Chance chooses the limits, the requests and the order of events. After each of them the engine is whole and no
//! budget is exceeded; after the last everybody has an answer and no block is held.

use std::cell::Cell;

use octavo_core::{DeviceWork, EngineConfig, Policy};
use octavo_wire::{BeamStop, Beams, Command, FailReason, Structure, StructureKind, Submission};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::grammar::{finish, vocabulary};
use crate::simulator::{Simulator, config, submission};

pub const WORK: DeviceWork =
    DeviceWork { num_heads: 4, num_kv_heads: 2, prefill_tile_rows: 8, decode_units: 8, prefill_units: 8 };

#[derive(Clone, Debug)]
enum Event {
    Submit(Ask),
    Abort(usize),
    Stop(usize, u32),
    Plan { broken: bool, late: bool },
    Run,
    Commit,
    Reset,
}

#[derive(Clone, Debug)]
struct Ask {
    /// Requests of a family begin alike.
    family: u32,
    common: usize,
    own: usize,
    max_tokens: u32,
    min_tokens: u32,
    n: u32,
    priority: i32,
    salted: bool,
    logprobs: Option<u32>,
    prompt_logprobs: Option<u32>,
    penalty: f32,
    ends: bool,
    structured: bool,
    /// Beams, in place of choices, when not 0.
    width: u32,
    length_penalty: f64,
}

impl Ask {
    fn submission(&self, request: u64, limits: &EngineConfig) -> Submission {
        let common = (0..self.common as u32).map(|index| (self.family * 7 + index) % 60 + 1);
        let own = (0..self.own as u32).map(|index| (request as u32 * 13 + index) % 60 + 1);
        let longest = limits.max_model_len as usize - 1;
        let mut submission = submission(request, common.chain(own).take(longest), self.max_tokens);
        submission.priority = self.priority;
        submission.cache_salt = if self.salted { "salt".into() } else { String::new() };
        let sampling = &mut submission.sampling;
        sampling.n = self.n.min(limits.max_num_seqs);
        sampling.min_tokens = self.min_tokens;
        sampling.logprobs = self.logprobs;
        sampling.prompt_logprobs = self.prompt_logprobs;
        sampling.frequency_penalty = self.penalty;
        sampling.ignore_eos = !self.ends;
        sampling.stop_token_ids = if self.ends { vec![5, 17] } else { vec![] };
        let structure = Structure { kind: StructureKind::Regex, text: "[a-z0-9]{2,9}".into() };
        sampling.structure = self.structured.then_some(structure);
        if self.width > 0 {
            let width = self.width.min(limits.max_num_seqs);
            sampling.n = sampling.n.min(width);
            sampling.beams = Some(Beams { width, length_penalty: self.length_penalty, stop: BeamStop::Exact });
            (sampling.min_tokens, sampling.frequency_penalty, sampling.structure) = (0, 0.0, None);
        }
        submission
    }
}

fn limits() -> impl Strategy<Value = (EngineConfig, u32)> {
    let sizes = (1_u32..6, prop::sample::select(vec![1_u32, 2, 4, 5]), 6_u32..60, 0_u32..40);
    let switches = (prop::bool::weighted(0.8), prop::bool::weighted(0.8), any::<bool>(), 0_u32..3);
    let for_gpus = (prop::bool::weighted(0.7), any::<bool>());
    let bits = prop::sample::select(vec![128_u32, 128, 5, 2, 0]);
    (sizes, switches, for_gpus, bits, 0_u32..24).prop_map(|(sizes, switches, for_gpus, bits, more_blocks)| {
        let (max_num_seqs, block_size, max_model_len, more_tokens) = sizes;
        let (chunked, caching, by_priority, threshold) = switches;
        let (async_decode, on_gpu) = for_gpus;
        let limits = EngineConfig {
            // Tight: the longest request just fits, or a little more.
            num_blocks: max_model_len.div_ceil(block_size) + more_blocks,
            block_size,
            max_num_seqs,
            max_num_batched_tokens: if chunked { max_num_seqs } else { max_num_seqs.max(max_model_len) } + more_tokens,
            max_model_len,
            enable_prefix_caching: caching,
            enable_chunked_prefill: chunked,
            policy: if by_priority { Policy::Priority } else { Policy::Fcfs },
            long_prefill_token_threshold: threshold * 3,
            max_num_queued_reqs: Some(20),
            async_decode,
            device_work: on_gpu.then_some(WORK),
            ..config()
        };
        (limits, bits)
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let lengths = (0_u32..3, 0_usize..40, 1_usize..20, 1_u32..20, 0_u32..4);
    let rest = (prop::sample::select(vec![1_u32, 1, 1, 2, 3, 5]), -1_i32..2, prop::bool::weighted(0.1));
    let logprobs = || prop::option::weighted(0.2, 0_u32..4);
    let wishes = (logprobs(), logprobs(), prop::sample::select(vec![0.0_f32, 0.5]));
    let beams = (
        prop::sample::select(vec![0_u32, 0, 0, 0, 0, 0, 1, 2, 3, 5]),
        prop::sample::select(vec![1.0_f64, 0.0, 2.0, -1.0]),
    );
    (lengths, rest, wishes, any::<bool>(), prop::bool::weighted(0.1), beams).prop_map(
        |(
            (family, common, own, max_tokens, min_tokens),
            (n, priority, salted),
            (logprobs, prompt_logprobs, penalty),
            ends,
            structured,
            (width, length_penalty),
        )| Ask {
            family,
            common,
            own,
            max_tokens,
            min_tokens,
            n,
            priority,
            salted,
            logprobs,
            prompt_logprobs,
            penalty,
            ends,
            structured,
            width,
            length_penalty,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => ask().prop_map(Event::Submit),
        4 => any::<usize>().prop_map(Event::Abort),
        4 => (any::<usize>(), 0_u32..5).prop_map(|(who, choice)| Event::Stop(who, choice)),
        50 => (prop::bool::weighted(0.02), any::<bool>()).prop_map(|(broken, late)| Event::Plan { broken, late }),
        10 => Just(Event::Run),
        40 => Just(Event::Commit),
        1 => Just(Event::Reset),
    ]
}

/// The number of steps that hold tokens which nobody knew yet.
fn live(limits: EngineConfig, bits: u32, events: &[Event]) -> usize {
    let mut num_ahead = 0;
    let mut simulator = Simulator::with_hash_bits(limits.clone(), bits);
    simulator.engine.set_vocabulary(Box::new(vocabulary));
    let mut num_requests = 0;
    for event in events {
        match event {
            Event::Submit(ask) => {
                simulator.submit(ask.submission(num_requests, &limits));
                num_requests += 1;
            }
            Event::Abort(who) => simulator.abort(*who as u64 % (num_requests + 1)),
            Event::Stop(who, choice) => {
                let request = *who as u64 % (num_requests + 1);
                let n = simulator.clients.get(&request).map_or(1, |client| client.answers.len() as u32);
                simulator.stop(request, choice % n);
            }
            Event::Plan { broken, late } if simulator.in_flight.len() < 2 => {
                let planned = if *late { simulator.plan_late(*broken) } else { simulator.plan(*broken) };
                num_ahead +=
                    usize::from(planned.is_some_and(|(_, columns)| columns.input_ids.iter().any(|&id| id < 0)));
            }
            Event::Run => {
                simulator.run();
            }
            Event::Plan { .. } | Event::Commit => simulator.commit(),
            Event::Reset => simulator.inbox.push(Command::ResetPrefixCache),
        }
        simulator.check();
    }
    finish(&mut simulator);
    for (request, client) in &simulator.clients {
        assert!(client.is_done(), "request {request} has no end: {client:?} {:?}", simulator.engine.stats());
        let refused = matches!(client.failed, None | Some(FailReason::QueueFull | FailReason::Internal));
        assert!(refused, "request {request} was refused");
    }
    let stats = simulator.engine.stats();
    assert_eq!((stats.num_used_blocks, stats.num_wasted_slots, stats.num_running, stats.num_waiting), (0, 0, 0, 0));
    num_ahead
}

fn live_often(cases: u32, num_events: usize) {
    let options = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Default::default() };
    let num_ahead = Cell::new(0);
    TestRunner::new(options)
        .run(&(limits(), prop::collection::vec(event(), num_events)), |((limits, bits), events)| {
            num_ahead.set(num_ahead.get() + live(limits, bits, &events));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(num_ahead.get() > num_events * cases as usize / 200, "steps were planned ahead {} times", num_ahead.get());
}

#[test]
fn a_hundred_thousand_events_lose_no_block_and_starve_nobody() {
    live_often(500, 200);
}

#[test]
#[ignore = "takes minutes"]
fn ten_million_events_lose_no_block_and_starve_nobody() {
    live_often(20_000, 500);
}
