//! The paged KV cache: where keys and values lie, and the block tables that say whose they are.
//!
//! Memory is `[layer][block][kv head]`, and for each of these a page: see page.rs; mapping.rs has it from the system.

mod mapping;
mod page;

use std::ops::Range;
use std::sync::Arc;

use crate::attention::Schedule;
use crate::error::check_length;
use crate::{CpuKernels, KernelError};

use mapping::Mapping;
pub(crate) use page::{KvElement, Pages};

/// The element type of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    F32,
    Bf16,
    F16,
    /// Codes with a scale for each token's K, and each one's V, of a kv head.
    Int8,
}

impl KvType {
    /// Bytes of a position with `elements` elements in its K and V together.
    fn position_bytes(self, elements: usize) -> usize {
        match self {
            KvType::F32 => 4 * elements,
            KvType::Bf16 | KvType::F16 => 2 * elements,
            KvType::Int8 => elements + 2 * size_of::<f32>(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheConfig {
    pub num_layers: usize,
    pub num_blocks: usize,
    /// Tokens in a block.
    pub block_size: usize,
    pub num_kv_heads: usize,
    /// A multiple of 8, at most 256.
    pub head_dim: usize,
    /// Rows of the block table.
    pub max_num_seqs: usize,
    /// Columns of the block table.
    pub max_blocks_per_seq: usize,
    pub dtype: KvType,
}

impl KvCacheConfig {
    /// Bytes that one block takes over all layers.
    pub fn block_bytes(&self) -> usize {
        self.num_layers * self.num_kv_heads * self.page_bytes()
    }

    fn check(&self) -> Result<(), KernelError> {
        let sizes = [
            ("num_layers", self.num_layers),
            ("num_blocks", self.num_blocks),
            ("block_size", self.block_size),
            ("num_kv_heads", self.num_kv_heads),
            ("max_num_seqs", self.max_num_seqs),
            ("max_blocks_per_seq", self.max_blocks_per_seq),
        ];
        for (name, size) in sizes {
            // The index columns are 32 bits wide.
            if size == 0 || i32::try_from(size).is_err() {
                return Err(KernelError::Config(format!("{name} is {size}: it must be from 1 to 2^31 - 1")));
            }
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(8) || self.head_dim > 256 {
            let text = format!("head_dim is {}: it must be a multiple of 8, at most 256", self.head_dim);
            return Err(KernelError::Config(text));
        }
        Ok(())
    }

    /// Bytes of the whole cache; None beyond the address space.
    fn total_bytes(&self) -> Option<usize> {
        let bytes =
            self.page_bytes() as u128 * self.num_layers as u128 * self.num_kv_heads as u128 * self.num_blocks as u128;
        usize::try_from(bytes).ok().filter(|&bytes| isize::try_from(bytes).is_ok())
    }
}

/// One step's index columns, as `Engine.arena_layout` names them.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepMeta<'a> {
    /// [n] the row of the block table of each request.
    pub row: &'a [i32],
    /// [n + 1] request i owns the tokens query_start[i] to query_start[i + 1].
    pub query_start: &'a [i32],
    /// [n] tokens in the request's context after the step.
    pub seq_len: &'a [i32],
    /// [t] where each token's key and value go: block · block_size + offset.
    pub slot_mapping: &'a [i64],
    /// block_table[delta_row, delta_column] = delta_block, before the step.
    pub delta_row: &'a [i32],
    pub delta_column: &'a [i32],
    pub delta_block: &'a [i32],
    /// Whole blocks, copied over all layers before the step, in order.
    pub copy_source: &'a [i32],
    pub copy_target: &'a [i32],
}

/// One request's part of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sequence {
    pub(crate) row: usize,
    /// Its first token in the step's columns.
    pub(crate) query_begin: usize,
    pub(crate) query_len: usize,
    /// Context before the step's tokens.
    pub(crate) context: usize,
}

/// Neighbouring tokens of a step in neighbouring slots of one block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// The first one, in the step's columns.
    pub(crate) token: usize,
    pub(crate) count: usize,
    pub(crate) block: usize,
    /// Its slot in the block.
    pub(crate) offset: usize,
}

/// Keys and values of every layer in blocks, and the block tables that say whose they are.
pub struct KvCache {
    pub(crate) kernels: Arc<CpuKernels>,
    pub(crate) config: KvCacheConfig,
    pub(crate) memory: Mapping,
    /// [max_num_seqs, max_blocks_per_seq], every entry below num_blocks.
    pub(crate) table: Vec<u32>,
    pub(crate) sequences: Vec<Sequence>,
    /// Tokens of the step.
    pub(crate) num_tokens: usize,
    /// All of them once, those of a block together and in their order.
    pub(crate) pieces: Vec<Piece>,
    /// The pieces of each block.
    pub(crate) blocks: Vec<Range<usize>>,
    /// Every sequence has one token, whose block no other one sees: who attends to it may store it.
    pub(crate) stores_by_item: bool,
    /// [num_blocks] bits: see `stores_apart`.
    written: Vec<u64>,
    /// [num_blocks] bits: some step has written it.
    reached: Vec<u64>,
    pub(crate) schedule: Schedule,
}

impl KvCache {
    /// An empty cache; its memory is committed as it is first written.
    ///
    /// Errors: `Config` for a size that is not supported, `Allocation`.
    pub fn new(kernels: Arc<CpuKernels>, config: KvCacheConfig) -> Result<Self, KernelError> {
        config.check()?;
        let Some(table_len) = config.max_num_seqs.checked_mul(config.max_blocks_per_seq).filter(|&len| len <= 1 << 32)
        else {
            let text = "max_num_seqs · max_blocks_per_seq exceeds 2^32".to_owned();
            return Err(KernelError::Config(text));
        };
        let memory = Mapping::new(config.total_bytes())?;
        let words = config.num_blocks.div_ceil(64);
        let schedule = Schedule::new(kernels.threads());
        Ok(Self {
            kernels,
            config,
            memory,
            table: vec![0; table_len],
            sequences: Vec::with_capacity(config.max_num_seqs),
            num_tokens: 0,
            pieces: Vec::new(),
            blocks: Vec::new(),
            stores_by_item: false,
            written: vec![0; words],
            reached: vec![0; words],
            schedule,
        })
    }

    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// Applies the table deltas and block copies, and keeps the metadata for `attention`. Nothing changes on an error.
    pub fn begin_step(&mut self, meta: StepMeta<'_>) -> Result<(), KernelError> {
        let config = &self.config;
        check_length("delta_column", meta.delta_column.len(), meta.delta_row.len())?;
        check_length("delta_block", meta.delta_block.len(), meta.delta_row.len())?;
        check_length("copy_target", meta.copy_target.len(), meta.copy_source.len())?;
        check_length("seq_len", meta.seq_len.len(), meta.row.len())?;
        check_length("query_start", meta.query_start.len(), meta.row.len() + 1)?;
        check_indices("delta_row", meta.delta_row, config.max_num_seqs)?;
        check_indices("delta_column", meta.delta_column, config.max_blocks_per_seq)?;
        check_indices("delta_block", meta.delta_block, config.num_blocks)?;
        check_indices("copy_source", meta.copy_source, config.num_blocks)?;
        check_indices("copy_target", meta.copy_target, config.num_blocks)?;
        check_indices("row", meta.row, config.max_num_seqs)?;
        check_indices("slot_mapping", meta.slot_mapping, config.num_blocks * config.block_size)?;
        check_sequences(config, &meta)?;

        for ((&row, &column), &block) in meta.delta_row.iter().zip(meta.delta_column).zip(meta.delta_block) {
            self.table[row as usize * config.max_blocks_per_seq + column as usize] = block as u32;
        }
        for (&source, &target) in meta.copy_source.iter().zip(meta.copy_target) {
            self.copy_block(source as usize, target as usize);
        }
        self.num_tokens = meta.slot_mapping.len();
        self.collect_pieces(meta.slot_mapping);
        self.populate();
        self.sequences.clear();
        for (index, (&row, &seq_len)) in meta.row.iter().zip(meta.seq_len).enumerate() {
            let query_begin = meta.query_start[index] as usize;
            let query_len = meta.query_start[index + 1] as usize - query_begin;
            let context = seq_len as usize - query_len;
            self.sequences.push(Sequence { row: row as usize, query_begin, query_len, context });
        }
        self.stores_by_item = self.stores_apart();
        self.schedule.invalidate();
        Ok(())
    }

    /// Whether every sequence has one token, its slot is where the sequence will read it, and no other sequence reads
    /// that block.
    fn stores_apart(&mut self) -> bool {
        let block_size = self.config.block_size;
        let single = self.sequences.iter().all(|sequence| sequence.query_len == 1);
        if !single || self.pieces.len() != self.num_tokens || self.blocks.len() != self.num_tokens {
            return false;
        }
        for piece in &self.pieces {
            self.written[piece.block / 64] |= 1 << (piece.block % 64);
        }
        let mut seen = 0;
        for sequence in &self.sequences {
            let blocks = &self.table[sequence.row * self.config.max_blocks_per_seq..][..=sequence.context / block_size];
            seen += blocks.iter().filter(|&&block| self.written[block as usize / 64] >> (block % 64) & 1 == 1).count();
        }
        for piece in &self.pieces {
            self.written[piece.block / 64] = 0;
        }
        // Each of them once: by the sequence that writes it, if each one writes the last block that it sees.
        seen == self.num_tokens
            && self.pieces.iter().all(|piece| {
                let sequence = &self.sequences[piece.token];
                let (column, offset) = (sequence.context / block_size, sequence.context % block_size);
                let block = self.table[sequence.row * self.config.max_blocks_per_seq + column];
                block as usize == piece.block && offset == piece.offset
            })
    }

    fn collect_pieces(&mut self, slots: &[i64]) {
        let block_size = self.config.block_size;
        self.pieces.clear();
        for (token, &slot) in slots.iter().enumerate() {
            let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
            match self.pieces.last_mut() {
                Some(last) if last.block == block && last.offset + last.count == offset => last.count += 1,
                _ => self.pieces.push(Piece { token, count: 1, block, offset }),
            }
        }
        self.pieces.sort_by_key(|piece| piece.block);
        self.blocks.clear();
        let mut begin = 0;
        for pieces in self.pieces.chunk_by(|a, b| a.block == b.block) {
            self.blocks.push(begin..begin + pieces.len());
            begin += pieces.len();
        }
    }

    /// Gets the memory of blocks that no step has written yet.
    fn populate(&mut self) {
        let block_bytes = self.config.block_bytes() / self.config.num_layers;
        let layer_bytes = block_bytes * self.config.num_blocks;
        for pieces in &self.blocks {
            let block = self.pieces[pieces.start].block;
            let (word, bit) = (&mut self.reached[block / 64], 1 << (block % 64));
            if *word & bit == 0 {
                *word |= bit;
                for layer in 0..self.config.num_layers {
                    let begin = layer * layer_bytes + block * block_bytes;
                    self.memory.reach(begin..begin + block_bytes);
                }
            }
        }
        self.memory.populate(&self.kernels.pool);
    }

    fn copy_block(&mut self, source: usize, target: usize) {
        let block_bytes = self.config.block_bytes() / self.config.num_layers;
        let layer_bytes = block_bytes * self.config.num_blocks;
        let memory = self.memory.bytes_mut();
        for layer in memory.chunks_exact_mut(layer_bytes) {
            layer.copy_within(source * block_bytes..(source + 1) * block_bytes, target * block_bytes);
        }
    }
}

fn check_sequences(config: &KvCacheConfig, meta: &StepMeta<'_>) -> Result<(), KernelError> {
    let tokens = meta.slot_mapping.len() as i64;
    let longest = config.max_blocks_per_seq as i64 * config.block_size as i64;
    let error = |name, at, value: i32, limit| Err(KernelError::Index { name, at, value: i64::from(value), limit });
    if meta.query_start[0] != 0 {
        return error("query_start", 0, meta.query_start[0], 1);
    }
    for (index, pair) in meta.query_start.windows(2).enumerate() {
        if pair[1] < pair[0] || i64::from(pair[1]) > tokens {
            let text = format!(
                "query_start[{}] is {}: it must be from query_start[{index}], {}, to the number of slots, {tokens}",
                index + 1,
                pair[1],
                pair[0]
            );
            return Err(KernelError::Config(text));
        }
        let seq_len = meta.seq_len[index];
        if i64::from(seq_len) > longest {
            return error("seq_len", index, seq_len, longest + 1);
        }
        if seq_len < pair[1] - pair[0] {
            let text = format!("seq_len[{index}] is {seq_len}, fewer than its {} tokens", pair[1] - pair[0]);
            return Err(KernelError::Config(text));
        }
    }
    let end = meta.query_start[meta.row.len()];
    check_length("slot_mapping", meta.slot_mapping.len(), end as usize)
}

fn check_indices<T: Copy + Into<i64>>(name: &'static str, column: &[T], limit: usize) -> Result<(), KernelError> {
    let limit = limit as i64;
    match column.iter().position(|&value| !(0..limit).contains(&value.into())) {
        None => Ok(()),
        Some(at) => Err(KernelError::Index { name, at, value: column[at].into(), limit }),
    }
}
