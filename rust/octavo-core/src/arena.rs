//! The step as columns in one piece of memory.
//!
//! [`ArenaLayout`] says where each column lies: constant offsets, each a multiple of 64 bytes. The memory belongs to
//! the caller ([`Arenas`]), who lends it to `plan` (which writes the input columns) and to `commit` (which reads the
//! output columns).

use crate::config::EngineConfig;
use crate::engine::EngineError;

/// Steps that may be in flight, and therefore arenas.
pub(crate) const NUM_ARENAS: usize = 2;

const ALIGNMENT: usize = 64;

/// Element type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    Int32,
    Int64,
    Float32,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Element::Int32 | Element::Float32 => 4,
            Element::Int64 => 8,
        }
    }
}

/// One column of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub element: Element,
    /// Bytes from the arena's start.
    pub offset: usize,
    /// Elements.
    pub len: usize,
}

/// Where the columns lie; the same for every arena of an engine.
#[derive(Clone, Debug)]
pub struct ArenaLayout {
    pub columns: Vec<Column>,
    /// Size of one arena.
    pub bytes: usize,
    pub(crate) num_deltas: usize,
    pub(crate) max_logprobs: usize,
}

/// The memory of the step's columns, lent call by call. Each arena has at least `ArenaLayout::bytes` bytes and is
/// aligned to 8 bytes or more.
pub trait Arenas {
    /// Arena number `index`, below `Engine::num_arenas`.
    fn arena(&mut self, index: usize) -> &mut [u8];
}

/// Arenas on the heap, for callers which have no memory of their own.
pub struct HeapArenas {
    arenas: Vec<Vec<u64>>,
}

impl HeapArenas {
    pub fn new(layout: &ArenaLayout) -> Self {
        HeapArenas { arenas: vec![vec![0; layout.bytes.div_ceil(8)]; NUM_ARENAS] }
    }
}

impl Arenas for HeapArenas {
    fn arena(&mut self, index: usize) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.arenas[index])
    }
}

impl ArenaLayout {
    pub fn new(config: &EngineConfig) -> Self {
        use Element::{Float32, Int32, Int64};
        let tokens = config.max_num_batched_tokens as usize;
        let rows = config.max_num_seqs as usize;
        let top = rows * config.max_logprobs as usize;
        // Each running sequence may start a block and replace a shared one; new tokens fill blocks; and a few
        // sequences may enter with a whole table from the prefix cache or from a fork.
        let deltas = 4 * rows + tokens.div_ceil(config.block_size as usize) + 8 * config.max_blocks_per_seq() as usize;
        let shapes = [
            ("input_ids", Int32, tokens),
            ("positions", Int32, tokens),
            ("slot_mapping", Int64, tokens),
            ("row", Int32, rows),
            ("query_start", Int32, rows + 1),
            ("seq_len", Int32, rows),
            ("logits_index", Int32, rows),
            ("sample_row", Int32, rows),
            ("delta_row", Int32, deltas),
            ("delta_column", Int32, deltas),
            ("delta_block", Int32, deltas),
            ("copy_source", Int32, rows),
            ("copy_target", Int32, rows),
            ("sampled", Int32, rows),
            ("sampled_logprob", Float32, rows),
            ("sampled_rank", Int32, rows),
            ("top_ids", Int32, top),
            ("top_logprobs", Float32, top),
        ];
        let mut bytes = 0;
        let columns = shapes
            .into_iter()
            .map(|(name, element, len)| {
                let offset = bytes;
                bytes = (offset + len * element.bytes()).next_multiple_of(ALIGNMENT);
                Column { name, element, offset, len }
            })
            .collect();
        ArenaLayout { columns, bytes, num_deltas: deltas, max_logprobs: config.max_logprobs as usize }
    }

    /// The column called `name`.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(crate) fn view<'a>(&self, arena: &'a mut [u8]) -> Result<ArenaView<'a>, EngineError> {
        let size = arena.len();
        if size < self.bytes || arena.as_ptr().align_offset(8) != 0 {
            return Err(EngineError::Arena { expected: self.bytes, actual: size });
        }
        let mut rest = arena;
        let mut position = 0;
        let mut columns = self.columns.iter();
        let mut next = || -> &'a mut [u8] {
            let column = columns.next().expect("the view takes the layout's columns, one for one");
            let tail = std::mem::take(&mut rest).split_at_mut(column.offset - position).1;
            let (bytes, tail) = tail.split_at_mut(column.len * column.element.bytes());
            position = column.offset + bytes.len();
            rest = tail;
            bytes
        };
        Ok(ArenaView {
            input_ids: bytemuck::cast_slice_mut(next()),
            positions: bytemuck::cast_slice_mut(next()),
            slot_mapping: bytemuck::cast_slice_mut(next()),
            row: bytemuck::cast_slice_mut(next()),
            query_start: bytemuck::cast_slice_mut(next()),
            seq_len: bytemuck::cast_slice_mut(next()),
            logits_index: bytemuck::cast_slice_mut(next()),
            sample_row: bytemuck::cast_slice_mut(next()),
            delta_row: bytemuck::cast_slice_mut(next()),
            delta_column: bytemuck::cast_slice_mut(next()),
            delta_block: bytemuck::cast_slice_mut(next()),
            copy_source: bytemuck::cast_slice_mut(next()),
            copy_target: bytemuck::cast_slice_mut(next()),
            sampled: bytemuck::cast_slice_mut(next()),
            sampled_logprob: bytemuck::cast_slice_mut(next()),
            sampled_rank: bytemuck::cast_slice_mut(next()),
            top_ids: bytemuck::cast_slice_mut(next()),
            top_logprobs: bytemuck::cast_slice_mut(next()),
        })
    }
}

/// The columns of one arena; T tokens, R rows, D deltas, K log-probabilities.
pub(crate) struct ArenaView<'a> {
    pub input_ids: &'a mut [i32],
    pub positions: &'a mut [i32],
    pub slot_mapping: &'a mut [i64],
    pub row: &'a mut [i32],
    pub query_start: &'a mut [i32],
    pub seq_len: &'a mut [i32],
    pub logits_index: &'a mut [i32],
    pub sample_row: &'a mut [i32],
    pub delta_row: &'a mut [i32],
    pub delta_column: &'a mut [i32],
    pub delta_block: &'a mut [i32],
    pub copy_source: &'a mut [i32],
    pub copy_target: &'a mut [i32],
    pub sampled: &'a mut [i32],
    pub sampled_logprob: &'a mut [f32],
    pub sampled_rank: &'a mut [i32],
    pub top_ids: &'a mut [i32],
    pub top_logprobs: &'a mut [f32],
}
