//! The engine, and the arenas that Python lent it.

use std::sync::Mutex;
use std::time::Duration;

use octavo_core::{ArenaLayout, Arenas, Column, Element, EngineConfig, EngineError, Policy, PoolRow, Vocabulary};
use octavo_kernels::{CpuKernels, KernelError, LogprobList, SampleOutput, SampleRow, StepMeta};
use octavo_text::Token;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::buffers::{Access, Write};
use crate::endpoint::Endpoint;
use crate::errors::{detached, invalid, lock};
use crate::events::Stats;
use crate::pooling::PoolingLimits;
use crate::tokenizer::Tokenizer;

fn engine_error(error: EngineError) -> PyErr {
    match error {
        EngineError::Config(_) | EngineError::StaleEpoch { .. } | EngineError::Arena { .. } => invalid(error),
        error => PyRuntimeError::new_err(error.to_string()),
    }
}

/// Index, request, prompt and output.
type ProcessedSample = (usize, u64, Vec<u32>, Vec<u32>);

/// One step, as scalars.
#[pyclass(frozen, get_all, module = "octavo._core")]
pub struct Plan {
    epoch: u64,
    arena: usize,
    num_reqs: u32,
    num_tokens: u32,
    num_samples: u32,
    num_processed: u32,
    max_query_len: u32,
    max_context_len: u32,
    num_table_deltas: u32,
    num_block_copies: u32,
    num_host_samples: u32,
    num_histories: u32,
}

impl From<octavo_core::Plan> for Plan {
    fn from(plan: octavo_core::Plan) -> Self {
        Self {
            epoch: plan.epoch,
            arena: plan.arena,
            num_reqs: plan.num_reqs,
            num_tokens: plan.num_tokens,
            num_samples: plan.num_samples,
            num_processed: plan.num_processed,
            max_query_len: plan.max_query_len,
            max_context_len: plan.max_context_len,
            num_table_deltas: plan.num_table_deltas,
            num_block_copies: plan.num_block_copies,
            num_host_samples: plan.num_host_samples,
            num_histories: plan.num_histories,
        }
    }
}

#[pyclass(frozen, module = "octavo._core")]
pub struct DeviceWork(octavo_core::DeviceWork);

#[pymethods]
impl DeviceWork {
    #[new]
    #[pyo3(signature = (*, num_heads, num_kv_heads, prefill_tile_rows, decode_units, prefill_units))]
    fn new(
        num_heads: u32,
        num_kv_heads: u32,
        prefill_tile_rows: u32,
        decode_units: u32,
        prefill_units: u32,
    ) -> PyResult<Self> {
        let work = octavo_core::DeviceWork { num_heads, num_kv_heads, prefill_tile_rows, decode_units, prefill_units };
        work.check().map_err(engine_error)?;
        Ok(Self(work))
    }
}

/// Every call takes the lock without the GIL, so that a thread in `plan` holds up nobody but those who ask the engine.
#[pyclass(frozen, module = "octavo._core")]
pub struct Engine(Mutex<Inner>);

struct Inner {
    engine: octavo_core::Engine,
    arenas: BoundArenas,
}

/// One place for each arena; no step is planned before all are filled.
struct BoundArenas(Vec<Option<Write<u8>>>);

impl Arenas for BoundArenas {
    fn arena(&mut self, index: usize) -> &mut [u8] {
        self.0[index].as_mut().expect("every arena is bound before the first plan").slice()
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (endpoint, *, num_blocks, block_size, max_num_seqs, max_num_batched_tokens, max_model_len,
                        vocab_size, eos_token_ids, enable_prefix_caching = true, enable_chunked_prefill = true,
                        policy = "fcfs", max_num_queued_reqs = None, long_prefill_token_threshold = 0,
                        max_logprobs = 20, seed = 0, async_decode = false, device_work = None,
                        pooling = None, open_tokenizer = None))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python")]
    fn new(
        py: Python<'_>,
        endpoint: &Endpoint,
        num_blocks: u32,
        block_size: u32,
        max_num_seqs: u32,
        max_num_batched_tokens: u32,
        max_model_len: u32,
        vocab_size: u32,
        eos_token_ids: Vec<u32>,
        enable_prefix_caching: bool,
        enable_chunked_prefill: bool,
        policy: &str,
        max_num_queued_reqs: Option<u32>,
        long_prefill_token_threshold: u32,
        max_logprobs: u32,
        seed: u64,
        async_decode: bool,
        device_work: Option<&DeviceWork>,
        pooling: Option<&PoolingLimits>,
        open_tokenizer: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let policy = match policy {
            "fcfs" => Policy::Fcfs,
            "priority" => Policy::Priority,
            other => return Err(invalid(format!("policy: {other} is none of fcfs, priority"))),
        };
        let config = EngineConfig {
            num_blocks,
            block_size,
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len,
            vocab_size,
            eos_token_ids,
            enable_prefix_caching,
            enable_chunked_prefill,
            policy,
            max_num_queued_reqs,
            long_prefill_token_threshold,
            max_logprobs,
            seed,
            async_decode,
            device_work: device_work.map(|work| work.0),
            pooling: pooling.map(|limits| limits.0.clone()),
        };
        config.check().map_err(engine_error)?;
        let endpoint = endpoint.take()?;
        let mut engine = detached(py, || octavo_core::Engine::connect(config, endpoint))?.map_err(engine_error)?;
        if let Some(open) = open_tokenizer {
            engine.set_vocabulary(Box::new(move || vocabulary(&open)));
        }
        let arenas = BoundArenas((0..engine.num_arenas()).map(|_| None).collect());
        Ok(Self(Mutex::new(Inner { engine, arenas })))
    }

    fn arena_layout(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, &'static str, usize, usize)>> {
        self.call(py, |inner| {
            let columns = &inner.engine.arena_layout().columns;
            Ok(columns
                .iter()
                .map(|column| (column.name, numpy_name(column.element), column.offset, column.len))
                .collect())
        })
    }

    #[getter]
    fn arena_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.call(py, |inner| Ok(inner.engine.arena_layout().bytes))
    }

    #[getter]
    fn arena_input_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.call(py, |inner| Ok(inner.engine.arena_layout().input_bytes))
    }

    #[getter]
    fn max_attention_slots(&self, py: Python<'_>) -> PyResult<usize> {
        self.call(py, |inner| Ok(inner.engine.config().device_work.map_or(0, |work| work.max_slots())))
    }

    #[getter]
    fn num_arenas(&self, py: Python<'_>) -> PyResult<usize> {
        self.call(py, |inner| Ok(inner.engine.num_arenas()))
    }

    #[getter]
    fn max_blocks_per_seq(&self, py: Python<'_>) -> PyResult<u32> {
        self.call(py, |inner| Ok(inner.engine.config().max_blocks_per_seq()))
    }

    fn bind_arena(&self, py: Python<'_>, index: usize, buffer: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut buffer = Access::default().write::<u8>("buffer", buffer)?;
        let (size, misplaced) = (buffer.slice().len(), buffer.slice().as_ptr().align_offset(64) != 0);
        self.call(py, move |inner| {
            let expected = inner.engine.arena_layout().bytes;
            if size != expected || misplaced {
                return Err(invalid(format!(
                    "buffer: an arena is {expected} bytes at a multiple of 64, not {size} bytes"
                )));
            }
            match inner.arenas.0.get_mut(index) {
                Some(place @ None) => {
                    *place = Some(buffer);
                    Ok(())
                }
                Some(_) => Err(invalid(format!("arena {index} is bound already"))),
                None => Err(invalid(format!("there is no arena {index}"))),
            }
        })
    }

    fn ready(&self, py: Python<'_>, info: String) -> PyResult<()> {
        self.call(py, |inner| {
            inner.engine.ready(info);
            Ok(())
        })
    }

    fn plan(&self, py: Python<'_>, timeout: f64) -> PyResult<Option<Plan>> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(|error| invalid(format!("timeout: {error}")))?;
        self.call(py, |Inner { engine, arenas }| {
            if arenas.0.iter().any(Option::is_none) {
                return Err(PyRuntimeError::new_err("an arena is not bound"));
            }
            Ok(engine.plan(timeout, arenas).map_err(engine_error)?.map(Plan::from))
        })
    }

    fn processed_samples(&self, py: Python<'_>, epoch: u64) -> PyResult<Vec<ProcessedSample>> {
        self.call(py, |inner| {
            let rows = inner.engine.sampling(epoch).map_err(engine_error)?.enumerate();
            let rows = rows.filter(|(_, row)| row.is_processed);
            Ok(rows.map(|(index, row)| (index, row.request, row.prompt.to_vec(), row.output.to_vec())).collect())
        })
    }

    fn commit(&self, py: Python<'_>, epoch: u64) -> PyResult<()> {
        self.call(py, |Inner { engine, arenas }| engine.commit(epoch, arenas).map_err(engine_error))
    }

    fn fail(&self, py: Python<'_>, epoch: u64, message: &str) -> PyResult<()> {
        self.call(py, |inner| inner.engine.fail(epoch, message).map_err(engine_error))
    }

    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, |inner| Ok(inner.engine.closed()))
    }

    #[getter]
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        self.call(py, |inner| Ok(Stats::from(inner.engine.stats())))
    }

    fn check_integrity(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, |inner| inner.engine.check_integrity().map_err(engine_error))
    }
}

/// What the tokens stand for, of the tokenizer that a Python function returns.
fn vocabulary(open: &Py<PyAny>) -> Result<Vocabulary, String> {
    let tokenizer = Python::attach(|py| -> PyResult<_> {
        let tokenizer = open.call0(py)?;
        Ok(tokenizer.extract::<Option<PyRef<'_, Tokenizer>>>(py)?.map(|tokenizer| tokenizer.0.clone()))
    });
    let tokenizer = tokenizer.map_err(|error| format!("the tokenizer cannot be opened: {error}"))?;
    let tokenizer = tokenizer.ok_or("a structure needs a tokenizer, and this model has none")?;
    let tokens = tokenizer.tokens().ok_or("with this tokenizer the text of a token depends on its neighbours")?;
    let mut vocabulary = Vocabulary::default();
    for token in tokens {
        match token {
            Token::Hole => vocabulary.push_hole(),
            Token::Text(bytes) => vocabulary.push_text(bytes),
            Token::Special(name) => vocabulary.push_special(&name),
        }
    }
    Ok(vocabulary)
}

impl Engine {
    fn call<T: Send>(&self, py: Python<'_>, work: impl Send + FnOnce(&mut Inner) -> PyResult<T>) -> PyResult<T> {
        detached(py, || work(&mut *lock(&self.0)?))?
    }

    /// Copies the input columns of a step in flight, some kilobytes, so that the engine is free while the step runs. To
    /// be called without the GIL.
    pub fn read_step(&self, epoch: u64, columns: &mut StepColumns) -> PyResult<()> {
        let mut inner = lock(&self.0)?;
        let Inner { engine, arenas } = &mut *inner;
        let plan = engine.step(epoch).map_err(engine_error)?;
        let layout = engine.arena_layout();
        let mut arena = Columns { rest: arenas.arena(plan.arena), position: 0 };
        let take = |name: &str| layout.column(name).expect("the layout has every input column");
        let [requests, tokens, samples, deltas, copies] =
            [plan.num_reqs, plan.num_tokens, plan.num_samples, plan.num_table_deltas, plan.num_block_copies]
                .map(|count| count as usize);
        arena.copy(take("input_ids"), tokens, &mut columns.input_ids);
        arena.copy(take("positions"), tokens, &mut columns.positions);
        arena.copy(take("slot_mapping"), tokens, &mut columns.slot_mapping);
        arena.copy(take("row"), requests, &mut columns.row);
        arena.copy(take("query_start"), requests + 1, &mut columns.query_start);
        arena.copy(take("seq_len"), requests, &mut columns.seq_len);
        arena.copy(take("logits_index"), samples, &mut columns.logits_index);
        arena.copy(take("delta_row"), deltas, &mut columns.delta_row);
        arena.copy(take("delta_column"), deltas, &mut columns.delta_column);
        arena.copy(take("delta_block"), deltas, &mut columns.delta_block);
        arena.copy(take("copy_source"), copies, &mut columns.copy_source);
        arena.copy(take("copy_target"), copies, &mut columns.copy_target);
        Ok(())
    }

    /// The prompts of a step in flight that end with it, where the engine pools.
    pub fn pooling(&self, epoch: u64) -> PyResult<Vec<PoolRow>> {
        Ok(lock(&self.0)?.engine.pooling(epoch).map_err(engine_error)?.collect())
    }

    /// What became of the prompt of request `index` of a step in flight.
    pub fn set_pooled(&self, epoch: u64, index: usize, shape: Vec<u32>, data: Vec<f32>) -> PyResult<()> {
        lock(&self.0)?.engine.set_pooled(epoch, index, shape, data).map_err(engine_error)
    }

    /// Whether a step in flight needs nothing but the most probable token of each sample.
    pub fn is_greedy(&self, epoch: u64) -> PyResult<bool> {
        let inner = lock(&self.0)?;
        let mut rows = inner.engine.sampling(epoch).map_err(engine_error)?;
        // Nobody waits for a mask before the forward pass.
        Ok(rows.all(|row| row.mask.is_all() && kernel_row(row).is_greedy()))
    }

    /// Writes the tokens of a step that `is_greedy` into its arena. None: the commit fails the request.
    pub fn set_sampled(&self, epoch: u64, tokens: impl Iterator<Item = Option<usize>>) -> PyResult<()> {
        let mut inner = lock(&self.0)?;
        let Inner { engine, arenas } = &mut *inner;
        let plan = engine.step(epoch).map_err(engine_error)?;
        let out = output_columns(engine.arena_layout(), arenas.arena(plan.arena), plan.num_samples as usize);
        for (sampled, token) in out.sampled.iter_mut().zip(tokens) {
            *sampled = token.map_or(-1, |token| token as i32);
        }
        out.logprob.fill(0.0);
        out.rank.fill(0);
        Ok(())
    }

    /// Samples a step in flight into its arena: all of it, or only the samples with these indices, of which `logits` has
    /// a row each. To be called without the GIL.
    pub fn sample(
        &self,
        kernels: &CpuKernels,
        epoch: u64,
        logits: &mut [f32],
        samples: Option<&[i32]>,
    ) -> PyResult<()> {
        let mut inner = lock(&self.0)?;
        let Inner { engine, arenas } = &mut *inner;
        let plan = engine.step(epoch).map_err(engine_error)?;
        let mut rows: Vec<SampleRow<'_>> = engine.sampling(epoch).map_err(engine_error)?.map(kernel_row).collect();
        let num_samples = rows.len();
        if let Some(samples) = samples {
            let row_of = |&sample: &i32| usize::try_from(sample).ok().and_then(|sample| rows.get(sample).copied());
            rows = samples.iter().map(row_of).collect::<Option<_>>().ok_or_else(|| {
                invalid(format!("samples: an index is not below the step's number of samples, {num_samples}"))
            })?;
        }
        let vocab_size = engine.config().vocab_size as usize;
        if logits.len() != rows.len() * vocab_size {
            let (samples, length) = (rows.len(), logits.len());
            return Err(invalid(format!("logits: {length} elements, expected {samples} rows of {vocab_size}")));
        }
        let mut out = output_columns(engine.arena_layout(), arenas.arena(plan.arena), num_samples);
        let has_lists = rows.iter().any(|row| row.num_listed() > out.max_logprobs);
        let mut lists = vec![LogprobList::new(); if has_lists { num_samples } else { 0 }];
        out.lists = &mut lists;
        let result = match samples {
            None => kernels.sample(logits, vocab_size, &rows, out),
            Some(samples) => sample_some(kernels, logits, vocab_size, &rows, samples, out),
        };
        if has_lists {
            drop(rows);
            engine.give_lists(epoch, lists).map_err(engine_error)?;
        }
        match result {
            // Their column says -1, and the commit fails these requests alone.
            Ok(()) | Err(KernelError::NoToken { .. }) => Ok(()),
            Err(error) => Err(invalid(error)),
        }
    }
}

/// The output columns of a step, in its arena.
fn output_columns<'a>(layout: &ArenaLayout, arena: &'a mut [u8], num_samples: usize) -> SampleOutput<'a> {
    let max_logprobs = layout.max_logprobs;
    let mut columns = Columns { rest: arena, position: 0 };
    let take = |name: &str| layout.column(name).expect("the layout has every output column");
    SampleOutput {
        sampled: columns.take(take("sampled"), num_samples),
        logprob: columns.take(take("sampled_logprob"), num_samples),
        rank: columns.take(take("sampled_rank"), num_samples),
        top_ids: columns.take(take("top_ids"), num_samples * max_logprobs),
        top_logprobs: columns.take(take("top_logprobs"), num_samples * max_logprobs),
        max_logprobs,
        lists: &mut [],
    }
}

/// Samples `rows` into memory of their own, and moves what came out to the places `samples` of the columns.
fn sample_some(
    kernels: &CpuKernels,
    logits: &mut [f32],
    vocab_size: usize,
    rows: &[SampleRow<'_>],
    samples: &[i32],
    columns: SampleOutput<'_>,
) -> Result<(), KernelError> {
    let width = columns.max_logprobs;
    let (mut sampled, mut logprob, mut rank) = (vec![0; rows.len()], vec![0.0; rows.len()], vec![0; rows.len()]);
    let (mut top_ids, mut top_logprobs) = (vec![0; rows.len() * width], vec![0.0; rows.len() * width]);
    let mut lists = vec![LogprobList::new(); if columns.lists.is_empty() { 0 } else { rows.len() }];
    let out = SampleOutput {
        sampled: &mut sampled,
        logprob: &mut logprob,
        rank: &mut rank,
        top_ids: &mut top_ids,
        top_logprobs: &mut top_logprobs,
        max_logprobs: width,
        lists: &mut lists,
    };
    let result = kernels.sample(logits, vocab_size, rows, out);
    for (index, &sample) in samples.iter().enumerate() {
        let (sample, top) = (sample as usize, index * width..(index + 1) * width);
        columns.sampled[sample] = sampled[index];
        columns.logprob[sample] = logprob[index];
        columns.rank[sample] = rank[index];
        columns.top_ids[sample * width..(sample + 1) * width].copy_from_slice(&top_ids[top.clone()]);
        columns.top_logprobs[sample * width..(sample + 1) * width].copy_from_slice(&top_logprobs[top]);
        if let Some(list) = lists.get_mut(index) {
            columns.lists[sample] = std::mem::take(list);
        }
    }
    result
}

/// The input columns of one step, as `Engine.arena_layout` names them.
#[derive(Default)]
pub struct StepColumns {
    pub input_ids: Vec<i32>,
    pub positions: Vec<i32>,
    pub logits_index: Vec<i32>,
    pub query_start: Vec<i32>,
    slot_mapping: Vec<i64>,
    row: Vec<i32>,
    seq_len: Vec<i32>,
    delta_row: Vec<i32>,
    delta_column: Vec<i32>,
    delta_block: Vec<i32>,
    copy_source: Vec<i32>,
    copy_target: Vec<i32>,
}

impl StepColumns {
    pub fn meta(&self) -> StepMeta<'_> {
        StepMeta {
            row: &self.row,
            query_start: &self.query_start,
            seq_len: &self.seq_len,
            slot_mapping: &self.slot_mapping,
            delta_row: &self.delta_row,
            delta_column: &self.delta_column,
            delta_block: &self.delta_block,
            copy_source: &self.copy_source,
            copy_target: &self.copy_target,
        }
    }
}

/// Cuts an arena into typed columns, from its start to its end.
struct Columns<'a> {
    rest: &'a mut [u8],
    position: usize,
}

impl<'a> Columns<'a> {
    /// The first `len` elements of `column`, which lies behind those taken before.
    fn take<T: bytemuck::Pod>(&mut self, column: &Column, len: usize) -> &'a mut [T] {
        let tail = std::mem::take(&mut self.rest).split_at_mut(column.offset - self.position).1;
        let (bytes, rest) = tail.split_at_mut(len * size_of::<T>());
        self.position = column.offset + bytes.len();
        self.rest = rest;
        bytemuck::cast_slice_mut(bytes)
    }

    /// `take` into memory of its own.
    fn copy<T: bytemuck::Pod>(&mut self, column: &Column, len: usize, to: &mut Vec<T>) {
        to.clear();
        to.extend_from_slice(self.take(column, len));
    }
}

/// Waits for the mask of a row that has one.
fn kernel_row(row: octavo_core::SampleRow<'_>) -> SampleRow<'_> {
    SampleRow {
        temperature: row.temperature,
        top_k: row.top_k,
        top_p: row.top_p,
        min_p: row.min_p,
        presence_penalty: row.presence_penalty,
        frequency_penalty: row.frequency_penalty,
        repetition_penalty: row.repetition_penalty,
        prompt: row.prompt,
        output: row.output,
        seed: row.seed,
        choice: row.choice,
        step: row.step,
        mask: row.mask.wait(),
        allowed: row.allowed,
        banned: row.banned,
        bad_words: row.bad_words,
        logit_bias: row.logit_bias,
        num_logprobs: row.num_logprobs,
        named: row.named,
        given: row.given,
    }
}

fn numpy_name(element: Element) -> &'static str {
    match element {
        Element::Int32 => "int32",
        Element::Int64 => "int64",
        Element::Float32 => "float32",
    }
}
