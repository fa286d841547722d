//! The CPU kernels over Python's buffers.

use std::sync::{Arc, Mutex};

use octavo_kernels::{AttentionOptions, Isa, KernelError, KvCache, KvCacheConfig, KvType, StepMeta};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::buffers::{Access, same_memory};
use crate::engine::Engine;
use crate::errors::{attached, detached, invalid, lock};

pub fn kernel_error(error: KernelError) -> PyErr {
    match error {
        KernelError::Allocation { .. } | KernelError::OutOfMemory { .. } => PyMemoryError::new_err(error.to_string()),
        error => invalid(error),
    }
}

#[pyclass(frozen, module = "octavo._core")]
pub struct CpuKernels(pub Arc<octavo_kernels::CpuKernels>);

#[pymethods]
impl CpuKernels {
    #[new]
    #[pyo3(signature = (threads, isa = "auto"))]
    fn new(threads: usize, isa: &str) -> PyResult<Self> {
        let isa = if isa == "auto" { None } else { Some(isa.parse::<Isa>().map_err(kernel_error)?) };
        let kernels = attached(|| octavo_kernels::CpuKernels::new(threads, isa))?.map_err(kernel_error)?;
        Ok(Self(Arc::new(kernels)))
    }

    #[staticmethod]
    fn available() -> Vec<&'static str> {
        Isa::available().into_iter().map(Isa::name).collect()
    }

    #[getter]
    fn isa(&self) -> &'static str {
        self.0.isa().name()
    }

    #[getter]
    fn threads(&self) -> usize {
        self.0.threads()
    }

    fn rms_norm(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        weight: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        eps: f32,
    ) -> PyResult<()> {
        let mut access = Access::default();
        let weight = access.read::<f32>("weight", weight)?;
        let weight = weight.slice();
        if same_memory(x, out) {
            let mut out = access.write::<f32>("out", out)?;
            let out = out.slice();
            return detached(py, || self.0.rms_norm_in_place(out, weight, eps))?.map_err(kernel_error);
        }
        let (x, mut out) = (access.read::<f32>("x", x)?, access.write::<f32>("out", out)?);
        let (x, out) = (x.slice(), out.slice());
        detached(py, || self.0.rms_norm(x, weight, out, eps))?.map_err(kernel_error)
    }

    fn add_rms_norm(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        residual: &Bound<'_, PyAny>,
        weight: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        eps: f32,
    ) -> PyResult<()> {
        let mut access = Access::default();
        let (weight, mut residual) =
            (access.read::<f32>("weight", weight)?, access.write::<f32>("residual", residual)?);
        let (weight, residual) = (weight.slice(), residual.slice());
        if same_memory(x, out) {
            let mut out = access.write::<f32>("out", out)?;
            let out = out.slice();
            return detached(py, || self.0.add_rms_norm_in_place(out, residual, weight, eps))?.map_err(kernel_error);
        }
        let (x, mut out) = (access.read::<f32>("x", x)?, access.write::<f32>("out", out)?);
        let (x, out) = (x.slice(), out.slice());
        detached(py, || self.0.add_rms_norm(x, residual, weight, out, eps))?.map_err(kernel_error)
    }

    fn rope(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        positions: &Bound<'_, PyAny>,
        cos_sin: &Bound<'_, PyAny>,
        head_dim: usize,
    ) -> PyResult<()> {
        let rotary_dim = last_dimension("cos_sin", cos_sin)?;
        let mut access = Access::default();
        let (positions, cos_sin) =
            (access.read::<i32>("positions", positions)?, access.read::<f32>("cos_sin", cos_sin)?);
        let mut x = access.write::<f32>("x", x)?;
        let (x, positions, cos_sin) = (x.slice(), positions.slice(), cos_sin.slice());
        detached(py, || self.0.rope(x, positions, cos_sin, rotary_dim, head_dim))?.map_err(kernel_error)
    }

    fn silu_mul(&self, py: Python<'_>, gate_up: &Bound<'_, PyAny>, out: &Bound<'_, PyAny>) -> PyResult<()> {
        let width = last_dimension("out", out)?;
        let mut access = Access::default();
        let (gate_up, mut out) = (access.read::<f32>("gate_up", gate_up)?, access.write::<f32>("out", out)?);
        let (gate_up, out) = (gate_up.slice(), out.slice());
        detached(py, || self.0.silu_mul(gate_up, out, width))?.map_err(kernel_error)
    }

    #[pyo3(signature = (engine, epoch, logits, samples = None))]
    fn sample(
        &self,
        py: Python<'_>,
        engine: &Engine,
        epoch: u64,
        logits: &Bound<'_, PyAny>,
        samples: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let mut access = Access::default();
        let mut logits = access.write::<f32>("logits", logits)?;
        let samples = samples.map(|samples| access.read::<i32>("samples", samples)).transpose()?;
        let (logits, samples) = (logits.slice(), samples.as_ref().map(|samples| samples.slice()));
        detached(py, || engine.sample(&self.0, epoch, logits, samples))?
    }
}

/// The cache's pool is the kernels'. One call at a time.
#[pyclass(frozen, module = "octavo._core")]
pub struct PagedKvCache(pub Mutex<KvCache>);

#[pymethods]
impl PagedKvCache {
    #[new]
    #[pyo3(signature = (kernels, *, num_layers, num_blocks, block_size, num_kv_heads, head_dim, max_num_seqs,
                        max_blocks_per_seq, dtype = "float32"))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python")]
    fn new(
        py: Python<'_>,
        kernels: &CpuKernels,
        num_layers: usize,
        num_blocks: usize,
        block_size: usize,
        num_kv_heads: usize,
        head_dim: usize,
        max_num_seqs: usize,
        max_blocks_per_seq: usize,
        dtype: &str,
    ) -> PyResult<Self> {
        let config = KvCacheConfig {
            num_layers,
            num_blocks,
            block_size,
            num_kv_heads,
            head_dim,
            max_num_seqs,
            max_blocks_per_seq,
            dtype: kv_type(dtype)?,
        };
        let kernels = Arc::clone(&kernels.0);
        let cache = detached(py, || KvCache::new(kernels, config))?.map_err(kernel_error)?;
        Ok(Self(Mutex::new(cache)))
    }

    #[staticmethod]
    #[pyo3(signature = (*, num_layers, block_size, num_kv_heads, head_dim, dtype))]
    fn block_bytes(
        num_layers: usize,
        block_size: usize,
        num_kv_heads: usize,
        head_dim: usize,
        dtype: &str,
    ) -> PyResult<usize> {
        let config = KvCacheConfig {
            num_layers,
            num_blocks: 1,
            block_size,
            num_kv_heads,
            head_dim,
            max_num_seqs: 1,
            max_blocks_per_seq: 1,
            dtype: kv_type(dtype)?,
        };
        attached(|| config.block_bytes())
    }

    #[pyo3(signature = (*, row, query_start, seq_len, slot_mapping, delta_row, delta_column, delta_block, copy_source,
                        copy_target))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python, one a column")]
    fn begin_step(
        &self,
        py: Python<'_>,
        row: &Bound<'_, PyAny>,
        query_start: &Bound<'_, PyAny>,
        seq_len: &Bound<'_, PyAny>,
        slot_mapping: &Bound<'_, PyAny>,
        delta_row: &Bound<'_, PyAny>,
        delta_column: &Bound<'_, PyAny>,
        delta_block: &Bound<'_, PyAny>,
        copy_source: &Bound<'_, PyAny>,
        copy_target: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let mut access = Access::default();
        let row = access.read::<i32>("row", row)?;
        let query_start = access.read::<i32>("query_start", query_start)?;
        let seq_len = access.read::<i32>("seq_len", seq_len)?;
        let slot_mapping = access.read::<i64>("slot_mapping", slot_mapping)?;
        let delta_row = access.read::<i32>("delta_row", delta_row)?;
        let delta_column = access.read::<i32>("delta_column", delta_column)?;
        let delta_block = access.read::<i32>("delta_block", delta_block)?;
        let copy_source = access.read::<i32>("copy_source", copy_source)?;
        let copy_target = access.read::<i32>("copy_target", copy_target)?;
        let meta = StepMeta {
            row: row.slice(),
            query_start: query_start.slice(),
            seq_len: seq_len.slice(),
            slot_mapping: slot_mapping.slice(),
            delta_row: delta_row.slice(),
            delta_column: delta_column.slice(),
            delta_block: delta_block.slice(),
            copy_source: copy_source.slice(),
            copy_target: copy_target.slice(),
        };
        detached(py, || lock(&self.0)?.begin_step(meta).map_err(kernel_error))?
    }

    #[pyo3(signature = (layer, query, key, value, out, *, scale, sliding_window = 0, softcap = 0.0))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python")]
    fn attention(
        &self,
        py: Python<'_>,
        layer: usize,
        query: &Bound<'_, PyAny>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        out: &Bound<'_, PyAny>,
        scale: f32,
        sliding_window: usize,
        softcap: f32,
    ) -> PyResult<()> {
        let mut access = Access::default();
        let query = access.read::<f32>("query", query)?;
        let key = access.read::<f32>("key", key)?;
        let value = access.read::<f32>("value", value)?;
        let mut out = access.write::<f32>("out", out)?;
        let (query, key, value, out) = (query.slice(), key.slice(), value.slice(), out.slice());
        let options = AttentionOptions { scale, sliding_window, softcap };
        detached(py, || lock(&self.0)?.attention(layer, query, key, value, out, options).map_err(kernel_error))?
    }
}

fn kv_type(dtype: &str) -> PyResult<KvType> {
    match dtype {
        "float32" => Ok(KvType::F32),
        "bfloat16" => Ok(KvType::Bf16),
        "float16" => Ok(KvType::F16),
        "int8" => Ok(KvType::Int8),
        other => Err(invalid(format!("dtype: {other} is none of float32, bfloat16, float16, int8"))),
    }
}

pub fn last_dimension(name: &str, object: &Bound<'_, PyAny>) -> PyResult<usize> {
    let buffer = PyBuffer::<f32>::get(object).map_err(|error| invalid(format!("{name}: {error}")))?;
    match *buffer.shape() {
        [.., last] if buffer.dimensions() == 2 => Ok(last),
        _ => Err(invalid(format!("{name}: expected two dimensions, not {}", buffer.dimensions()))),
    }
}
