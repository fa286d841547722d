//! The lists of attention's work, over contexts long enough to be split. `device` holds every plan to their promises.

use octavo_core::{DeviceWork, Engine, EngineConfig, EngineError, Inbox};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::device::{Item, Merge};
use crate::simulator::{Reports, Simulator, config, submission};

const WORK: DeviceWork =
    DeviceWork { num_heads: 8, num_kv_heads: 2, prefill_tile_rows: 16, decode_units: 16, prefill_units: 12 };

fn long(work: DeviceWork) -> EngineConfig {
    EngineConfig {
        num_blocks: 4096,
        block_size: 16,
        max_num_seqs: 8,
        max_num_batched_tokens: 1024,
        max_model_len: 4096,
        device_work: Some(work),
        ..config()
    }
}

#[test]
fn a_small_plan() {
    let mut simulator = Simulator::new(long(WORK));
    simulator.submit(submission(1, (0..300).map(|index| index % 61), 5));
    let (plan, _) = simulator.plan(false).expect("a request waits");
    let lists = simulator.lists(&plan);
    // 1,200 rows are 75 tiles, more than run at once: none is split, and the last one, with the most keys, is the first.
    assert_eq!((lists.decode.len(), lists.prefill.len(), lists.merges.len()), (0, 75, 0));
    assert_eq!(lists.prefill[0], Item { entry: 0, first_row: 1184, kv_begin: 0, kv_end: 300, slot: -1 });
    simulator.commit();

    // One answer goes on, and a prompt of 294 tokens comes, of which 288 are cached.
    simulator.submit(submission(2, (0..288).map(|index| index % 61).chain([60; 6]), 5));
    let (plan, columns) = simulator.plan(false).expect("both run");
    assert_eq!((columns.query_start, columns.seq_len), (vec![0, 1, 7], vec![301, 294]));
    let lists = simulator.lists(&plan);
    let item = |kv_begin, kv_end, slot| Item { entry: 0, first_row: 0, kv_begin, kv_end, slot };
    assert_eq!(lists.decode, [item(0, 128, 0), item(128, 256, 1), item(256, 301, 2)]);
    // Two tiles, of four tokens and of two, in at most six items.
    let item = |first_row, kv_begin, kv_end, slot| Item { entry: 1, first_row, kv_begin, kv_end, slot };
    let expected = [
        item(0, 0, 128, 3),
        item(0, 128, 256, 9),
        item(16, 0, 128, 3),
        item(16, 128, 256, 9),
        item(16, 256, 294, 15),
        item(0, 256, 292, 15),
    ];
    assert_eq!(lists.prefill, expected);
    let merge = |token, first_slot, slot_stride| Merge { token, first_slot, num_slots: 3, slot_stride };
    let prefill = (0..6).map(|token| merge(1 + token, 3 + token, 6));
    assert_eq!(lists.merges, [merge(0, 0, 1)].into_iter().chain(prefill).collect::<Vec<_>>());
    simulator.commit();
    simulator.finish();
}

/// How long a GPU takes for items: block b takes every item whose number is b, more than the blocks, and so on.
fn keys_of_the_slowest(items: &[Item], num_blocks: usize) -> usize {
    let sum = |block: usize| items.iter().skip(block).step_by(num_blocks).map(|item| item.kv_end - item.kv_begin).sum();
    (0..num_blocks).map(sum).max().unwrap_or(0)
}

/// The lists of decode for requests of these lengths, on a GPU that takes eight items at once.
fn decode_items(lengths: &[u32]) -> Vec<Item> {
    let mut simulator = Simulator::new(EngineConfig { num_blocks: 1 << 14, max_num_seqs: 64, ..long(WORK) });
    for (request, &length) in (0..).zip(lengths) {
        simulator.submit(submission(request, (0..length).map(|index| (request as u32 + index) % 61), 60));
    }
    loop {
        let (plan, columns) = simulator.plan(false).expect("they run");
        let decodes = columns.seq_len.len() == lengths.len() && plan.max_query_len == 1;
        let items = simulator.lists(&plan).decode;
        simulator.commit();
        if decodes {
            simulator.finish();
            return items;
        }
    }
}

#[test]
fn the_last_round_of_decoding_is_not_left_to_a_few() {
    // Eleven requests where eight run at once: whole, they take two rounds, as long as sixteen would.
    let items = decode_items(&[1800; 11]);
    assert!(keys_of_the_slowest(&items, 8) < 1800 * 8 / 5);
    // One long request among many short ones.
    let items = decode_items(&[[4000].as_slice(), &[100; 40]].concat());
    assert!(keys_of_the_slowest(&items, 8) < 1800);
    // Sixteen fill two rounds.
    assert!(decode_items(&[1500; 16]).iter().all(|item| item.slot == -1));
}

/// Requests begin alike, so that some find a long beginning in the cache and are short queries over it.
fn run(work: DeviceWork, max_num_batched_tokens: u32, requests: &[(u32, u32)]) {
    let mut simulator = Simulator::new(EngineConfig { max_num_batched_tokens, ..long(work) });
    for (request, &(common, own)) in (0..).zip(requests) {
        let own = (0..own).map(|index| (request as u32 * 13 + index) % 60);
        simulator.submit(submission(request, (0..common).map(|index| index % 61).chain(own), 3));
        simulator.plan(false);
        simulator.commit();
    }
    simulator.finish();
}

#[test]
fn lists_cover_every_key_that_a_row_may_see_once() {
    let heads = prop::sample::select(vec![(1, 1), (2, 1), (7, 7), (8, 2), (14, 2), (32, 8), (24, 1)]);
    let tile_rows = prop::sample::select(vec![5_u32, 16, 64, 100, 128]);
    let work = (heads, tile_rows, 1_u32..400, 1_u32..400).prop_map(|(heads, prefill_tile_rows, decode, prefill)| {
        let ((num_heads, num_kv_heads), decode_units, prefill_units) = (heads, decode, prefill);
        DeviceWork { num_heads, num_kv_heads, prefill_tile_rows, decode_units, prefill_units }
    });
    let request = (0_u32..1500, prop_oneof![1_u32..40, 1_u32..700]);
    let cases = (work, 8_u32..1024, prop::collection::vec(request, 1..8));
    let options = ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() };
    TestRunner::new(options)
        .run(&cases, |(work, max_num_batched_tokens, requests)| {
            run(work, max_num_batched_tokens, &requests);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn work_that_no_gpu_has_is_refused() {
    let refused = [
        DeviceWork { num_heads: 0, ..WORK },
        DeviceWork { num_kv_heads: 3, ..WORK },
        DeviceWork { prefill_tile_rows: 0, ..WORK },
        DeviceWork { decode_units: 1 << 20, ..WORK },
    ];
    for work in refused {
        let engine = Engine::new(long(work), Inbox::default(), Box::new(Reports::default()));
        assert!(matches!(engine, Err(EngineError::Config(_))));
    }
}
