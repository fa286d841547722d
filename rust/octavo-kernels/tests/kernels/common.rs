//! Random numbers and a paged batch that plays requests through a cache.

use std::sync::Arc;

use octavo_kernels::{AttentionOptions, CpuKernels, Isa, KvCache, KvCacheConfig, KvType, StepMeta};

/// SplitMix64: the same numbers on every machine.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal, with standard deviation 1.
    pub fn normal(&mut self) -> f32 {
        ((0..12).map(|_| self.unit()).sum::<f64>() - 6.0) as f32
    }

    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

/// Kernels for each instruction set that this machine has.
pub fn all_kernels(threads: usize) -> Vec<Arc<CpuKernels>> {
    Isa::available().into_iter().map(|isa| Arc::new(CpuKernels::new(threads, Some(isa)).expect("available"))).collect()
}

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub block_size: usize,
    pub num_kv_heads: usize,
    pub group: usize,
    pub head_dim: usize,
    pub dtype: KvType,
    pub options: AttentionOptions,
}

impl Shape {
    pub fn query_len(&self) -> usize {
        self.num_kv_heads * self.group * self.head_dim
    }

    pub fn kv_len(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }
}

/// All queries, keys and values that a request will ever have.
#[derive(Clone)]
pub struct Request {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
}

impl Request {
    pub fn random(shape: &Shape, len: usize, random: &mut Random) -> Self {
        Self {
            query: random.normals(len * shape.query_len()),
            key: random.normals(len * shape.kv_len()),
            value: random.normals(len * shape.kv_len()),
        }
    }
}

/// A cache and the requests that run on it, each with its row and its blocks dealt at random.
pub struct Player {
    pub cache: KvCache,
    pub shape: Shape,
    pub rows: Vec<usize>,
    pub blocks: Vec<Vec<usize>>,
    /// Tokens that each request has behind it.
    pub done: Vec<usize>,
    /// Table entries that were sent.
    pub sent: Vec<usize>,
    pub layer: usize,
}

pub const NUM_LAYERS: usize = 2;

impl Player {
    pub fn new(kernels: &Arc<CpuKernels>, shape: Shape, lens: &[usize], random: &mut Random) -> Self {
        let blocks_of = |len: usize| len.div_ceil(shape.block_size);
        let num_blocks = lens.iter().map(|&len| blocks_of(len)).sum::<usize>() + 3;
        let mut free: Vec<usize> = (0..num_blocks).collect();
        random.shuffle(&mut free);
        let mut rows: Vec<usize> = (0..lens.len() + 2).collect();
        random.shuffle(&mut rows);
        let blocks = lens.iter().map(|&len| free.split_off(free.len() - blocks_of(len))).collect();
        let config = KvCacheConfig {
            num_layers: NUM_LAYERS,
            num_blocks,
            block_size: shape.block_size,
            num_kv_heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
            max_num_seqs: lens.len() + 2,
            max_blocks_per_seq: lens.iter().map(|&len| blocks_of(len)).max().unwrap_or(1),
            dtype: shape.dtype,
        };
        let cache = KvCache::new(Arc::clone(kernels), config).expect("the cache fits");
        Self { cache, shape, rows, blocks, done: vec![0; lens.len()], sent: vec![0; lens.len()], layer: NUM_LAYERS - 1 }
    }

    /// One step in which each (request, number of tokens) goes on; returns the outputs of each.
    pub fn step(&mut self, requests: &[Request], parts: &[(usize, usize)]) -> Vec<Vec<f32>> {
        let shape = self.shape;
        let (mut row, mut query_start, mut seq_len, mut slots) = (vec![], vec![0], vec![], vec![]);
        let (mut delta_row, mut delta_column, mut delta_block) = (vec![], vec![], vec![]);
        let (mut query, mut key, mut value) = (vec![], vec![], vec![]);
        for &(request, count) in parts {
            let (begin, end) = (self.done[request], self.done[request] + count);
            row.push(self.rows[request] as i32);
            seq_len.push(end as i32);
            query_start.push(query_start[query_start.len() - 1] + count as i32);
            for position in begin..end {
                let block = self.blocks[request][position / shape.block_size];
                slots.push((block * shape.block_size + position % shape.block_size) as i64);
            }
            for column in self.sent[request]..end.div_ceil(shape.block_size) {
                delta_row.push(self.rows[request] as i32);
                delta_column.push(column as i32);
                delta_block.push(self.blocks[request][column] as i32);
            }
            self.sent[request] = end.div_ceil(shape.block_size);
            self.done[request] = end;
            query.extend_from_slice(&requests[request].query[begin * shape.query_len()..end * shape.query_len()]);
            key.extend_from_slice(&requests[request].key[begin * shape.kv_len()..end * shape.kv_len()]);
            value.extend_from_slice(&requests[request].value[begin * shape.kv_len()..end * shape.kv_len()]);
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
        self.cache.begin_step(meta).expect("the step is valid");
        let mut out = vec![f32::NAN; query.len()];
        self.cache.attention(self.layer, &query, &key, &value, &mut out, shape.options).expect("the shapes fit");
        let mut rest = &out[..];
        parts
            .iter()
            .map(|&(_, count)| {
                let (head, tail) = rest.split_at(count * shape.query_len());
                rest = tail;
                head.to_vec()
            })
            .collect()
    }

    /// Plays one request alone in chunks of the given sizes, and returns the outputs of all its tokens.
    pub fn play(&mut self, requests: &[Request], request: usize, chunks: &[usize]) -> Vec<f32> {
        chunks.iter().flat_map(|&count| self.step(requests, &[(request, count)]).remove(0)).collect()
    }
}

pub fn round_to(dtype: KvType, x: f32) -> f64 {
    match dtype {
        KvType::F32 => f64::from(x),
        KvType::Bf16 => half::bf16::from_f32(x).to_f64(),
        KvType::F16 => half::f16::from_f32(x).to_f64(),
        KvType::Int8 => panic!("a code depends on the whole head"),
    }
}

/// A head as the cache keeps it.
pub fn rounded_head(dtype: KvType, head: &[f32]) -> Vec<f64> {
    if dtype != KvType::Int8 {
        return head.iter().map(|&x| round_to(dtype, x)).collect();
    }
    let largest = head.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let (scale, inverse) = (largest / 127.0, 127.0 / largest);
    head.iter().map(|x| f64::from((x * inverse).round_ties_even()) * f64::from(scale)).collect()
}

/// Attention by its definition, in float64.
pub fn reference(shape: &Shape, request: &Request) -> Vec<f64> {
    let Shape { num_kv_heads, group, head_dim, options, .. } = *shape;
    let rounded = |column: &[f32]| -> Vec<f64> {
        column.chunks(head_dim).flat_map(|head| rounded_head(shape.dtype, head)).collect()
    };
    let (key, value) = (rounded(&request.key), rounded(&request.value));
    let mut out = vec![0.0; request.query.len()];
    for (index, (query, out)) in request.query.chunks(head_dim).zip(out.chunks_mut(head_dim)).enumerate() {
        let (position, head) = (index / (num_kv_heads * group), index % (num_kv_heads * group));
        let first = match options.sliding_window {
            0 => 0,
            window => (position + 1).saturating_sub(window),
        };
        let page = |at: usize| {
            (at * num_kv_heads + head / group) * head_dim..(at * num_kv_heads + head / group + 1) * head_dim
        };
        let scores: Vec<f64> = (first..=position)
            .map(|at| {
                let dot: f64 = key[page(at)].iter().zip(query).map(|(k, &q)| k * f64::from(q)).sum();
                let (score, cap) = (dot * f64::from(options.scale), f64::from(options.softcap));
                if cap > 0.0 { cap * (score / cap).tanh() } else { score }
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        for (at, score) in (first..=position).zip(&scores) {
            let weight = (score - largest).exp() / sum;
            out.iter_mut().zip(&value[page(at)]).for_each(|(out, v)| *out += weight * v);
        }
    }
    out
}

pub fn largest_difference(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    actual.iter().zip(expected).map(|(&a, e)| (f64::from(a) - e).abs()).fold(0.0, |a, b| if b <= a { a } else { b })
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
