//! What a prompt is pooled to: the request's side, the engine's, and the result.

use octavo_kernels::{LabelActivation, PoolKind, PoolTask, PoolerConfig};
use octavo_wire::PoolingTask;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::errors::invalid;

/// A checked, immutable set of pooling parameters.
#[pyclass(frozen, module = "octavo._core")]
pub struct Pooling(pub octavo_wire::Pooling);

#[pymethods]
impl Pooling {
    #[new]
    #[pyo3(signature = (*, task, dimensions = None, normalize = None))]
    fn new(task: &str, dimensions: Option<i64>, normalize: Option<bool>) -> PyResult<Self> {
        let dimensions = match dimensions {
            None => None,
            Some(count) => match u32::try_from(count) {
                Ok(count @ 1..) => Some(count),
                _ => return Err(invalid(format!("dimensions: must be at least 1, got {count}"))),
            },
        };
        Ok(Self(octavo_wire::Pooling { task: pooling_task("task", task)?, dimensions, normalize, num_first: 0 }))
    }
}

/// What the model of an engine makes of prompts.
#[pyclass(frozen, module = "octavo._core")]
pub struct PoolingLimits(pub octavo_core::PoolingLimits);

#[pymethods]
impl PoolingLimits {
    #[new]
    #[pyo3(signature = (*, tasks, whole, width, num_labels))]
    fn new(tasks: Vec<String>, whole: Vec<String>, width: u32, num_labels: u32) -> PyResult<Self> {
        let parse = |name: &str, tasks: Vec<String>| -> PyResult<Vec<PoolingTask>> {
            tasks.iter().map(|task| pooling_task(name, task)).collect()
        };
        let (tasks, whole) = (parse("tasks", tasks)?, parse("whole", whole)?);
        Ok(Self(octavo_core::PoolingLimits { tasks, whole, width, num_labels }))
    }
}

/// How a model pools: for NativeEncoder and NativeDecoder.
#[pyclass(frozen, module = "octavo._core")]
pub struct PoolerOptions(pub PoolerConfig);

#[pymethods]
impl PoolerOptions {
    #[new]
    #[pyo3(signature = (*, kind, normalize, dense = false, num_labels = 0, activation = "softmax"))]
    fn new(kind: &str, normalize: bool, dense: bool, num_labels: usize, activation: &str) -> PyResult<Self> {
        let kind = match kind {
            "first" => PoolKind::First,
            "last" => PoolKind::Last,
            "mean" => PoolKind::Mean,
            "max" => PoolKind::Max,
            other => return Err(invalid(format!("kind: must be first, last, mean or max, got {other:?}"))),
        };
        let activation = match activation {
            "identity" => LabelActivation::Identity,
            "sigmoid" => LabelActivation::Sigmoid,
            "softmax" => LabelActivation::Softmax,
            other => {
                return Err(invalid(format!("activation: must be identity, sigmoid or softmax, got {other:?}")));
            }
        };
        Ok(Self(PoolerConfig { kind, normalize, activation, dense, num_labels }))
    }
}

/// What is wanted of a sequence, as the kernels take it.
pub fn pool_task(pooling: &octavo_wire::Pooling) -> PoolTask {
    let (labels, each_token) = match pooling.task {
        PoolingTask::Embed => (false, false),
        PoolingTask::TokenEmbed => (false, true),
        PoolingTask::Classify | PoolingTask::Score => (true, false),
        PoolingTask::TokenClassify | PoolingTask::Reward => (true, true),
    };
    let dimensions = pooling.dimensions.map(|count| count as usize);
    PoolTask { labels, each_token, dimensions, normalize: pooling.normalize }
}

/// What a prompt was pooled to.
#[pyclass(frozen, module = "octavo._core")]
pub struct Pooled(pub octavo_text::Pooled);

#[pymethods]
impl Pooled {
    #[getter]
    fn request(&self) -> u64 {
        self.0.request
    }

    #[getter]
    fn num_prompt_tokens(&self) -> usize {
        self.0.num_prompt_tokens
    }

    #[getter]
    fn num_cached_tokens(&self) -> u32 {
        self.0.num_cached_tokens
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.shape)
    }

    #[getter]
    fn data<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, self.0.data.len() * size_of::<f32>(), |bytes| {
            for (to, value) in bytes.chunks_exact_mut(size_of::<f32>()).zip(&self.0.data) {
                to.copy_from_slice(&value.to_le_bytes());
            }
            Ok(())
        })
    }
}

fn pooling_task(name: &str, task: &str) -> PyResult<PoolingTask> {
    let found = PoolingTask::ALL.into_iter().find(|known| known.as_str() == task);
    found.ok_or_else(|| {
        let known = PoolingTask::ALL.map(PoolingTask::as_str).join(", ");
        invalid(format!("{name}: must be one of {known}, got {task:?}"))
    })
}
