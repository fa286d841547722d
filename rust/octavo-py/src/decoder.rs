//! The native executor: a decoder over Python's weights and an engine's steps.

use std::sync::{Arc, Mutex};

use octavo_kernels::{Decoder, DecoderConfig, Encoding, Format, LabelActivation, PoolKind, PoolerConfig, Stored};
use pyo3::prelude::*;

use crate::buffers::{Access, Read};
use crate::engine::{Engine, StepColumns};
use crate::errors::{attached, detached, invalid, lock};
use crate::kernels::{CpuKernels, PagedKvCache, kernel_error};
use crate::pooling::{PoolerOptions, pool_task};

/// One call at a time.
#[pyclass(frozen, module = "octavo._core")]
pub struct NativeDecoder(Mutex<Inner>);

struct Inner {
    decoder: Decoder,
    columns: StepColumns,
}

/// A part of a matrix: (buffer, rows, encoding, interleaved_head).
pub type PartTuple<'py> = (Bound<'py, PyAny>, usize, String, usize);

#[pymethods]
impl NativeDecoder {
    #[new]
    #[pyo3(signature = (kernels, *, vocab_size, hidden_size, num_layers, num_heads, num_kv_heads, head_dim,
                        intermediate_size, norm_eps, qk_norm, windows, attention_scale, tied_head, max_num_tokens,
                        max_num_seqs, cos_sin, pooler = None))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python")]
    fn new(
        kernels: &CpuKernels,
        vocab_size: usize,
        hidden_size: usize,
        num_layers: usize,
        num_heads: usize,
        num_kv_heads: usize,
        head_dim: usize,
        intermediate_size: usize,
        norm_eps: f32,
        qk_norm: bool,
        windows: Vec<usize>,
        attention_scale: f32,
        tied_head: bool,
        max_num_tokens: usize,
        max_num_seqs: usize,
        cos_sin: &Bound<'_, PyAny>,
        pooler: Option<&PoolerOptions>,
    ) -> PyResult<Self> {
        let rotary_dim = crate::kernels::last_dimension("cos_sin", cos_sin)?;
        let cos_sin = Access::default().read::<f32>("cos_sin", cos_sin)?.slice().to_vec();
        let config = DecoderConfig {
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            intermediate_size,
            norm_eps,
            qk_norm,
            windows,
            attention_scale,
            tied_head,
            rotary_dim,
            max_num_tokens,
            max_num_seqs,
            pooler: pooler.map(|options| options.0.clone()),
        };
        let kernels = Arc::clone(&kernels.0);
        let decoder = attached(|| Decoder::new(kernels, config, cos_sin))?.map_err(kernel_error)?;
        Ok(Self(Mutex::new(Inner { decoder, columns: StepColumns::default() })))
    }

    #[staticmethod]
    fn packed_bytes(rows: usize, columns: usize, format: &str) -> PyResult<usize> {
        let format: Format = format.parse().map_err(kernel_error)?;
        attached(|| octavo_kernels::Linear::packed_bytes(rows, columns, format))
    }

    #[staticmethod]
    #[pyo3(signature = (*, vocab_size, hidden_size, num_heads, num_kv_heads, head_dim, intermediate_size,
                        max_num_tokens, max_num_seqs, pools = false))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python")]
    fn workspace_bytes(
        vocab_size: usize,
        hidden_size: usize,
        num_heads: usize,
        num_kv_heads: usize,
        head_dim: usize,
        intermediate_size: usize,
        max_num_tokens: usize,
        max_num_seqs: usize,
        pools: bool,
    ) -> PyResult<usize> {
        let pooler = PoolerConfig {
            kind: PoolKind::Last,
            normalize: false,
            activation: LabelActivation::Identity,
            dense: false,
            num_labels: 0,
        };
        let config = DecoderConfig {
            vocab_size,
            hidden_size,
            num_layers: 1,
            num_heads,
            num_kv_heads,
            head_dim,
            intermediate_size,
            norm_eps: 0.0,
            qk_norm: false,
            windows: vec![0],
            attention_scale: 1.0,
            tied_head: true,
            rotary_dim: head_dim,
            max_num_tokens,
            max_num_seqs,
            pooler: pools.then_some(pooler),
        };
        attached(|| Decoder::workspace_bytes(&config))
    }

    #[pyo3(signature = (name, parts, format = None))]
    fn load_matrix(&self, py: Python<'_>, name: &str, parts: Vec<PartTuple<'_>>, format: Option<&str>) -> PyResult<()> {
        load_matrix(py, name, &parts, format, |stored, format| {
            lock(&self.0)?.decoder.load_matrix(name, stored, format).map_err(kernel_error)
        })
    }

    fn load_vector(&self, name: &str, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let values = Access::default().read::<f32>("values", values)?;
        attached(|| lock(&self.0)?.decoder.load_vector(name, values.slice()).map_err(kernel_error))?
    }

    fn finish(&self) -> PyResult<()> {
        attached(|| lock(&self.0)?.decoder.finish().map_err(kernel_error))?
    }

    #[getter]
    fn weights_bytes(&self) -> PyResult<usize> {
        Ok(lock(&self.0)?.decoder.weights_bytes())
    }

    fn forward(
        &self,
        py: Python<'_>,
        cache: &PagedKvCache,
        input_ids: &Bound<'_, PyAny>,
        positions: &Bound<'_, PyAny>,
        logits_index: &Bound<'_, PyAny>,
        logits: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let mut access = Access::default();
        let input_ids = access.read::<i32>("input_ids", input_ids)?;
        let positions = access.read::<i32>("positions", positions)?;
        let logits_index = access.read::<i32>("logits_index", logits_index)?;
        let mut logits = access.write::<f32>("logits", logits)?;
        let (input_ids, positions, logits_index) = (input_ids.slice(), positions.slice(), logits_index.slice());
        let logits = logits.slice();
        detached(py, || {
            let mut inner = lock(&self.0)?;
            let mut cache = lock(&cache.0)?;
            let found = inner.decoder.forward(&mut cache, input_ids, positions, logits_index).map_err(kernel_error)?;
            if found.len() != logits.len() {
                return Err(invalid(format!("logits: {} elements, expected {}", logits.len(), found.len())));
            }
            logits.copy_from_slice(found);
            Ok(())
        })?
    }

    fn step_logits(
        &self,
        py: Python<'_>,
        engine: &Engine,
        epoch: u64,
        cache: &PagedKvCache,
        logits: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let mut logits = Access::default().write::<f32>("logits", logits)?;
        let logits = logits.slice();
        detached(py, || {
            let Inner { decoder, columns } = &mut *lock(&self.0)?;
            let mut cache = lock(&cache.0)?;
            engine.read_step(epoch, columns)?;
            cache.begin_step(columns.meta()).map_err(kernel_error)?;
            let StepColumns { input_ids, positions, logits_index, .. } = &*columns;
            let found = decoder.forward(&mut cache, input_ids, positions, logits_index).map_err(kernel_error)?;
            if found.len() != logits.len() {
                return Err(invalid(format!("logits: {} elements, expected {}", logits.len(), found.len())));
            }
            logits.copy_from_slice(found);
            Ok(())
        })?
    }

    fn step(&self, py: Python<'_>, engine: &Engine, epoch: u64, cache: &PagedKvCache) -> PyResult<()> {
        detached(py, || {
            let Inner { decoder, columns } = &mut *lock(&self.0)?;
            let mut cache = lock(&cache.0)?;
            engine.read_step(epoch, columns)?;
            cache.begin_step(columns.meta()).map_err(kernel_error)?;
            // The pool is needed again for the samples, beside the logits that the decoder lends.
            let kernels = Arc::clone(decoder.kernels());
            let StepColumns { input_ids, positions, logits_index, query_start, .. } = &*columns;
            if decoder.config().pooler.is_some() {
                let rows = engine.pooling(epoch)?;
                let (mut index, mut ends) = (Vec::new(), vec![0]);
                for row in &rows {
                    let last = query_start[row.index + 1] - 1;
                    index.extend(if row.is_whole { query_start[row.index] } else { last }..=last);
                    ends.push(index.len());
                }
                let hidden = decoder.forward_hidden(&mut cache, input_ids, positions, &index).map_err(kernel_error)?;
                for (row, ends) in rows.iter().zip(ends.windows(2)) {
                    let task = pool_task(&row.pooling);
                    let (shape, data) = hidden.pool(&kernels, ends[0]..ends[1], task).map_err(kernel_error)?;
                    engine.set_pooled(epoch, row.index, shape, data)?;
                }
                return Ok(());
            }
            if engine.is_greedy(epoch)? {
                let tokens =
                    decoder.forward_greedy(&mut cache, input_ids, positions, logits_index).map_err(kernel_error)?;
                return engine.set_sampled(epoch, tokens);
            }
            let logits = decoder.forward(&mut cache, input_ids, positions, logits_index).map_err(kernel_error)?;
            engine.sample(&kernels, epoch, logits, None)
        })?
    }
}

/// Gives the parts of a matrix, as Python names them, to `load`, which runs without the GIL.
pub fn load_matrix(
    py: Python<'_>,
    name: &str,
    parts: &[PartTuple<'_>],
    format: Option<&str>,
    load: impl Send + FnOnce(&[Stored<'_>], Option<Format>) -> PyResult<()>,
) -> PyResult<()> {
    let mut access = Access::default();
    let mut buffers: Vec<(Read<u8>, usize, Encoding, usize)> = Vec::with_capacity(parts.len());
    for (buffer, rows, encoding, interleaved_head) in parts {
        let encoding = encoding.parse().map_err(kernel_error)?;
        buffers.push((access.read::<u8>(name, buffer)?, *rows, encoding, *interleaved_head));
    }
    let stored: Vec<Stored<'_>> = buffers
        .iter()
        .map(|&(ref bytes, rows, encoding, interleaved_head)| Stored {
            bytes: bytes.slice(),
            rows,
            encoding,
            interleaved_head,
        })
        .collect();
    let format = format.map(str::parse::<Format>).transpose().map_err(kernel_error)?;
    detached(py, || load(&stored, format))?
}
