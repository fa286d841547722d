//! Where the time of a step goes: a decoder of SmolLM2-135M's shape with random weights, by part.
//!
//!     cargo run --release -p octavo-kernels --example step_parts [threads] [format]
//!
//! format: Q4_1 (the default; the embedding, which is the head too, is Q8_0), float32, bfloat16, int8, int4, …

use std::sync::Arc;
use std::time::{Duration, Instant};

use octavo_kernels::{
    CpuKernels, Decoder, DecoderConfig, Encoding, Format, KvCache, KvCacheConfig, KvType, StepMeta, StepPart, Stored,
};

const BLOCK_SIZE: usize = 16;
const MEASURE: Duration = Duration::from_millis(1500);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.next().map_or(cores, |count| count.parse().expect("a number of threads"));
    let format: Format = arguments.next().as_deref().unwrap_or("Q4_1").parse().expect("a weight format");
    let kernels = Arc::new(CpuKernels::new(threads, None).expect("at least one thread"));
    println!("{}, {threads} threads, {format}; microseconds a step", kernels.isa());
    let mut bench = Bench::new(&kernels, format);
    print!("{:>28} {:>8} {:>9}", "", "tokens/s", "total");
    for part in StepPart::ALL {
        print!(" {:>9}", part.name());
    }
    println!();
    for context in [128, 1024] {
        for batch in [1, 4, 16, 32, 64] {
            bench.run(&format!("decode {batch} at {context}"), batch, 1, context);
        }
    }
    for length in [256, 512, 2048] {
        bench.run(&format!("prefill {length}"), 1, length, 0);
    }
}

struct Bench {
    decoder: Decoder,
    cache: KvCache,
    blocks_per_seq: usize,
}

impl Bench {
    fn new(kernels: &Arc<CpuKernels>, format: Format) -> Self {
        let (hidden, inner, vocab_size, layers) = (576, 1536, 49_152, 30);
        let config = DecoderConfig {
            vocab_size,
            hidden_size: hidden,
            num_layers: layers,
            num_heads: 9,
            num_kv_heads: 3,
            head_dim: 64,
            intermediate_size: inner,
            norm_eps: 1e-5,
            qk_norm: false,
            windows: vec![0; layers],
            attention_scale: 0.125,
            tied_head: true,
            rotary_dim: 64,
            max_num_tokens: 2048,
            max_num_seqs: 64,
        };
        let angles: Vec<f32> = (0..4096 * 64).map(|at| ((at / 64) as f32 * 0.01).sin()).collect();
        let mut decoder = Decoder::new(Arc::clone(kernels), config, angles).expect("sizes");
        let embedding = if format.is_quantised() { Format::Q8_0 } else { format };
        load(&mut decoder, "embedding", &[vocab_size], hidden, embedding);
        for layer in 0..layers {
            for norm in ["attention_norm", "mlp_norm"] {
                decoder.load_vector(&format!("layers.{layer}.{norm}"), &vec![1.0; hidden]).expect("a norm");
            }
            let matrices: [(&str, &[usize], usize); 4] = [
                ("qkv", &[hidden, 192, 192], hidden),
                ("output", &[hidden], hidden),
                ("gate_up", &[inner, inner], hidden),
                ("down", &[hidden], inner),
            ];
            for (name, rows, columns) in matrices {
                load(&mut decoder, &format!("layers.{layer}.{name}"), rows, columns, format);
            }
        }
        decoder.load_vector("final_norm", &vec![1.0; hidden]).expect("a norm");
        decoder.finish().expect("all parameters");
        let blocks_per_seq = 2048 / BLOCK_SIZE + 1;
        let cache = KvCacheConfig {
            num_layers: layers,
            num_blocks: 64 * blocks_per_seq,
            block_size: BLOCK_SIZE,
            num_kv_heads: 3,
            head_dim: 64,
            max_num_seqs: 64,
            max_blocks_per_seq: blocks_per_seq,
            dtype: KvType::F16,
        };
        let cache = KvCache::new(Arc::clone(kernels), cache).expect("memory");
        Self { decoder, cache, blocks_per_seq }
    }

    /// `batch` sequences of `query` new tokens behind `context` others.
    fn run(&mut self, name: &str, batch: usize, query: usize, context: usize) {
        let tokens = batch * query;
        let input_ids: Vec<i32> = (0..tokens).map(|token| (token * 7919 % 49_152) as i32).collect();
        let positions: Vec<i32> = (0..tokens).map(|token| (context + token % query) as i32).collect();
        let row: Vec<i32> = (0..batch as i32).collect();
        let query_start: Vec<i32> = (0..=batch).map(|index| (index * query) as i32).collect();
        let seq_len = vec![(context + query) as i32; batch];
        let width = self.blocks_per_seq;
        let slots: Vec<i64> =
            (0..tokens).map(|token| (token / query * width * BLOCK_SIZE + context + token % query) as i64).collect();
        let delta_row: Vec<i32> = (0..batch * width).map(|at| (at / width) as i32).collect();
        let delta_column: Vec<i32> = (0..batch * width).map(|at| (at % width) as i32).collect();
        let delta_block: Vec<i32> = (0..(batch * width) as i32).collect();
        let samples: Vec<i32> = (1..=batch).map(|index| (index * query - 1) as i32).collect();
        let meta = StepMeta {
            row: &row,
            query_start: &query_start,
            seq_len: &seq_len,
            slot_mapping: &slots,
            delta_row: &delta_row,
            delta_column: &delta_column,
            delta_block: &delta_block,
            ..StepMeta::default()
        };
        let mut steps = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < MEASURE || steps.len() < 3 {
            self.cache.begin_step(meta).expect("valid columns");
            steps.push(self.decoder.forward_timed(&mut self.cache, &input_ids, &positions, &samples).expect("a step"));
        }
        let median = |of: &dyn Fn(usize) -> Duration| {
            let mut all: Vec<Duration> = (0..steps.len()).map(of).collect();
            all.sort();
            all[all.len() / 2]
        };
        let total = median(&|step| steps[step].total());
        print!("{name:>28} {:>8.0} {:>9.0}", tokens as f64 / total.as_secs_f64(), total.as_secs_f64() * 1e6);
        for part in StepPart::ALL {
            print!(" {:>9.0}", median(&|step| steps[step].of(part)).as_secs_f64() * 1e6);
        }
        println!();
    }
}

fn load(decoder: &mut Decoder, name: &str, rows: &[usize], columns: usize, format: Format) {
    let mut state = 1_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.1
    };
    let (encoding, bytes): (Encoding, Vec<Vec<u8>>) = match format {
        Format::Q4_1 | Format::Q8_0 => {
            let encoding: Encoding = format.to_string().parse().expect("a block type");
            let (values, unit) = encoding.unit();
            let mut blocks = |rows: usize| {
                let mut bytes = Vec::with_capacity(rows * columns / values * unit);
                for _ in 0..rows * columns / values {
                    bytes.extend(half::f16::from_f32(0.01).to_le_bytes());
                    if format == Format::Q4_1 {
                        bytes.extend(half::f16::from_f32(-0.075).to_le_bytes());
                    }
                    let codes = unit - if format == Format::Q4_1 { 4 } else { 2 };
                    bytes.extend((0..codes).map(|_| (random() * 2000.0) as i32 as u8));
                }
                bytes
            };
            (encoding, rows.iter().map(|&rows| blocks(rows)).collect())
        }
        _ => {
            let mut floats = |rows: usize| (0..rows * columns).flat_map(|_| random().to_le_bytes()).collect();
            (Encoding::F32, rows.iter().map(|&rows| floats(rows)).collect())
        }
    };
    let parts: Vec<Stored<'_>> =
        bytes.iter().zip(rows).map(|(bytes, &rows)| Stored { bytes, rows, encoding, interleaved_head: 0 }).collect();
    decoder.load_matrix(name, &parts, Some(format)).expect("a matrix");
}
