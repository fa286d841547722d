//! What `Frontend.drain` returns, and the engine's statistics. Lists are built when they are asked for.

use octavo_text::StopReason;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::pooling::Pooled;

/// Rust's event as the Python object of its class.
pub fn event_object(py: Python<'_>, event: octavo_text::Event) -> PyResult<Py<PyAny>> {
    match event {
        octavo_text::Event::Accepted(accepted) => Accepted(accepted).into_py_any(py),
        octavo_text::Event::Delta(delta) => Delta(delta).into_py_any(py),
        octavo_text::Event::Pooled(pooled) => Pooled(pooled).into_py_any(py),
        octavo_text::Event::Failed(failed) => Failed(failed).into_py_any(py),
    }
}

#[pyclass(frozen, module = "octavo._core")]
pub struct Accepted(octavo_text::Accepted);

#[pymethods]
impl Accepted {
    #[getter]
    fn request(&self) -> u64 {
        self.0.request
    }

    #[getter]
    fn num_prompt_tokens(&self) -> usize {
        self.0.prompt_token_ids.len()
    }

    #[getter]
    fn prompt_token_ids(&self) -> &[u32] {
        &self.0.prompt_token_ids
    }
}

#[pyclass(frozen, get_all, module = "octavo._core")]
pub struct Timings {
    arrival: f64,
    scheduled: f64,
    first_token: f64,
    last_token: f64,
    num_preemptions: u32,
}

#[pyclass(frozen, module = "octavo._core")]
pub struct TokenLogprobs(octavo_wire::TokenLogprobs);

#[pymethods]
impl TokenLogprobs {
    #[getter]
    fn logprob(&self) -> f32 {
        self.0.logprob
    }

    #[getter]
    fn rank(&self) -> u32 {
        self.0.rank
    }

    #[getter]
    fn top(&self) -> &[(u32, f32)] {
        &self.0.top
    }
}

#[pyclass(frozen, module = "octavo._core")]
pub struct Delta(octavo_text::Delta);

#[pymethods]
impl Delta {
    #[getter]
    fn request(&self) -> u64 {
        self.0.request
    }

    #[getter]
    fn index(&self) -> u32 {
        self.0.index
    }

    #[getter]
    fn text(&self) -> &str {
        &self.0.text
    }

    #[getter]
    fn num_cached_tokens(&self) -> u32 {
        self.0.num_cached_tokens
    }

    #[getter]
    fn finish_reason(&self) -> Option<&'static str> {
        self.0.finish_reason.map(octavo_text::EndReason::as_str)
    }

    #[getter]
    fn stop_reason(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match &self.0.stop_reason {
            None => Ok(None),
            Some(StopReason::Token(token)) => token.into_py_any(py).map(Some),
            Some(StopReason::Text(text)) => text.into_py_any(py).map(Some),
        }
    }

    #[getter]
    fn timings(&self) -> Option<Timings> {
        self.0.timings.map(|timings| Timings {
            arrival: timings.arrival,
            scheduled: timings.scheduled,
            first_token: timings.first_token,
            last_token: timings.last_token,
            num_preemptions: timings.num_preemptions,
        })
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        self.0.token_ids.len()
    }

    #[getter]
    fn token_ids(&self) -> &[u32] {
        &self.0.token_ids
    }

    #[getter]
    fn logprobs(&self) -> Option<Vec<TokenLogprobs>> {
        self.0.logprobs.as_ref().map(|entries| entries.iter().cloned().map(TokenLogprobs).collect())
    }

    #[getter]
    fn prompt_logprobs(&self) -> Vec<TokenLogprobs> {
        self.0.prompt_logprobs.iter().cloned().map(TokenLogprobs).collect()
    }
}

#[pyclass(frozen, module = "octavo._core")]
pub struct Failed(octavo_text::Failed);

#[pymethods]
impl Failed {
    #[getter]
    fn request(&self) -> u64 {
        self.0.request
    }

    #[getter]
    fn reason(&self) -> &'static str {
        self.0.reason.as_str()
    }

    #[getter]
    fn param(&self) -> Option<&str> {
        self.0.param.as_deref()
    }

    #[getter]
    fn message(&self) -> &str {
        &self.0.message
    }
}

/// The engine's state after its newest step.
#[pyclass(frozen, get_all, module = "octavo._core")]
pub struct Stats {
    time: f64,
    num_running: u32,
    num_waiting: u32,
    num_blocks: u32,
    num_used_blocks: u32,
    num_wasted_slots: u32,
    prefix_queries: u64,
    prefix_hits: u64,
    prompt_tokens: u64,
    generation_tokens: u64,
    num_preemptions: u64,
    num_rejected: u64,
    num_steps: u64,
    step_tokens: u32,
}

impl From<octavo_wire::Stats> for Stats {
    fn from(stats: octavo_wire::Stats) -> Self {
        Self {
            time: stats.time,
            num_running: stats.num_running,
            num_waiting: stats.num_waiting,
            num_blocks: stats.num_blocks,
            num_used_blocks: stats.num_used_blocks,
            num_wasted_slots: stats.num_wasted_slots,
            prefix_queries: stats.prefix_queries,
            prefix_hits: stats.prefix_hits,
            prompt_tokens: stats.prompt_tokens,
            generation_tokens: stats.generation_tokens,
            num_preemptions: stats.num_preemptions,
            num_rejected: stats.num_rejected,
            num_steps: stats.num_steps,
            step_tokens: stats.step_tokens,
        }
    }
}
