//! Paged attention beside the limits of the machine, in SmolLM2-135M's shape: 9 query heads, 3 kv heads of 64, 30 layers.
//!
//! `cargo bench -p octavo-kernels --bench attention [-- FILTER]`. One iteration is one layer, and the layers take turns,
//! so that a long context comes from memory. Bytes are those of K and V; elements are floating-point operations, counted
//! causally. All of it runs on every processor of the machine.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use octavo_kernels::{AttentionOptions, CpuKernels, Isa, KvCache, KvCacheConfig, KvType, Pool, StepMeta};

const NUM_LAYERS: usize = 30;
const NUM_KV_HEADS: usize = 3;
const GROUP: usize = 3;
const HEAD_DIM: usize = 64;
const BLOCK_SIZE: usize = 16;
const KV_LEN: usize = NUM_KV_HEADS * HEAD_DIM;

const OPTIONS: AttentionOptions = AttentionOptions { scale: 0.125, sliding_window: 0, softcap: 0.0 };

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// As many sequences of the same length, whose blocks lie scattered, as after some time of serving.
#[derive(Clone, Copy)]
struct Batch {
    sequences: usize,
    context: usize,
    /// Tokens of each in the step that is measured.
    query: usize,
}

impl Batch {
    fn blocks(self) -> usize {
        self.context / BLOCK_SIZE
    }

    /// 7919 is odd, and the number of blocks a power of two.
    fn block(self, sequence: usize, column: usize) -> usize {
        (sequence * self.blocks() + column) * 7919 % (self.sequences * self.blocks())
    }

    /// A cache in whose every layer all contexts are, in the step with their last tokens.
    fn cache(self, isa: Isa, dtype: KvType) -> KvCache {
        let config = KvCacheConfig {
            num_layers: NUM_LAYERS,
            num_blocks: self.sequences * self.blocks(),
            block_size: BLOCK_SIZE,
            num_kv_heads: NUM_KV_HEADS,
            head_dim: HEAD_DIM,
            max_num_seqs: self.sequences,
            max_blocks_per_seq: self.blocks(),
            dtype,
        };
        let kernels = Arc::new(CpuKernels::new(threads(), Some(isa)).expect("available"));
        let mut cache = KvCache::new(kernels, config).expect("memory");
        self.begin_step(&mut cache, self.context);
        let kv = numbers(self.sequences * self.context * KV_LEN);
        let mut out = vec![0.0; kv.len()];
        for layer in 0..NUM_LAYERS {
            // Memory that was never written would be read from one zero page.
            let window = AttentionOptions { sliding_window: 1, ..OPTIONS };
            cache.attention(layer, &kv, &kv, &kv, &mut out, window).expect("shapes");
        }
        self.begin_step(&mut cache, self.query);
        cache
    }

    fn begin_step(self, cache: &mut KvCache, tokens: usize) {
        let rows: Vec<i32> = (0..self.sequences as i32).collect();
        let entries = || (0..self.sequences).flat_map(|row| (0..self.blocks()).map(move |column| (row, column)));
        let positions = |row| (self.context - tokens..self.context).map(move |position| (row, position));
        let slot =
            |(row, position)| (self.block(row, position / BLOCK_SIZE) * BLOCK_SIZE + position % BLOCK_SIZE) as i64;
        let meta = StepMeta {
            row: &rows,
            query_start: &(0..=self.sequences).map(|row| (row * tokens) as i32).collect::<Vec<_>>(),
            seq_len: &vec![self.context as i32; self.sequences],
            slot_mapping: &(0..self.sequences).flat_map(positions).map(slot).collect::<Vec<_>>(),
            delta_row: &entries().map(|(row, _)| row as i32).collect::<Vec<_>>(),
            delta_column: &entries().map(|(_, column)| column as i32).collect::<Vec<_>>(),
            delta_block: &entries().map(|(row, column)| self.block(row, column) as i32).collect::<Vec<_>>(),
            ..StepMeta::default()
        };
        cache.begin_step(meta).expect("valid");
    }

    fn kv_bytes(self, dtype: KvType) -> u64 {
        let elements = 2 * HEAD_DIM;
        let head = match dtype {
            KvType::F32 => 4 * elements,
            KvType::Bf16 | KvType::F16 => 2 * elements,
            KvType::Int8 => elements + 8,
        };
        (self.sequences * self.context * NUM_KV_HEADS * head) as u64
    }

    fn operations(self) -> u64 {
        let pairs = self.query * (self.context - self.query) + self.query * (self.query + 1) / 2;
        (self.sequences * pairs * 4 * NUM_KV_HEADS * GROUP * HEAD_DIM) as u64
    }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index % 97) as f32 * 0.01 - 0.5).collect()
}

fn attention(criterion: &mut Criterion) {
    let decode = [(1, 1024), (32, 128), (32, 1024)].map(|(sequences, context)| Batch { sequences, context, query: 1 });
    let prefill = [256, 512, 2048].map(|context| Batch { sequences: 1, context, query: context });
    for isa in Isa::available() {
        for dtype in [KvType::F32, KvType::Bf16, KvType::F16, KvType::Int8] {
            for batch in decode.into_iter().chain(prefill) {
                let Batch { sequences, context, query } = batch;
                let (name, throughput) = if query == 1 {
                    (format!("decode {sequences} × {context}"), Throughput::Bytes(batch.kv_bytes(dtype)))
                } else {
                    (format!("prefill {context}"), Throughput::Elements(batch.operations()))
                };
                let mut group = criterion.benchmark_group(format!("{isa}/{dtype:?}"));
                group.throughput(throughput);
                group.bench_function(name, |bencher| {
                    let mut cache = batch.cache(isa, dtype);
                    let kv = numbers(sequences * query * KV_LEN);
                    let queries = numbers(kv.len() * GROUP);
                    let (mut out, mut layer) = (vec![0.0; queries.len()], 0);
                    bencher.iter(|| {
                        layer = (layer + 1) % NUM_LAYERS;
                        cache.attention(layer, &queries, &kv, &kv, &mut out, OPTIONS).expect("shapes");
                    });
                });
            }
        }
    }
}

/// What no attention can exceed: reading memory from end to end, and multiplying in registers.
fn limits(criterion: &mut Criterion) {
    let pool = Pool::new(threads());
    let memory: Vec<u64> = (0..64 << 20).collect();
    let mut group = criterion.benchmark_group("limit");
    group.throughput(Throughput::Bytes(size_of_val(&memory[..]) as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            pool.run(|thread| read(&memory[memory.len() / pool.threads() * thread..][..memory.len() / pool.threads()]))
        });
    });
    for isa in Isa::available() {
        let Some(multiply) = multiplier(isa) else { continue };
        let chains = 1_000_000;
        // 16 lanes in each of 12 chains.
        group.throughput(Throughput::Elements((pool.threads() * chains * 12 * 16 * 2) as u64));
        group.bench_function(format!("{isa} fused multiply-adds"), |bencher| {
            bencher.iter(|| pool.run(|_| multiply(chains)));
        });
    }
}

fn read(memory: &[u64]) {
    let mut folded = [0; 32];
    for chunk in memory.chunks_exact(32) {
        for (folded, word) in folded.iter_mut().zip(chunk) {
            *folded ^= word;
        }
    }
    black_box(folded);
}

#[cfg(target_arch = "x86_64")]
fn multiplier(isa: Isa) -> Option<fn(usize)> {
    use std::arch::x86_64::*;

    #[cfg(avx512)]
    #[expect(clippy::incompatible_msrv, reason = "build.rs leaves it out where the compiler lacks the intrinsics")]
    #[target_feature(enable = "avx512f")]
    fn avx512(count: usize) {
        let mut sums: [__m512; 12] = std::array::from_fn(|index| _mm512_set1_ps(black_box(index as f32)));
        let (x, y) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
        for _ in 0..count {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2(count: usize) {
        let mut sums: [__m256; 12] = std::array::from_fn(|index| _mm256_set1_ps(black_box(index as f32)));
        let (x, y) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
        for _ in 0..2 * count {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, y);
            }
        }
        black_box(sums);
    }

    match isa {
        // SAFETY: `isa` comes from `Isa::available`.
        #[cfg(avx512)]
        Isa::Avx512 => Some(|count| unsafe { avx512(count) }),
        // SAFETY: as above.
        Isa::Avx2 => Some(|count| unsafe { avx2(count) }),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiplier(_isa: Isa) -> Option<fn(usize)> {
    None
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = limits, attention
}
criterion_main!(benches);
