//! Sampling parameters. The ranges are octavo-text's; this file widens Python's numbers so that those ranges decide.

use std::sync::Arc;

use octavo_text::{RepetitionDetection, SamplingOptions, Side};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::errors::invalid;

#[pyclass(frozen, module = "octavo._core")]
pub struct Sampling(pub Arc<octavo_text::Sampling>);

#[pymethods]
impl Sampling {
    #[new]
    #[pyo3(signature = (*, n = 1, temperature = 1.0, top_p = 1.0, top_k = 0,
                        min_p = 0.0, presence_penalty = 0.0, frequency_penalty = 0.0,
                        repetition_penalty = 1.0, seed = None, max_tokens = None, min_tokens = 0,
                        ignore_eos = false, stop = Vec::new(), stop_token_ids = Vec::new(),
                        include_stop_str_in_output = false, skip_special_tokens = true, detokenize = true,
                        logit_bias = Vec::new(), logprobs = None, structure = None, reasoning_end = Vec::new(),
                        thinking_token_budget = None, best_of = None, repetition_detection = None,
                        spaces_between_special_tokens = true, stream_interval = 1, truncate_prompt_tokens = None,
                        truncation_side = "left", allowed_token_ids = None, bad_words = Vec::new(),
                        beam_width = None, length_penalty = 1.0, early_stopping = None, logits_processors = false,
                        logprob_token_ids = Vec::new(), prompt_logprobs = None, prompt_only = false))]
    #[expect(clippy::too_many_arguments, reason = "named arguments in Python")]
    fn new(
        #[pyo3(from_py_with = integer)] n: i64,
        #[pyo3(from_py_with = float)] temperature: f64,
        #[pyo3(from_py_with = float)] top_p: f64,
        #[pyo3(from_py_with = integer)] top_k: i64,
        #[pyo3(from_py_with = float)] min_p: f64,
        #[pyo3(from_py_with = float)] presence_penalty: f64,
        #[pyo3(from_py_with = float)] frequency_penalty: f64,
        #[pyo3(from_py_with = float)] repetition_penalty: f64,
        seed: Option<i128>,
        max_tokens: Option<Integer>,
        #[pyo3(from_py_with = integer)] min_tokens: i64,
        ignore_eos: bool,
        stop: Vec<String>,
        stop_token_ids: Vec<Integer>,
        include_stop_str_in_output: bool,
        skip_special_tokens: bool,
        detokenize: bool,
        logit_bias: Vec<(Integer, Float)>,
        logprobs: Option<Integer>,
        structure: Option<(String, String)>,
        reasoning_end: Vec<Integer>,
        thinking_token_budget: Option<Integer>,
        best_of: Option<Integer>,
        repetition_detection: Option<(Integer, Integer, Integer)>,
        spaces_between_special_tokens: bool,
        #[pyo3(from_py_with = integer)] stream_interval: i64,
        truncate_prompt_tokens: Option<Integer>,
        truncation_side: &str,
        allowed_token_ids: Option<Vec<Integer>>,
        bad_words: Vec<String>,
        beam_width: Option<Integer>,
        #[pyo3(from_py_with = float)] length_penalty: f64,
        early_stopping: Option<bool>,
        logits_processors: bool,
        logprob_token_ids: Vec<Integer>,
        prompt_logprobs: Option<Integer>,
        prompt_only: bool,
    ) -> PyResult<Self> {
        let repetition_detection = repetition_detection.map(|(longest, shortest, count)| RepetitionDetection {
            max_pattern_size: longest.0,
            min_pattern_size: shortest.0,
            min_count: count.0,
        });
        let options = SamplingOptions {
            n,
            temperature,
            top_p,
            top_k,
            min_p,
            presence_penalty,
            frequency_penalty,
            repetition_penalty,
            seed: seed.map(seed_bits).transpose()?,
            max_tokens: max_tokens.map(|count| count.0),
            min_tokens,
            ignore_eos,
            stop,
            stop_token_ids: stop_token_ids.into_iter().map(|token| token.0).collect(),
            allowed_token_ids: allowed_token_ids.map(|tokens| tokens.into_iter().map(|token| token.0).collect()),
            bad_words,
            include_stop_str_in_output,
            skip_special_tokens,
            detokenize,
            logit_bias: logit_bias.into_iter().map(|(token, bias)| (token.0, bias.0)).collect(),
            logprobs: logprobs.map(|count| count.0),
            structure,
            reasoning_end: reasoning_end.into_iter().map(|token| token.0).collect(),
            thinking_token_budget: thinking_token_budget.map(|count| count.0),
            logprob_token_ids: logprob_token_ids.into_iter().map(|token| token.0).collect(),
            prompt_logprobs: prompt_logprobs.map(|count| count.0),
            prompt_only,
            best_of: best_of.map(|count| count.0),
            repetition_detection,
            spaces_between_special_tokens,
            stream_interval,
            truncate_prompt_tokens: truncate_prompt_tokens.map(|count| count.0),
            truncation_side: side(truncation_side)?,
            beam_width: beam_width.map(|width| width.0),
            length_penalty,
            early_stopping,
            logits_processors,
        };
        octavo_text::Sampling::new(options).map(|sampling| Self(Arc::new(sampling))).map_err(invalid)
    }
}

pub fn side(name: &str) -> PyResult<Side> {
    match name {
        "left" => Ok(Side::Left),
        "right" => Ok(Side::Right),
        _ => Err(invalid(format!("truncation_side: must be left or right, got {}", name.escape_debug()))),
    }
}

/// 64 bits, given with or without a sign.
fn seed_bits(seed: i128) -> PyResult<i64> {
    i64::try_from(seed)
        .or_else(|_| u64::try_from(seed).map(u64::cast_signed))
        .map_err(|_| invalid(format!("seed: must have at most 64 bits, got {seed}")))
}

fn integer(object: &Bound<'_, PyAny>) -> PyResult<i64> {
    object.extract::<Integer>().map(|value| value.0)
}

fn float(object: &Bound<'_, PyAny>) -> PyResult<f64> {
    object.extract::<Float>().map(|value| value.0)
}

/// A Python int; one past 64 bits becomes the nearest, which no range admits.
struct Integer(i64);

impl<'py> FromPyObject<'_, 'py> for Integer {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<i64>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                Ok(Self(if object.lt(0)? { i64::MIN } else { i64::MAX }))
            }
            result => result.map(Self),
        }
    }
}

/// A Python float or int; an int past all floats becomes infinite, which no range admits.
struct Float(f64);

impl<'py> FromPyObject<'_, 'py> for Float {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<f64>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => Ok(Self(f64::INFINITY)),
            result => result.map(Self),
        }
    }
}
