//! Prints the speed of paged attention: GB/s of K and V in decode, GFLOP/s in prefill, for each instruction set.
//!
//! Beside the time that passed stands the processor time, which means more on a machine that does other things too (with
//! one thread; several count their waits).
//!
//! `cargo run --release -p octavo-kernels --example attention_speed [THREADS [ISA]]`

use std::sync::Arc;
use std::time::Instant;

use octavo_kernels::{AttentionOptions, CpuKernels, Isa, KvCache, KvCacheConfig, KvType, StepMeta};

const NUM_KV_HEADS: usize = 3;
const GROUP: usize = 3;
const HEAD_DIM: usize = 64;
const BLOCK_SIZE: usize = 16;
const NUM_LAYERS: usize = 30;

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |text| text.parse().expect("a number of threads"));
    println!("SmolLM2-135M's shape: 9 query heads, 3 KV heads of 64, 30 layers; block 16; {threads} threads");
    let only = std::env::args().nth(2);
    for isa in Isa::available().into_iter().filter(|isa| only.as_ref().is_none_or(|only| isa.name() == only)) {
        for dtype in [KvType::F16, KvType::Int8] {
            for (sequences, context) in [(1, 128), (1, 8192), (32, 16), (32, 128), (32, 1024)] {
                let (seconds, processor) = measure(isa, threads, dtype, sequences, context, 1);
                let position = match dtype { KvType::F32 => 512, KvType::Int8 => 136, _ => 256 };
                let bytes = (sequences * context * NUM_KV_HEADS * position * NUM_LAYERS) as f64;
                println!(
                    "{isa:>9} {dtype:?} decode {sequences:>2} × {context:>4}: {:7.2} ms a step, {:6.1} GB/s; processor {:6.1}",
                    seconds * 1e3,
                    bytes / seconds / 1e9,
                    bytes / processor / 1e9
                );
            }
            for (context, query) in [(256, 256), (512, 512), (2048, 2048), (2048, 512)] {
            let (seconds, processor) = measure(isa, threads, dtype, 1, context, query);
            let pairs = query * (context - query) + query * (query + 1) / 2;
            let operations = (4 * pairs * NUM_KV_HEADS * GROUP * HEAD_DIM * NUM_LAYERS) as f64;
            println!(
                "{isa:>9} {dtype:?} prefill {query} at {context}: {:7.2} ms a step, {:6.1} GFLOP/s; processor {:6.1}",
                seconds * 1e3,
                operations / seconds / 1e9,
                operations / processor / 1e9
            );
            }
        }
    }
}

/// The best time of one step over all layers: of the clock, and of the processors.
fn measure(isa: Isa, threads: usize, dtype: KvType, sequences: usize, context: usize, query: usize) -> (f64, f64) {
    let kernels = Arc::new(CpuKernels::new(threads, Some(isa)).expect("available"));
    let blocks = context / BLOCK_SIZE;
    let config = KvCacheConfig {
        num_layers: NUM_LAYERS,
        num_blocks: sequences * blocks,
        block_size: BLOCK_SIZE,
        num_kv_heads: NUM_KV_HEADS,
        head_dim: HEAD_DIM,
        max_num_seqs: sequences,
        max_blocks_per_seq: blocks,
        dtype,
    };
    let mut cache = KvCache::new(kernels, config).expect("memory");
    let options = AttentionOptions { scale: 0.125, sliding_window: 0, softcap: 0.0 };
    let entries = 0..(sequences * blocks) as i32;
    let rows: Vec<i32> = (0..sequences as i32).collect();
    let step = |first: usize, count: usize| {
        let starts: Vec<i32> = (0..=sequences).map(|sequence| (sequence * count) as i32).collect();
        let place = |sequence: usize, position: usize| {
            (block_of(sequence, position / BLOCK_SIZE, blocks, sequences * blocks) * BLOCK_SIZE + position % BLOCK_SIZE)
                as i64
        };
        let slots: Vec<i64> =
            (0..sequences).flat_map(|sequence| (first..first + count).map(move |at| place(sequence, at))).collect();
        (starts, slots, vec![(first + count) as i32; sequences])
    };
    let block_of_entry: Vec<i32> = entries
        .clone()
        .map(|entry| block_of(entry as usize / blocks, entry as usize % blocks, blocks, sequences * blocks) as i32)
        .collect();
    let delta_row: Vec<i32> = entries.clone().map(|entry| entry / blocks as i32).collect();
    let delta_column: Vec<i32> = entries.map(|entry| entry % blocks as i32).collect();
    let values: Vec<f32> = (0..sequences * context * HEAD_DIM * NUM_KV_HEADS).map(|i| (i % 97) as f32 * 0.01).collect();
    let queries: Vec<f32> =
        (0..sequences * query * HEAD_DIM * NUM_KV_HEADS * GROUP).map(|i| (i % 89) as f32 * 0.01).collect();
    let mut out = vec![0.0; queries.len()];

    let (starts, slots, lens) = step(0, context);
    let fill = StepMeta {
        row: &rows,
        query_start: &starts,
        seq_len: &lens,
        slot_mapping: &slots,
        delta_row: &delta_row,
        delta_column: &delta_column,
        delta_block: &block_of_entry,
        ..StepMeta::default()
    };
    cache.begin_step(fill).expect("valid");
    for layer in 0..NUM_LAYERS {
        let mut ignored = vec![0.0; values.len()];
        // Memory that was never written would be read from one zero page.
        let window = AttentionOptions { sliding_window: 1, ..options };
        cache.attention(layer, &values, &values, &values, &mut ignored, window).expect("shapes");
    }
    let (starts, slots, lens) = step(context - query, query);
    let meta =
        StepMeta { row: &rows, query_start: &starts, seq_len: &lens, slot_mapping: &slots, ..StepMeta::default() };
    let news = &values[..sequences * query * HEAD_DIM * NUM_KV_HEADS];
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..12 {
        cache.begin_step(meta).expect("valid");
        let (begin, processor) = (Instant::now(), processor_seconds());
        for layer in 0..NUM_LAYERS {
            cache.attention(layer, &queries, news, news, &mut out, options).expect("shapes");
        }
        best.0 = best.0.min(begin.elapsed().as_secs_f64());
        best.1 = best.1.min(processor_seconds() - processor);
    }
    best
}

fn processor_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Blocks lie scattered, as after some time of serving: 7919 is odd, and the number of blocks here a power of two.
fn block_of(sequence: usize, column: usize, blocks_per_sequence: usize, num_blocks: usize) -> usize {
    (sequence * blocks_per_sequence + column) * 7919 % num_blocks
}
