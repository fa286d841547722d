//! A decoder of SmolLM2-135M's shape with random weights, and sequences in its cache.

use std::sync::Arc;

use octavo_kernels::{
    AttentionOptions, CpuKernels, Decoder, DecoderConfig, Encoding, Format, KvCache, KvCacheConfig, KvType, PartTimes,
    StepMeta, Stored,
};

const VOCAB_SIZE: usize = 49_152;
const HIDDEN_SIZE: usize = 576;
const INTERMEDIATE_SIZE: usize = 1536;
const NUM_LAYERS: usize = 30;
const NUM_HEADS: usize = 9;
const NUM_KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const KV_SIZE: usize = NUM_KV_HEADS * HEAD_DIM;
const BLOCK_SIZE: usize = 16;
const MAX_TOKENS: usize = 2048;
const MAX_SEQUENCES: usize = 32;
/// For 32 sequences of 1,024 tokens and the next one.
const NUM_BLOCKS: usize = MAX_SEQUENCES * (1024 / BLOCK_SIZE + 1);

/// What a step does: so many sequences, each with so many new tokens behind so many others.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub sequences: usize,
    pub query: usize,
    pub context: usize,
    /// Tokens of the context that all have in common, in whole blocks.
    pub shared: usize,
}

impl Shape {
    pub const fn decode(sequences: usize, context: usize) -> Self {
        Self { sequences, query: 1, context, shared: 0 }
    }

    /// Behind a context that is the same for all.
    pub const fn decode_shared(sequences: usize, context: usize) -> Self {
        Self { sequences, query: 1, context, shared: context }
    }

    pub const fn prefill(sequences: usize, tokens: usize) -> Self {
        Self { sequences, query: tokens, context: 0, shared: 0 }
    }

    pub fn tokens(self) -> usize {
        self.sequences * self.query
    }

    pub fn name(self) -> String {
        match self {
            Shape { query: 1, sequences, context, shared } if shared > 0 => {
                format!("decode {sequences} at {context} shared")
            }
            Shape { query: 1, sequences, context, .. } => format!("decode {sequences} at {context}"),
            Shape { sequences: 1, query, .. } => format!("prefill {query}"),
            Shape { sequences, query, .. } => format!("prefill {sequences} of {query}"),
        }
    }
}

pub struct Model {
    decoder: Decoder,
    cache: KvCache,
    /// Tokens that every sequence has in every layer.
    filled: usize,
}

impl Model {
    /// With Q4_1, as in SmolLM2's file, the embedding, which is the head too, is Q8_0.
    pub fn new(kernels: &Arc<CpuKernels>, format: Format) -> Self {
        let config = DecoderConfig {
            vocab_size: VOCAB_SIZE,
            hidden_size: HIDDEN_SIZE,
            num_layers: NUM_LAYERS,
            num_heads: NUM_HEADS,
            num_kv_heads: NUM_KV_HEADS,
            head_dim: HEAD_DIM,
            intermediate_size: INTERMEDIATE_SIZE,
            norm_eps: 1e-5,
            qk_norm: false,
            windows: vec![0; NUM_LAYERS],
            attention_scale: 0.125,
            tied_head: true,
            rotary_dim: HEAD_DIM,
            max_num_tokens: MAX_TOKENS,
            max_num_seqs: MAX_SEQUENCES,
            pooler: None,
        };
        let angles = (0..MAX_TOKENS * HEAD_DIM).map(|at| ((at / HEAD_DIM) as f32 * 0.01).sin()).collect();
        let decoder = Decoder::new(Arc::clone(kernels), config, angles).expect("sizes that fit");
        let cache = KvCacheConfig {
            num_layers: NUM_LAYERS,
            num_blocks: NUM_BLOCKS,
            block_size: BLOCK_SIZE,
            num_kv_heads: NUM_KV_HEADS,
            head_dim: HEAD_DIM,
            max_num_seqs: MAX_SEQUENCES,
            max_blocks_per_seq: MAX_TOKENS / BLOCK_SIZE,
            dtype: KvType::F16,
        };
        let cache = KvCache::new(Arc::clone(kernels), cache).expect("memory");
        let mut model = Self { decoder, cache, filled: 0 };
        model.load(format);
        model
    }

    fn load(&mut self, format: Format) {
        let mut random = Random(1);
        let mut matrix = |name: &str, rows: &[usize], columns: usize, format: Format| {
            let (encoding, format) = match format.to_string().parse::<Encoding>() {
                Ok(encoding) => (encoding, None),
                Err(_) => (Encoding::F32, Some(format)),
            };
            let bytes: Vec<Vec<u8>> = rows.iter().map(|rows| random.stored(encoding, rows * columns)).collect();
            let parts =
                bytes.iter().zip(rows).map(|(bytes, &rows)| Stored { bytes, rows, encoding, interleaved_head: 0 });
            self.decoder.load_matrix(name, &parts.collect::<Vec<_>>(), format).expect("a matrix of this shape");
        };
        let embedding = if format == Format::Q4_1 { Format::Q8_0 } else { format };
        matrix("embedding", &[VOCAB_SIZE], HIDDEN_SIZE, embedding);
        for layer in 0..NUM_LAYERS {
            let name = |kind: &str| format!("layers.{layer}.{kind}");
            matrix(&name("qkv"), &[NUM_HEADS * HEAD_DIM, KV_SIZE, KV_SIZE], HIDDEN_SIZE, format);
            matrix(&name("output"), &[HIDDEN_SIZE], NUM_HEADS * HEAD_DIM, format);
            matrix(&name("gate_up"), &[INTERMEDIATE_SIZE; 2], HIDDEN_SIZE, format);
            matrix(&name("down"), &[HIDDEN_SIZE], INTERMEDIATE_SIZE, format);
        }
        let norms =
            (0..NUM_LAYERS).flat_map(|layer| ["attention_norm", "mlp_norm"].map(|it| format!("layers.{layer}.{it}")));
        for name in norms.chain(["final_norm".to_owned()]) {
            self.decoder.load_vector(&name, &[1.0; HIDDEN_SIZE]).expect("a norm");
        }
        self.decoder.finish().expect("all parameters");
    }

    /// One step of this shape, logits of each sequence's last token included, and what its parts took.
    pub fn step(&mut self, shape: Shape) -> PartTimes {
        self.fill(shape.context);
        self.begin(shape);
        let Shape { sequences, query, context, .. } = shape;
        let input_ids: Vec<i32> = (0..shape.tokens()).map(|token| (token * 7919 % VOCAB_SIZE) as i32).collect();
        let positions: Vec<i32> = (0..shape.tokens()).map(|token| (context + token % query) as i32).collect();
        let samples: Vec<i32> = (1..=sequences).map(|sequence| (sequence * query - 1) as i32).collect();
        self.decoder.forward_timed(&mut self.cache, &input_ids, &positions, &samples).expect("a valid step")
    }

    /// Memory that was never written would be read from one zero page.
    fn fill(&mut self, tokens: usize) {
        if self.filled >= tokens {
            return;
        }
        self.begin(Shape { sequences: MAX_SEQUENCES, query: tokens, context: 0, shared: 0 });
        let kv: Vec<f32> = (0..MAX_SEQUENCES * tokens * KV_SIZE).map(|at| (at % 97) as f32 * 0.01 - 0.5).collect();
        let mut out = vec![0.0; kv.len()];
        for layer in 0..NUM_LAYERS {
            let options = AttentionOptions { scale: 0.125, sliding_window: 1, softcap: 0.0 };
            self.cache.attention(layer, &kv, &kv, &kv, &mut out, options).expect("shapes that fit");
        }
        self.filled = tokens;
    }

    /// Blocks lie scattered, as after some time of serving: 7919 is prime.
    fn begin(&mut self, Shape { sequences, query, context, shared }: Shape) {
        let width = (context + query).div_ceil(BLOCK_SIZE);
        let apart = NUM_BLOCKS / MAX_SEQUENCES;
        let block = |sequence: usize, column: usize| {
            let owner = if column < shared / BLOCK_SIZE { 0 } else { sequence };
            (owner * apart + column) * 7919 % NUM_BLOCKS
        };
        let slot = |sequence: usize, position: usize| {
            (block(sequence, position / BLOCK_SIZE) * BLOCK_SIZE + position % BLOCK_SIZE) as i64
        };
        let tokens = |sequence| (context..context + query).map(move |position| (sequence, position));
        let entries = || (0..sequences).flat_map(|row| (0..width).map(move |column| (row, column)));
        let meta = StepMeta {
            row: &(0..sequences as i32).collect::<Vec<_>>(),
            query_start: &(0..=sequences).map(|row| (row * query) as i32).collect::<Vec<_>>(),
            seq_len: &vec![(context + query) as i32; sequences],
            slot_mapping: &(0..sequences).flat_map(tokens).map(|(row, at)| slot(row, at)).collect::<Vec<_>>(),
            delta_row: &entries().map(|(row, _)| row as i32).collect::<Vec<_>>(),
            delta_column: &entries().map(|(_, column)| column as i32).collect::<Vec<_>>(),
            delta_block: &entries().map(|(row, column)| block(row, column) as i32).collect::<Vec<_>>(),
            ..StepMeta::default()
        };
        self.cache.begin_step(meta).expect("valid columns");
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -0.05 to 0.05.
    fn weight(&mut self) -> f32 {
        ((self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
    }

    /// Weights as a file stores them.
    fn stored(&mut self, encoding: Encoding, count: usize) -> Vec<u8> {
        let (values, bytes) = encoding.unit();
        // The scale makes the largest codes 0.05; a minimum takes the middle of unsigned codes to 0.
        let (scale, minimum) = match encoding {
            Encoding::F32 => return (0..count).flat_map(|_| self.weight().to_le_bytes()).collect(),
            Encoding::F16 => {
                return (0..count).flat_map(|_| half::f16::from_f32(self.weight()).to_le_bytes()).collect();
            }
            Encoding::Bf16 => {
                return (0..count).flat_map(|_| half::bf16::from_f32(self.weight()).to_le_bytes()).collect();
            }
            Encoding::Q4_0 => (0.05 / 8.0, None),
            Encoding::Q4_1 => (0.1 / 15.0, Some(-0.05)),
            Encoding::Q5_0 => (0.05 / 16.0, None),
            Encoding::Q5_1 => (0.1 / 31.0, Some(-0.05)),
            Encoding::Q8_0 => (0.05 / 127.0, None),
            Encoding::Q4K | Encoding::Q5K | Encoding::Q6K => {
                panic!("576 columns are no whole superblocks of {encoding}")
            }
        };
        let mut out = Vec::with_capacity(count / values * bytes);
        for _ in 0..count / values {
            let end = out.len() + bytes;
            out.extend(half::f16::from_f32(scale).to_le_bytes());
            out.extend(minimum.into_iter().flat_map(|x| half::f16::from_f32(x).to_le_bytes()));
            while out.len() < end {
                out.push(self.next() as u8);
            }
        }
        out
    }
}
