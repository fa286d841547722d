//! The step as columns in one piece of memory.
//!
//! [`ArenaLayout`] says where each column lies: constant offsets, each a multiple of 64 bytes. The memory belongs to
//! the caller ([`Arenas`]), who lends it to `plan` (which writes the input columns) and to `commit` (which reads the
//! output columns). Behind a step's own elements a column keeps those of earlier steps; `logits_index` has zeros there.

use crate::config::EngineConfig;
use crate::engine::EngineError;

/// Steps that may be in flight, and therefore arenas.
pub(crate) const NUM_ARENAS: usize = 2;

const ALIGNMENT: usize = 64;

/// Of the column `counts`; `DeviceView::counts` says which.
const NUM_COUNTS: usize = 9;

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
    /// Where the output columns begin; all before them is input.
    pub input_bytes: usize,
    has_device: bool,
    pub(crate) num_deltas: usize,
    /// Width of the columns `top_ids` and `top_logprobs`.
    pub max_logprobs: usize,
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
        let top = rows * config.logprobs_width() as usize;
        // Each running sequence may start a block and replace a shared one; new tokens fill blocks; and a few
        // sequences may enter with a whole table from the prefix cache or from a fork.
        let deltas = 4 * rows + tokens.div_ceil(config.block_size as usize) + 8 * config.max_blocks_per_seq() as usize;
        let mut shapes = Vec::new();
        if config.device_work.is_some() {
            shapes.push(("counts", Int32, NUM_COUNTS));
        }
        shapes.extend([
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
        ]);
        if let Some(work) = &config.device_work {
            let decode = work.max_decode_items(rows);
            let prefill = work.max_prefill_items(tokens, rows);
            let merges = work.max_merges(tokens);
            shapes.extend([
                ("decode_entry", Int32, decode),
                ("decode_kv_begin", Int32, decode),
                ("decode_kv_end", Int32, decode),
                ("decode_slot", Int32, decode),
                ("prefill_entry", Int32, prefill),
                ("prefill_first_row", Int32, prefill),
                ("prefill_kv_begin", Int32, prefill),
                ("prefill_kv_end", Int32, prefill),
                ("prefill_slot", Int32, prefill),
                ("merge_token", Int32, merges),
                ("merge_first_slot", Int32, merges),
                ("merge_num_slots", Int32, merges),
                ("merge_slot_stride", Int32, merges),
                ("temperature", Float32, rows),
                ("top_k", Int32, rows),
                ("top_p", Float32, rows),
                ("min_p", Float32, rows),
                ("seed", Int64, rows),
                ("choice", Int32, rows),
                ("draw_step", Int64, rows),
                ("host_sample", Int32, rows),
                ("num_logprobs", Int32, rows),
                ("presence_penalty", Float32, rows),
                ("frequency_penalty", Float32, rows),
                ("repetition_penalty", Float32, rows),
                ("history_row", Int32, rows),
                ("history_starts", Int32, rows),
                ("history_first", Int32, rows + 1),
                ("history_num_prompt", Int32, rows),
                // Room for the tokens that a step computes. The whole column is copied with every step.
                ("history_tokens", Int32, tokens),
            ]);
        }
        let first_output = shapes.len();
        shapes.extend([
            ("sampled", Int32, rows),
            ("sampled_logprob", Float32, rows),
            ("sampled_rank", Int32, rows),
            ("top_ids", Int32, top),
            ("top_logprobs", Float32, top),
        ]);
        let mut bytes = 0;
        let columns: Vec<Column> = shapes
            .into_iter()
            .map(|(name, element, len)| {
                let offset = bytes;
                bytes = (offset + len * element.bytes()).next_multiple_of(ALIGNMENT);
                Column { name, element, offset, len }
            })
            .collect();
        ArenaLayout {
            bytes,
            input_bytes: columns[first_output].offset,
            has_device: config.device_work.is_some(),
            columns,
            num_deltas: deltas,
            max_logprobs: config.logprobs_width() as usize,
        }
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
        let counts = self.has_device.then(&mut next);
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
            device: counts.map(|counts| DeviceView::take(counts, &mut next)),
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
    pub device: Option<DeviceView<'a>>,
    pub sampled: &'a mut [i32],
    pub sampled_logprob: &'a mut [f32],
    pub sampled_rank: &'a mut [i32],
    pub top_ids: &'a mut [i32],
    pub top_logprobs: &'a mut [f32],
}

/// The columns that only a GPU needs.
pub(crate) struct DeviceView<'a> {
    /// Of a step: num_reqs, num_tokens, num_samples, num_table_deltas, num_block_copies, num_decode_items,
    /// num_prefill_items, num_merges, num_histories.
    pub counts: &'a mut [i32],
    pub decode: ItemColumns<'a>,
    pub prefill: ItemColumns<'a>,
    pub merges: MergeColumns<'a>,
    pub samples: SampleColumns<'a>,
    pub histories: HistoryColumns<'a>,
}

/// A list of items of attention (attention_work.rs).
pub(crate) struct ItemColumns<'a> {
    pub entry: &'a mut [i32],
    /// For prefill only.
    pub first_row: Option<&'a mut [i32]>,
    pub kv_begin: &'a mut [i32],
    pub kv_end: &'a mut [i32],
    pub slot: &'a mut [i32],
}

pub(crate) struct MergeColumns<'a> {
    pub token: &'a mut [i32],
    pub first_slot: &'a mut [i32],
    pub num_slots: &'a mut [i32],
    pub slot_stride: &'a mut [i32],
}

/// How each sample is drawn (`SampleRow`).
pub(crate) struct SampleColumns<'a> {
    pub temperature: &'a mut [f32],
    pub top_k: &'a mut [i32],
    pub top_p: &'a mut [f32],
    pub min_p: &'a mut [f32],
    /// The bits of a u64.
    pub seed: &'a mut [i64],
    pub choice: &'a mut [i32],
    pub draw_step: &'a mut [i64],
    /// 1 where the sample needs what the other columns do not say.
    pub host_sample: &'a mut [i32],
    /// -1: not even that of the sampled token.
    pub num_logprobs: &'a mut [i32],
    pub presence_penalty: &'a mut [f32],
    pub frequency_penalty: &'a mut [f32],
    pub repetition_penalty: &'a mut [f32],
}

/// Lists of tokens that rows have had (history.rs); no two are for one row.
pub(crate) struct HistoryColumns<'a> {
    pub row: &'a mut [i32],
    /// 1: the row has had no others.
    pub starts: &'a mut [i32],
    /// List i has the tokens `first[i]..first[i + 1]`.
    pub first: &'a mut [i32],
    /// So many of them, or all, are of the prompt, and the rest of the output.
    pub num_prompt: &'a mut [i32],
    pub tokens: &'a mut [i32],
}

impl<'a> DeviceView<'a> {
    fn take(counts: &'a mut [u8], next: &mut impl FnMut() -> &'a mut [u8]) -> Self {
        DeviceView {
            counts: bytemuck::cast_slice_mut(counts),
            decode: ItemColumns {
                entry: bytemuck::cast_slice_mut(next()),
                first_row: None,
                kv_begin: bytemuck::cast_slice_mut(next()),
                kv_end: bytemuck::cast_slice_mut(next()),
                slot: bytemuck::cast_slice_mut(next()),
            },
            prefill: ItemColumns {
                entry: bytemuck::cast_slice_mut(next()),
                first_row: Some(bytemuck::cast_slice_mut(next())),
                kv_begin: bytemuck::cast_slice_mut(next()),
                kv_end: bytemuck::cast_slice_mut(next()),
                slot: bytemuck::cast_slice_mut(next()),
            },
            merges: MergeColumns {
                token: bytemuck::cast_slice_mut(next()),
                first_slot: bytemuck::cast_slice_mut(next()),
                num_slots: bytemuck::cast_slice_mut(next()),
                slot_stride: bytemuck::cast_slice_mut(next()),
            },
            samples: SampleColumns {
                temperature: bytemuck::cast_slice_mut(next()),
                top_k: bytemuck::cast_slice_mut(next()),
                top_p: bytemuck::cast_slice_mut(next()),
                min_p: bytemuck::cast_slice_mut(next()),
                seed: bytemuck::cast_slice_mut(next()),
                choice: bytemuck::cast_slice_mut(next()),
                draw_step: bytemuck::cast_slice_mut(next()),
                host_sample: bytemuck::cast_slice_mut(next()),
                num_logprobs: bytemuck::cast_slice_mut(next()),
                presence_penalty: bytemuck::cast_slice_mut(next()),
                frequency_penalty: bytemuck::cast_slice_mut(next()),
                repetition_penalty: bytemuck::cast_slice_mut(next()),
            },
            histories: HistoryColumns {
                row: bytemuck::cast_slice_mut(next()),
                starts: bytemuck::cast_slice_mut(next()),
                first: bytemuck::cast_slice_mut(next()),
                num_prompt: bytemuck::cast_slice_mut(next()),
                tokens: bytemuck::cast_slice_mut(next()),
            },
        }
    }
}
