//! The clients' side of an engine. Its state has locks of its own; no thread of it ever waits for the GIL.

use std::sync::Arc;
use std::time::Duration;

use octavo_text::{Limits, Prompt, Request, SamplingOptions};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::endpoint::Endpoint;
use crate::errors::{detached, invalid};
use crate::events::{Stats, event_object};
use crate::pooling::Pooling;
use crate::sampling::{Sampling, side};
use crate::tokenizer::Tokenizer;

#[pyclass(frozen, module = "octavo._core")]
pub struct Frontend(octavo_text::Frontend);

#[pymethods]
impl Frontend {
    #[new]
    #[pyo3(signature = (endpoint, tokenizer, *, max_model_len, vocab_size, threads = 2))]
    fn new(
        endpoint: &Endpoint,
        tokenizer: Option<PyRef<'_, Tokenizer>>,
        max_model_len: usize,
        vocab_size: usize,
        threads: usize,
    ) -> PyResult<Self> {
        let tokenizer = tokenizer.map(|tokenizer| tokenizer.0.clone());
        let limits = Limits { max_model_len, vocab_size };
        Ok(Self(octavo_text::Frontend::new(endpoint.take()?, tokenizer, limits, threads)?))
    }

    #[pyo3(signature = (prompt, sampling, *, add_special_tokens = true, clamp_max_tokens = false, priority = 0,
                        cache_salt = String::new()))]
    fn submit(
        &self,
        prompt: &Bound<'_, PyAny>,
        sampling: &Sampling,
        add_special_tokens: bool,
        clamp_max_tokens: bool,
        priority: i32,
        cache_salt: String,
    ) -> PyResult<u64> {
        let prompt = read_prompt(prompt)?;
        let sampling = sampling.0.clone();
        let request =
            Request { add_special_tokens, clamp_max_tokens, priority, cache_salt, ..Request::new(prompt, sampling) };
        Ok(self.0.submit(request))
    }

    #[pyo3(signature = (prompt, pooling, *, add_special_tokens = true, truncate_prompt_tokens = None,
                        truncation_side = "right", priority = 0, cache_salt = String::new()))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python")]
    fn submit_pooling(
        &self,
        prompt: &Bound<'_, PyAny>,
        pooling: &Pooling,
        add_special_tokens: bool,
        truncate_prompt_tokens: Option<i64>,
        truncation_side: &str,
        priority: i32,
        cache_salt: String,
    ) -> PyResult<u64> {
        let prompt = match prompt.extract::<(String, String)>() {
            Ok((first, second)) if prompt.is_instance_of::<PyTuple>() => Prompt::Pair(first, second),
            _ => read_prompt(prompt)?,
        };
        let options = SamplingOptions {
            detokenize: false,
            truncate_prompt_tokens,
            truncation_side: side(truncation_side)?,
            ..SamplingOptions::default()
        };
        let sampling = Arc::new(octavo_text::Sampling::new(options).map_err(invalid)?);
        let pooling = Some(pooling.0);
        let request = Request::new(prompt, sampling);
        Ok(self.0.submit(Request { pooling, add_special_tokens, priority, cache_salt, ..request }))
    }

    fn abort(&self, request: u64) {
        self.0.abort(request);
    }

    fn drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.0.drain().into_iter().map(|event| event_object(py, event)).collect()
    }

    fn wait(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(|error| invalid(format!("timeout: {error}")))?;
        detached(py, || self.0.wait(timeout))
    }

    fn fileno(&self) -> i32 {
        self.0.fileno()
    }

    #[getter]
    fn ready(&self) -> Option<String> {
        self.0.ready()
    }

    #[getter]
    fn stats(&self) -> Option<Stats> {
        self.0.stats().map(Stats::from)
    }

    #[getter]
    fn connected(&self) -> bool {
        self.0.connected()
    }

    #[getter]
    fn num_open(&self) -> usize {
        self.0.num_open()
    }

    fn reconnect(&self, endpoint: &Endpoint) -> PyResult<()> {
        Ok(self.0.reconnect(endpoint.take()?)?)
    }

    fn reset_prefix_cache(&self) {
        self.0.reset_prefix_cache();
    }

    fn drain_engine(&self) {
        self.0.drain_engine();
    }
}

/// A text, or token ids.
fn read_prompt(prompt: &Bound<'_, PyAny>) -> PyResult<Prompt> {
    Ok(match prompt.cast::<PyString>() {
        Ok(text) => Prompt::Text(text.extract()?),
        // An id that is none of 32 bits becomes one past every vocabulary, so that it is refused as all others are.
        Err(_) => Prompt::Ids(prompt.extract::<Vec<i64>>()?.into_iter().map(token_or_none).collect()),
    })
}

fn token_or_none(id: i64) -> u32 {
    u32::try_from(id).unwrap_or(u32::MAX)
}
