//! Products of packed weights: every format, the shapes of a small model and one of a larger, from one row to thousands.
//!
//! The throughput is in operations, two for each multiplication. The weights go round among copies which no cache
//! holds, as a model's do. `cargo bench -p octavo-kernels -- 'Q4_1/576x1536'` runs some of it.

use std::hint::black_box;
use std::thread::available_parallelism;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use octavo_kernels::{Activations, Contents, CpuKernels, Encoding, Format, Linear, Stored};

/// Columns × rows: qkv, output, gate and up, down and head of SmolLM2-135M; gate of a model with 1 billion weights.
const SHAPES: [(usize, usize); 6] = [(576, 960), (576, 576), (576, 1536), (1536, 576), (576, 49_152), (2048, 8192)];

const TOKENS: [usize; 6] = [1, 4, 16, 32, 256, 2048];

/// More than the caches hold.
const COPIES_BYTES: usize = 96 << 20;

fn formats() -> Vec<(Encoding, Format)> {
    let kept = [Encoding::Q4_0, Encoding::Q4_1, Encoding::Q5_0, Encoding::Q5_1, Encoding::Q8_0]
        .into_iter()
        .chain([Encoding::Q4K, Encoding::Q5K, Encoding::Q6K, Encoding::F16, Encoding::Bf16, Encoding::F32])
        .map(|encoding| (encoding, encoding.format()));
    kept.chain([Format::Int8, Format::Int4 { group: 128 }].map(|format| (Encoding::F32, format))).collect()
}

/// Small weights: zeros in all but the low bits of scales and floats.
fn stored_bytes(encoding: Encoding, rows: usize, columns: usize) -> Option<Vec<u8>> {
    let bytes = rows * encoding.row_bytes(columns)?;
    Some((0..bytes).map(|index| (index % 29) as u8).collect())
}

fn products(criterion: &mut Criterion) {
    let threads = available_parallelism().map_or(1, usize::from);
    let kernels = CpuKernels::new(threads, None).expect("the best instruction set is there");
    for (encoding, format) in formats() {
        for (columns, rows) in SHAPES {
            let Some(bytes) = stored_bytes(encoding, rows, columns) else { continue };
            let copies = (COPIES_BYTES / Linear::packed_bytes(rows, columns, format)).max(2);
            let stored = Stored { bytes: &bytes, rows, encoding, interleaved_head: 0 };
            let pack = || Linear::pack(&kernels, columns, &[stored], Some(format)).expect("packs");
            let mut matrices = Vec::new();
            let mut group = criterion.benchmark_group(format!("{format}/{columns}x{rows}"));
            for tokens in TOKENS {
                // Nobody computes the logits of a whole prompt.
                if rows > 10_000 && tokens > 32 {
                    continue;
                }
                let input: Vec<f32> = (0..tokens * columns).map(|index| (index % 101) as f32 / 50.0 - 1.0).collect();
                let contents = if format.is_quantised() { Contents::Codes } else { Contents::Floats };
                let input = Activations::of_rows(&kernels, &input, columns, contents);
                let mut out = vec![0.0; tokens * rows];
                let turns = copies.min(1024 / tokens).max(1);
                group.throughput(Throughput::Elements((2 * turns * tokens * columns * rows) as u64));
                group.bench_function(BenchmarkId::from_parameter(tokens), |bencher| {
                    matrices.resize_with(copies, pack);
                    let mut at = 0;
                    bencher.iter(|| {
                        at = if at + turns > copies { 0 } else { at };
                        Linear::measure(&matrices[at..at + turns], &kernels, &input, tokens, &mut out);
                        at += turns;
                        black_box(out[0]);
                    });
                });
            }
        }
    }
}

fn activations(criterion: &mut Criterion) {
    let kernels = CpuKernels::new(1, None).expect("the best instruction set is there");
    let (tokens, columns) = (32, 1536);
    let input: Vec<f32> = (0..tokens * columns).map(|index| (index % 101) as f32 / 50.0 - 1.0).collect();
    let mut group = criterion.benchmark_group("activations");
    group.throughput(Throughput::Bytes((input.len() * size_of::<f32>()) as u64));
    group.bench_function("int8", |bencher| {
        bencher.iter(|| Activations::of_rows(&kernels, &input, columns, Contents::Codes))
    });
}

fn packing(criterion: &mut Criterion) {
    let threads = available_parallelism().map_or(1, usize::from);
    let kernels = CpuKernels::new(threads, None).expect("the best instruction set is there");
    let (columns, rows) = (2048, 8192);
    for (encoding, format) in formats() {
        let Some(bytes) = stored_bytes(encoding, rows, columns) else { continue };
        let stored = Stored { bytes: &bytes, rows, encoding, interleaved_head: 0 };
        let mut group = criterion.benchmark_group("pack");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format.to_string(), |bencher| {
            bencher.iter(|| Linear::pack(&kernels, columns, &[stored], Some(format)).expect("packs"));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = products, activations, packing
}
criterion_main!(benches);
