//! The native executor's other model: an encoder over Python's weights and the steps of an engine that pools.

use std::sync::{Arc, Mutex};

use octavo_kernels::{Encoder, EncoderConfig};
use octavo_wire::Pooling;
use pyo3::prelude::*;

use crate::buffers::Access;
use crate::decoder::{PartTuple, load_matrix};
use crate::engine::{Engine, StepColumns};
use crate::errors::{attached, detached, invalid, lock};
use crate::kernels::{CpuKernels, kernel_error};
use crate::pooling::{PoolerOptions, pool_task};

/// One call at a time.
#[pyclass(frozen, module = "octavo._core")]
pub struct NativeEncoder(Mutex<Inner>);

struct Inner {
    encoder: Encoder,
    columns: StepColumns,
    /// Of each token of a step.
    types: Vec<i32>,
}

#[pymethods]
impl NativeEncoder {
    #[new]
    #[pyo3(signature = (kernels, *, vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_positions,
                        num_types, norm_eps, pooler, max_num_tokens))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python")]
    fn new(
        kernels: &CpuKernels,
        vocab_size: usize,
        hidden_size: usize,
        num_layers: usize,
        num_heads: usize,
        intermediate_size: usize,
        max_positions: usize,
        num_types: usize,
        norm_eps: f32,
        pooler: &PoolerOptions,
        max_num_tokens: usize,
    ) -> PyResult<Self> {
        let config = EncoderConfig {
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            intermediate_size,
            max_positions,
            num_types,
            norm_eps,
            pooler: pooler.0.clone(),
            max_num_tokens,
        };
        let encoder = attached(|| Encoder::new(Arc::clone(&kernels.0), config))?.map_err(kernel_error)?;
        Ok(Self(Mutex::new(Inner { encoder, columns: StepColumns::default(), types: Vec::new() })))
    }

    #[staticmethod]
    #[pyo3(signature = (*, hidden_size, intermediate_size, max_num_tokens))]
    fn workspace_bytes(hidden_size: usize, intermediate_size: usize, max_num_tokens: usize) -> PyResult<usize> {
        attached(|| Encoder::workspace_bytes(hidden_size, intermediate_size, max_num_tokens))
    }

    #[pyo3(signature = (name, parts, format = None))]
    fn load_matrix(&self, py: Python<'_>, name: &str, parts: Vec<PartTuple<'_>>, format: Option<&str>) -> PyResult<()> {
        load_matrix(py, name, &parts, format, |stored, format| {
            lock(&self.0)?.encoder.load_matrix(name, stored, format).map_err(kernel_error)
        })
    }

    fn load_vector(&self, name: &str, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let values = Access::default().read::<f32>("values", values)?;
        attached(|| lock(&self.0)?.encoder.load_vector(name, values.slice()).map_err(kernel_error))?
    }

    fn finish(&self) -> PyResult<()> {
        attached(|| lock(&self.0)?.encoder.finish().map_err(kernel_error))?
    }

    #[getter]
    fn weights_bytes(&self) -> PyResult<usize> {
        Ok(lock(&self.0)?.encoder.weights_bytes())
    }

    fn forward(
        &self,
        py: Python<'_>,
        input_ids: &Bound<'_, PyAny>,
        positions: &Bound<'_, PyAny>,
        types: &Bound<'_, PyAny>,
        query_start: &Bound<'_, PyAny>,
        hidden: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let mut access = Access::default();
        let input_ids = access.read::<i32>("input_ids", input_ids)?;
        let positions = access.read::<i32>("positions", positions)?;
        let types = access.read::<i32>("types", types)?;
        let query_start = access.read::<i32>("query_start", query_start)?;
        let mut hidden = access.write::<f32>("hidden", hidden)?;
        let (input_ids, positions, types) = (input_ids.slice(), positions.slice(), types.slice());
        let (query_start, hidden) = (query_start.slice(), hidden.slice());
        detached(py, || {
            let inner = &mut *lock(&self.0)?;
            let width = inner.encoder.config().hidden_size;
            if hidden.len() != input_ids.len() * width {
                let (length, expected) = (hidden.len(), input_ids.len() * width);
                return Err(invalid(format!("hidden: {length} elements, expected {expected}")));
            }
            let found = inner.encoder.forward(input_ids, positions, types, query_start).map_err(kernel_error)?;
            for (index, row) in hidden.chunks_exact_mut(width).enumerate() {
                row.copy_from_slice(found.row(index));
            }
            Ok(())
        })?
    }

    fn step(&self, py: Python<'_>, engine: &Engine, epoch: u64) -> PyResult<()> {
        detached(py, || {
            let Inner { encoder, columns, types } = &mut *lock(&self.0)?;
            engine.read_step(epoch, columns)?;
            let rows = engine.pooling(epoch)?;
            let StepColumns { input_ids, positions, query_start, .. } = &*columns;
            let last_type = encoder.config().num_types.saturating_sub(1).min(1) as i32;
            types.clear();
            for (row, ends) in rows.iter().zip(query_start.windows(2)) {
                let Pooling { num_first, .. } = row.pooling;
                let length = (ends[1] - ends[0]) as usize;
                let num_first = length.min(num_first as usize);
                types.extend(std::iter::repeat_n(0, num_first));
                types.extend(std::iter::repeat_n(last_type, length - num_first));
            }
            let kernels = Arc::clone(encoder.kernels());
            let hidden = encoder.forward(input_ids, positions, types, query_start).map_err(kernel_error)?;
            for row in &rows {
                let tokens = query_start[row.index] as usize..query_start[row.index + 1] as usize;
                let (shape, data) = hidden.pool(&kernels, tokens, pool_task(&row.pooling)).map_err(kernel_error)?;
                engine.set_pooled(epoch, row.index, shape, data)?;
            }
            Ok(())
        })?
    }
}
