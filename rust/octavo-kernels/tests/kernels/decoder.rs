//! The whole decoder: against a plain float64 forward pass, and against itself in other batches, chunks and threads.

use std::sync::Arc;

use octavo_kernels::{
    CpuKernels, Decoder, DecoderConfig, Encoding, Format, KernelError, KvCache, KvCacheConfig, KvType, StepMeta, Stored,
};
use proptest::prelude::*;

use crate::common::{Random, all_kernels};
use crate::sample::sample_greedily;

const BLOCK_SIZE: usize = 16;
const MAX_TOKENS: usize = 64;
const MAX_SEQS: usize = 4;
const MAX_LEN: usize = 64;

#[derive(Clone, Copy)]
struct Options {
    bias: bool,
    qk_norm: bool,
    tied_head: bool,
    window: usize,
}

const PLAIN: Options = Options { bias: false, qk_norm: false, tied_head: true, window: 0 };
const ALL: Options = Options { bias: true, qk_norm: true, tied_head: false, window: 7 };

/// A model and its parameters as float32, by name.
struct Model {
    config: DecoderConfig,
    matrices: Vec<(String, Vec<f32>, Vec<usize>)>,
    vectors: Vec<(String, Vec<f32>)>,
    cos_sin: Vec<f32>,
}

impl Model {
    fn new(options: Options, hidden: usize, inner: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let (vocab, heads, kv_heads, head_dim, layers) = (50, 4, 2, 16, 2);
        let config = DecoderConfig {
            vocab_size: vocab,
            hidden_size: hidden,
            num_layers: layers,
            num_heads: heads,
            num_kv_heads: kv_heads,
            head_dim,
            intermediate_size: inner,
            norm_eps: 1e-5,
            qk_norm: options.qk_norm,
            windows: vec![0, options.window],
            attention_scale: 0.25,
            tied_head: options.tied_head,
            rotary_dim: head_dim,
            max_num_tokens: MAX_TOKENS,
            max_num_seqs: MAX_SEQS,
            pooler: None,
        };
        let (mut matrices, mut vectors) = (Vec::new(), Vec::new());
        let mut matrix = |random: &mut Random, name: String, parts: &[usize], columns: usize| {
            let scale = 1.0 / (columns as f32).sqrt();
            let values = random.normals(parts.iter().sum::<usize>() * columns);
            matrices.push((name, values.iter().map(|value| value * scale).collect(), parts.to_vec()));
        };
        matrix(&mut random, "embedding".to_owned(), &[vocab], hidden);
        for layer in 0..layers {
            let name = |kind: &str| format!("layers.{layer}.{kind}");
            let (query, kv) = (heads * head_dim, kv_heads * head_dim);
            matrix(&mut random, name("qkv"), &[query, kv, kv], hidden);
            matrix(&mut random, name("output"), &[hidden], query);
            matrix(&mut random, name("gate_up"), &[inner, inner], hidden);
            matrix(&mut random, name("down"), &[hidden], inner);
            let mut lengths = vec![("attention_norm", hidden), ("mlp_norm", hidden)];
            if options.qk_norm {
                lengths.extend([("query_norm", head_dim), ("key_norm", head_dim)]);
            }
            if options.bias {
                lengths.extend([("qkv.bias", query + 2 * kv), ("output.bias", hidden)]);
                lengths.extend([("gate_up.bias", 2 * inner), ("down.bias", hidden)]);
            }
            for (kind, length) in lengths {
                vectors.push((name(kind), random.normals(length).iter().map(|value| 1.0 + 0.2 * value).collect()));
            }
        }
        vectors.push(("final_norm".to_owned(), random.normals(hidden)));
        if !options.tied_head {
            matrix(&mut random, "head".to_owned(), &[vocab], hidden);
        }
        let angle = |at: usize| {
            let (position, pair) = (at / head_dim, at % (head_dim / 2));
            let angle = position as f64 * 100_f64.powf(-(pair as f64) / (head_dim / 2) as f64);
            (if at % head_dim < head_dim / 2 { angle.cos() } else { angle.sin() }) as f32
        };
        Self { config, matrices, vectors, cos_sin: (0..MAX_LEN * head_dim).map(angle).collect() }
    }

    fn empty(&self, kernels: &Arc<CpuKernels>) -> Decoder {
        Decoder::new(Arc::clone(kernels), self.config.clone(), self.cos_sin.clone()).expect("sizes that fit")
    }

    fn decoder(&self, kernels: &Arc<CpuKernels>, format: Format) -> Decoder {
        let mut decoder = self.empty(kernels);
        for (name, values, parts) in &self.matrices {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let row_bytes = bytes.len() / parts.iter().sum::<usize>();
            let mut rest = &bytes[..];
            let stored: Vec<Stored<'_>> = parts
                .iter()
                .map(|&rows| {
                    let (bytes, tail) = rest.split_at(rows * row_bytes);
                    rest = tail;
                    Stored { bytes, rows, encoding: Encoding::F32, interleaved_head: 0 }
                })
                .collect();
            decoder.load_matrix(name, &stored, Some(format)).expect("a matrix of the model");
        }
        for (name, values) in &self.vectors {
            decoder.load_vector(name, values).expect("a vector of the model");
        }
        decoder.finish().expect("all parameters");
        decoder
    }

    fn matrix(&self, name: &str) -> &[f32] {
        &self.matrices.iter().find(|(other, ..)| other == name).expect("a matrix").1
    }

    fn vector(&self, name: &str) -> Option<&[f32]> {
        self.vectors.iter().find(|(other, _)| other == name).map(|(_, values)| &values[..])
    }

    /// Logits of every token of one sequence, in float64 and in the plainest way.
    fn reference(&self, tokens: &[i32]) -> Vec<Vec<f64>> {
        let config = &self.config;
        let (hidden, inner, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (query, kv) = (config.num_heads * head_dim, config.num_kv_heads * head_dim);
        let group = config.num_heads / config.num_kv_heads;
        let embedding = self.matrix("embedding");
        let mut residual: Vec<Vec<f64>> =
            tokens.iter().map(|&token| wide(&embedding[token as usize * hidden..][..hidden])).collect();
        for layer in 0..config.num_layers {
            let name = |kind: &str| format!("layers.{layer}.{kind}");
            let norm = |kind: &str| self.vector(&name(kind)).expect("a norm");
            let product = |kind: &str, x: &[f64]| {
                let bias = self.vector(&name(&format!("{kind}.bias")));
                let mut out = multiply(self.matrix(&name(kind)), x);
                out.iter_mut().zip(bias.unwrap_or(&[])).for_each(|(value, &bias)| *value += f64::from(bias));
                out
            };
            let qkv: Vec<Vec<f64>> = residual
                .iter()
                .enumerate()
                .map(|(position, x)| {
                    let mut row = product("qkv", &rms_norm(x, norm("attention_norm"), config.norm_eps));
                    for (at, head) in row[..query + kv].chunks_exact_mut(head_dim).enumerate() {
                        if config.qk_norm {
                            let weight = norm(if at < config.num_heads { "query_norm" } else { "key_norm" });
                            head.copy_from_slice(&rms_norm(head, weight, config.norm_eps));
                        }
                        self.rotate(head, position);
                    }
                    row
                })
                .collect();
            for (position, x) in residual.iter_mut().enumerate() {
                let begin = match config.windows[layer] {
                    0 => 0,
                    window => (position + 1).saturating_sub(window),
                };
                let mut attended = Vec::with_capacity(query);
                for head in 0..config.num_heads {
                    let of = |at: usize, first: usize| &qkv[at][first..first + head_dim];
                    let (key, value) = (query + head / group * head_dim, query + kv + head / group * head_dim);
                    let scores: Vec<f64> = (begin..=position)
                        .map(|at| (dot(of(position, head * head_dim), of(at, key)) * 0.25).exp())
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    attended.extend((0..head_dim).map(|column| {
                        let parts = scores.iter().zip(begin..).map(|(score, at)| score * of(at, value)[column]);
                        parts.sum::<f64>() / sum
                    }));
                }
                add(x, &product("output", &attended));
                let gate_up = product("gate_up", &rms_norm(x, norm("mlp_norm"), config.norm_eps));
                let (gate, up) = gate_up.split_at(inner);
                let activated: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(x, &product("down", &activated));
            }
        }
        let head = self.matrix(if config.tied_head { "embedding" } else { "head" });
        let norm = self.vector("final_norm").expect("the last norm");
        residual.iter().map(|x| multiply(head, &rms_norm(x, norm, config.norm_eps))).collect()
    }

    fn rotate(&self, head: &mut [f64], position: usize) {
        let half = head.len() / 2;
        for pair in 0..half {
            let row = &self.cos_sin[position * 2 * half..];
            let (cosine, sine) = (f64::from(row[pair]), f64::from(row[half + pair]));
            let (x, y) = (head[pair], head[half + pair]);
            (head[pair], head[half + pair]) = (x * cosine - y * sine, y * cosine + x * sine);
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

fn multiply(matrix: &[f32], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| dot(&wide(row), x)).collect()
}

fn rms_norm(x: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
    let factor = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, &weight)| x * factor * f64::from(weight)).collect()
}

fn cache(kernels: &Arc<CpuKernels>, config: &DecoderConfig, dtype: KvType) -> KvCache {
    let blocks = MAX_LEN / BLOCK_SIZE;
    let config = KvCacheConfig {
        num_layers: config.num_layers,
        num_blocks: MAX_SEQS * blocks,
        block_size: BLOCK_SIZE,
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        max_num_seqs: MAX_SEQS,
        max_blocks_per_seq: blocks,
        dtype,
    };
    KvCache::new(Arc::clone(kernels), config).expect("memory")
}

/// Sequence number (its row), tokens before the step, and the step's tokens.
type Part<'a> = (usize, usize, &'a [i32]);

/// Runs one step, and returns the logits of all its tokens, 4 (the most samples) at a time.
fn step(decoder: &mut Decoder, cache: &mut KvCache, parts: &[Part<'_>]) -> Vec<Vec<f32>> {
    let blocks = MAX_LEN / BLOCK_SIZE;
    let (mut ids, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    let (mut row, mut query_start, mut seq_len) = (Vec::new(), vec![0], Vec::new());
    let (mut delta_row, mut delta_column, mut delta_block) = (Vec::new(), Vec::new(), Vec::new());
    for &(sequence, context, tokens) in parts {
        // Each sequence's blocks lie in an order of their own.
        let block = |index: usize| (index * 3 + sequence) % blocks * MAX_SEQS + sequence;
        for (index, &token) in tokens.iter().enumerate() {
            let position = context + index;
            ids.push(token);
            positions.push(position as i32);
            slots.push((block(position / BLOCK_SIZE) * BLOCK_SIZE + position % BLOCK_SIZE) as i64);
        }
        for column in 0..blocks {
            delta_row.push(sequence as i32);
            delta_column.push(column as i32);
            delta_block.push(block(column) as i32);
        }
        row.push(sequence as i32);
        query_start.push(ids.len() as i32);
        seq_len.push((context + tokens.len()) as i32);
    }
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
    let vocab_size = decoder.config().vocab_size;
    let all: Vec<i32> = (0..ids.len() as i32).collect();
    let mut logits = Vec::new();
    for wanted in all.chunks(MAX_SEQS) {
        // Once more with the same cache: a step may be repeated.
        cache.begin_step(meta).expect("valid columns");
        let found = decoder.forward(cache, &ids, &positions, wanted).expect("a step");
        logits.extend(found.chunks_exact(vocab_size).map(<[f32]>::to_vec));
    }
    logits
}

fn tokens(count: usize, seed: u64) -> Vec<i32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.below(50) as i32).collect()
}

fn largest_error(found: &[Vec<f32>], expected: &[Vec<f64>]) -> f64 {
    let errors = found.iter().flatten().zip(expected.iter().flatten());
    errors.map(|(&found, &expected)| (f64::from(found) - expected).abs()).fold(0.0, f64::max)
}

/// The standard deviation of the reference's logits.
fn spread(expected: &[Vec<f64>]) -> f64 {
    let all: Vec<f64> = expected.iter().flatten().copied().collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    (all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt()
}

#[test]
fn float32_is_the_reference() {
    let variants = [
        PLAIN,
        Options { bias: true, ..PLAIN },
        Options { qk_norm: true, ..PLAIN },
        Options { tied_head: false, ..PLAIN },
        Options { window: 7, ..PLAIN },
        ALL,
    ];
    for (number, options) in variants.into_iter().enumerate() {
        // Sizes that are no multiples of 16 or 32.
        let model = Model::new(options, 40, 72, number as u64);
        let prompt = tokens(37, 5);
        let expected = model.reference(&prompt);
        for kernels in all_kernels(2) {
            let mut decoder = model.decoder(&kernels, Format::F32);
            let mut cache = cache(&kernels, &model.config, KvType::F32);
            let found = step(&mut decoder, &mut cache, &[(1, 0, &prompt)]);
            let error = largest_error(&found, &expected) / spread(&expected);
            assert!(error < 1e-4, "variant {number}, {}: {error}", kernels.isa());
        }
    }
}

#[test]
fn every_format_is_near_the_reference() {
    let formats = [(Format::F16, 0.01), (Format::Bf16, 0.06), (Format::Int8, 0.1), (Format::Int4 { group: 32 }, 0.9)];
    let model = Model::new(ALL, 64, 96, 3);
    let prompt = tokens(40, 6);
    let expected = model.reference(&prompt);
    for (format, bound) in formats {
        for kernels in all_kernels(2) {
            let mut decoder = model.decoder(&kernels, format);
            let mut cache = cache(&kernels, &model.config, KvType::F32);
            let found = step(&mut decoder, &mut cache, &[(0, 0, &prompt)]);
            let error = largest_error(&found, &expected) / spread(&expected);
            assert!(error < bound, "{format}, {}: {error}", kernels.isa());
            assert!(error > 1e-6, "{format} rounds");
        }
    }
}

#[test]
fn samples_of_one_token_share_its_logits() {
    let model = Model::new(PLAIN, 32, 64, 4);
    let kernels = Arc::new(CpuKernels::new(2, None).expect("threads"));
    let mut decoder = model.decoder(&kernels, Format::F32);
    let mut cache = cache(&kernels, &model.config, KvType::F32);
    let prompt = tokens(5, 7);
    let alone = step(&mut decoder, &mut cache, &[(0, 0, &prompt)]);
    let positions: Vec<i32> = (0..5).collect();
    let found = decoder.forward(&mut cache, &prompt, &positions, &[2, 2, 4, 4]).expect("a step").to_vec();
    let rows: Vec<&[f32]> = found.chunks_exact(50).collect();
    assert_eq!(rows, [&alone[2][..], &alone[2], &alone[4], &alone[4]]);
}

/// Heads of more rows than a share has and in two parts, with equal rows, and with logits that are NaN or infinite: of
/// two thirds of the tokens, or of all.
#[test]
fn greedy_steps_take_the_tokens_that_are_sampled() {
    let (nan, infinite) = (f32::NAN, f32::NEG_INFINITY);
    for (vocab, special, thirds) in [(50, nan, 0), (1111, nan, 0), (1111, nan, 2), (1111, infinite, 2), (50, nan, 3)] {
        let mut model = Model::new(ALL, 64, 96, vocab as u64);
        model.config.vocab_size = vocab;
        let mut random = Random(3);
        let distinct: Vec<f32> = random.normals(7 * 64);
        // Every row occurs many times, so the largest logit does too.
        let mut head: Vec<f32> = (0..vocab).flat_map(|_| distinct[random.below(7) * 64..][..64].to_vec()).collect();
        for row in head.chunks_mut(64) {
            if random.below(3) < thirds {
                row[0] = special;
            }
        }
        let embedding = random.normals(vocab * 64);
        for (name, values, parts) in &mut model.matrices {
            match &**name {
                "embedding" => (*values, *parts) = (embedding.clone(), vec![vocab]),
                "head" => (*values, *parts) = (head.clone(), vec![400.min(vocab - 1), vocab - 400.min(vocab - 1)]),
                _ => {}
            }
        }
        let formats = if thirds == 0 { &[Format::F32, Format::Bf16, Format::Int8][..] } else { &[Format::F32] };
        for (threads, &format) in [1, 3].into_iter().flat_map(|threads| formats.iter().map(move |it| (threads, it))) {
            for kernels in all_kernels(threads) {
                let mut decoder = model.decoder(&kernels, format);
                let mut cache = cache(&kernels, &model.config, KvType::F32);
                let prompt: Vec<i32> = tokens(5, 8);
                let (positions, samples) = ([0, 1, 2, 3, 4], [2, 2, 3, 4]);
                step(&mut decoder, &mut cache, &[(0, 0, &prompt)]);
                let found = decoder.forward_greedy(&mut cache, &prompt, &positions, &samples).expect("a step");
                let found: Vec<i32> = found.map(|token| token.map_or(-1, |token| token as i32)).collect();
                let logits = decoder.forward(&mut cache, &prompt, &positions, &samples).expect("a step");
                let expected = sample_greedily(&kernels, logits, vocab);
                assert_eq!(found, expected, "{format}, {}, {threads} threads", kernels.isa());
                assert_eq!(found == [-1; 4], thirds == 3);
            }
        }
    }
}

#[test]
fn wrong_input_is_refused_and_harms_nothing() {
    let model = Model::new(PLAIN, 32, 64, 8);
    let kernels = Arc::new(CpuKernels::new(2, None).expect("threads"));
    let mut decoder = model.decoder(&kernels, Format::F32);
    let mut cache = cache(&kernels, &model.config, KvType::F32);
    let before = step(&mut decoder, &mut cache, &[(0, 0, &[1, 2, 3])]);
    let refused = |decoder: &mut Decoder, cache: &mut KvCache, ids: &[i32], positions: &[i32], wanted: &[i32]| {
        decoder.forward(cache, ids, positions, wanted).expect_err("wrong input").to_string()
    };
    let all = [0, 1, 2];
    for (ids, positions, wanted, name) in [
        (&[1, 50, 3][..], &all[..], &all[..], "input_ids[1] is 50, outside 0..50"),
        (&[1, -1, 3], &all, &all, "input_ids[1] is -1, outside 0..50"),
        (&all, &[0, 1, 64], &all, "positions[2] is 64, outside 0..64"),
        (&all, &all, &[3], "logits_index[0] is 3, outside 0..3"),
        (&all, &[0, 1], &all, "positions has 2 elements, expected 3"),
        (&[1, 2], &[0, 1], &[0], "slot_mapping has 3 elements, expected 2"),
        (&all, &all, &[0, 1, 2, 0, 1], "a step of 3 tokens and 5 samples is larger than 64 and 4"),
    ] {
        assert_eq!(refused(&mut decoder, &mut cache, ids, positions, wanted), name);
    }
    let stranger = Arc::new(CpuKernels::new(1, None).expect("threads"));
    let mut other = self::cache(&stranger, &model.config, KvType::F32);
    other.begin_step(StepMeta { query_start: &[0], ..StepMeta::default() }).expect("an empty step");
    assert!(refused(&mut decoder, &mut other, &[], &[], &[]).contains("share their kernels"));
    let wider = DecoderConfig { head_dim: 24, ..model.config.clone() };
    let mut other = self::cache(&kernels, &wider, KvType::F32);
    other.begin_step(StepMeta { query_start: &[0], ..StepMeta::default() }).expect("an empty step");
    assert!(refused(&mut decoder, &mut other, &[], &[], &[]).contains("another model"));
    assert_eq!(step(&mut decoder, &mut cache, &[(0, 0, &[1, 2, 3])]), before);
}

#[test]
fn loading_names_what_is_wrong() {
    let model = Model::new(ALL, 32, 64, 9);
    let kernels = Arc::new(CpuKernels::new(1, None).expect("threads"));
    let mut decoder = model.empty(&kernels);
    let bytes = vec![0; 4 * 50 * 32];
    let stored = |rows| Stored { bytes: &bytes[..rows * 128], rows, encoding: Encoding::F32, interleaved_head: 0 };
    let message = |result: Result<(), KernelError>| result.expect_err("wrong").to_string();
    let mut load = |name: &str, parts: &[Stored<'_>]| message(decoder.load_matrix(name, parts, None));
    assert_eq!(load("layers.2.qkv", &[stored(50)]), "the decoder has no matrix \"layers.2.qkv\"");
    assert_eq!(load("final_norm", &[stored(50)]), "the decoder has no matrix \"final_norm\"");
    assert_eq!(load("embedding", &[stored(49)]), "embedding has 49 rows, expected 50");
    assert!(load("layers.0.gate_up", &[stored(50), stored(50), stored(28)]).contains("expected gate and up"));
    assert!(load("layers.0.gate_up", &[stored(50), stored(50)]).contains("rows"));
    assert_eq!(message(decoder.load_vector("final_norm", &[1.0; 31])), "final_norm has 31 elements, expected 32");
    assert_eq!(message(decoder.load_vector("qkv.bias", &[1.0; 31])), "the decoder has no vector \"qkv.bias\"");
    let missing = message(decoder.finish());
    assert!(missing.starts_with("the decoder lacks embedding and "), "{missing}");
    let mut cache = cache(&kernels, &model.config, KvType::F32);
    cache.begin_step(StepMeta { query_start: &[0], ..StepMeta::default() }).expect("an empty step");
    assert!(decoder.forward(&mut cache, &[], &[], &[]).is_err(), "nothing is loaded");
    let mut untied = Model::new(PLAIN, 32, 64, 9);
    untied.config.num_kv_heads = 3;
    assert!(Decoder::new(Arc::clone(&kernels), untied.config.clone(), vec![]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// The bits of a sequence's logits do not depend on its neighbours, its chunks, or the threads.
    #[test]
    fn a_sequence_has_its_bits_wherever_it_runs(
        seed in 0_u64..1000,
        cuts in proptest::collection::vec(1_usize..20, 1..5),
        neighbours in proptest::collection::vec(1_usize..8, 0..3),
        format in prop_oneof![
            Just(Format::F32), Just(Format::Bf16), Just(Format::F16), Just(Format::Int8), Just(Format::Int4 { group: 32 })
        ],
        dtype in prop_oneof![Just(KvType::F32), Just(KvType::F16), Just(KvType::Bf16), Just(KvType::Int8)],
    ) {
        let model = Model::new(ALL, 64, 96, seed);
        let prompt = tokens(40, seed);
        for threads in [1, 2, 3] {
            for kernels in all_kernels(threads) {
                let mut decoder = model.decoder(&kernels, format);
                let mut whole_cache = cache(&kernels, &model.config, dtype);
                let whole = step(&mut decoder, &mut whole_cache, &[(0, 0, &prompt)]);
                let mut shared = cache(&kernels, &model.config, dtype);
                let (mut done, mut found, mut context) = (0, Vec::new(), vec![0; 4]);
                for &cut in cuts.iter().cycle() {
                    let end = prompt.len().min(done + cut);
                    let others: Vec<Vec<i32>> =
                        neighbours.iter().enumerate().map(|(at, &count)| tokens(count, seed + at as u64)).collect();
                    let mut parts: Vec<Part<'_>> = others
                        .iter()
                        .enumerate()
                        .filter(|(at, other)| context[*at] + other.len() < MAX_LEN)
                        .map(|(at, other)| (at + 1, context[at], &other[..]))
                        .collect();
                    let first = parts.iter().map(|part| part.2.len()).sum::<usize>();
                    parts.push((0, done, &prompt[done..end]));
                    found.extend(step(&mut decoder, &mut shared, &parts).drain(first..));
                    parts.iter().for_each(|part| if part.0 > 0 { context[part.0 - 1] += part.2.len() });
                    done = end;
                    if done == prompt.len() {
                        break;
                    }
                }
                prop_assert_eq!(&found, &whole, "{} threads, {}", threads, kernels.isa());
            }
        }
    }
}
