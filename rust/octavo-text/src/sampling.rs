//! A request's sampling parameters: as a client gives them, and checked.

use std::collections::HashSet;
use std::sync::Arc;

use octavo_wire::{Structure, StructureKind};

use crate::beams::beams;
use crate::repeats::RepeatLimits;
use crate::stop::StopStrings;

const MAX_CHOICES: i64 = 128;
const MAX_STOP_STRINGS: usize = 64;
const MAX_STOP_BYTES: usize = 1024;
const MAX_STOP_TOKENS: usize = 1024;
const MAX_LOGPROB_TOKENS: usize = 1024;
const MAX_BAD_WORDS: usize = 1024;
const MAX_BAD_WORD_BYTES: usize = 256;
const MAX_BIASES: usize = 4096;
const MAX_STRUCTURE_BYTES: usize = 1 << 20;
const MAX_REASONING_END: usize = 64;
const MAX_BIAS: f64 = 100.0;
/// The parameter that clients know a structure by.
const STRUCTURE: &str = "structured_outputs";
/// Lower temperatures are greedy: dividing logits by them leaves nothing but the best token anyway.
const MIN_TEMPERATURE: f64 = 1e-5;
/// What is compared with each token; a longer loop is rare, and `max_tokens` ends it.
const MAX_PATTERN: i64 = 1024;

/// Parameters as given, in the wide types of JSON. The defaults are those of a request that names none.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    pub n: i64,
    pub temperature: f64,
    pub top_p: f64,
    /// 0 and -1 keep all tokens.
    pub top_k: i64,
    pub min_p: f64,
    pub presence_penalty: f64,
    pub frequency_penalty: f64,
    pub repetition_penalty: f64,
    pub seed: Option<i64>,
    /// `None`: the rest of the context.
    pub max_tokens: Option<i64>,
    pub min_tokens: i64,
    pub ignore_eos: bool,
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<i64>,
    /// `Some`: no other tokens.
    pub allowed_token_ids: Option<Vec<i64>>,
    /// Text that must not be generated, at the beginning of a word or behind a space.
    pub bad_words: Vec<String>,
    pub include_stop_str_in_output: bool,
    pub skip_special_tokens: bool,
    pub detokenize: bool,
    /// (token, bias); biases are cut to -100 to 100, as OpenAI defines them. A token named twice keeps its last bias.
    pub logit_bias: Vec<(i64, f64)>,
    /// -1: of the whole vocabulary.
    pub logprobs: Option<i64>,
    /// What the output must match: kind and text.
    pub structure: Option<(String, String)>,
    /// The tokens that end the reasoning, before which `structure` does not hold.
    pub reasoning_end: Vec<i64>,
    /// Tokens of reasoning, at most.
    pub thinking_token_budget: Option<i64>,
    /// `Some`: a beam search with so many beams, whose `n` best are the choices.
    pub beam_width: Option<i64>,
    pub length_penalty: f64,
    /// Of a beam search: once `beam_width` beams have ended (`true`), or when a better one is unlikely (`false`). `None`:
    /// when no better one can come.
    pub early_stopping: Option<bool>,
    /// Whether Python's logits processors change the logits.
    pub logits_processors: bool,
    /// Log-probabilities of these tokens instead of the best; they are given even if `logprobs` is `None`.
    pub logprob_token_ids: Vec<i64>,
    /// As `logprobs`, of the prompt's tokens.
    pub prompt_logprobs: Option<i64>,
    /// Of the answer nothing is given out: the request is about its prompt. Takes the place of a `max_tokens` of 0.
    pub prompt_only: bool,
    /// Choices that are made, of which the `n` with the highest log-probability per token are given out, best first.
    pub best_of: Option<i64>,
    pub repetition_detection: Option<RepetitionDetection>,
    pub spaces_between_special_tokens: bool,
    /// Tokens of a choice between two of its deltas; the first token and the last come at once.
    pub stream_interval: i64,
    /// The prompt is cut to so many tokens; -1: to what leaves room for the answer.
    pub truncate_prompt_tokens: Option<i64>,
    pub truncation_side: Side,
}

/// Ends a choice that repeats a pattern of `min_pattern_size` (0 counts as 1) to `max_pattern_size` tokens `min_count`
/// times in a row. A `max_pattern_size` of 0 detects nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepetitionDetection {
    pub max_pattern_size: i64,
    pub min_pattern_size: i64,
    pub min_count: i64,
}

/// Where tokens of a prompt that is too long are cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// The end is what a model goes on from.
    #[default]
    Left,
    Right,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            n: 1,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: None,
            max_tokens: None,
            min_tokens: 0,
            ignore_eos: false,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            allowed_token_ids: None,
            bad_words: Vec::new(),
            include_stop_str_in_output: false,
            skip_special_tokens: true,
            detokenize: true,
            logit_bias: Vec::new(),
            logprobs: None,
            structure: None,
            reasoning_end: Vec::new(),
            thinking_token_budget: None,
            logprob_token_ids: Vec::new(),
            prompt_logprobs: None,
            prompt_only: false,
            best_of: None,
            repetition_detection: None,
            spaces_between_special_tokens: true,
            stream_interval: 1,
            truncate_prompt_tokens: None,
            truncation_side: Side::Left,
            beam_width: None,
            length_penalty: 1.0,
            early_stopping: None,
            logits_processors: false,
        }
    }
}

/// A parameter out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {reason}")]
pub struct InvalidParam {
    pub param: &'static str,
    pub reason: String,
}

pub(crate) fn invalid(param: &'static str, reason: impl Into<String>) -> InvalidParam {
    InvalidParam { param, reason: reason.into() }
}

/// Checked parameters: what the engine gets, and what stays with the text.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// `max_tokens` is 0 here when the request named none; a submitted request has the real number.
    pub(crate) engine: octavo_wire::Sampling,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stop: Arc<StopStrings>,
    /// As text: only a tokenizer can fill those of `engine`.
    pub(crate) bad_words: Vec<String>,
    pub(crate) include_stop: bool,
    pub(crate) skip_special_tokens: bool,
    pub(crate) detokenize: bool,
    /// Choices that the caller gets, of the `engine.n`.
    pub(crate) num_returned: u32,
    /// Whether the caller asked for log-probabilities: best-of needs them anyway.
    pub(crate) returns_logprobs: bool,
    pub(crate) prompt_only: bool,
    pub(crate) repeats: Option<RepeatLimits>,
    pub(crate) spaces_between_special_tokens: bool,
    pub(crate) stream_interval: u32,
    pub(crate) truncation: Option<Truncation>,
}

/// Number of log-probabilities that means all, until the vocabulary is known.
pub(crate) const WHOLE_VOCABULARY: u32 = u32::MAX;

/// A prompt is cut to `limit` tokens, or to what leaves room for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncation {
    pub limit: Option<u32>,
    pub side: Side,
}

impl Sampling {
    /// Checks every parameter that can be checked without a model; the first one out of range is the error.
    pub fn new(options: SamplingOptions) -> Result<Self, InvalidParam> {
        let min_tokens = integer("min_tokens", options.min_tokens, 0, i64::from(u32::MAX))?;
        let max_tokens = match options.max_tokens {
            Some(count) => Some(integer("max_tokens", count, 1, i64::from(u32::MAX))?),
            None => None,
        };
        if let Some(max_tokens) = max_tokens.filter(|max_tokens| min_tokens > *max_tokens) {
            return Err(invalid("min_tokens", format!("must be at most max_tokens={max_tokens}, got {min_tokens}")));
        }
        let temperature = float("temperature", options.temperature, Range::at_least(0.0))?;
        let num_returned = integer("n", options.n, 1, MAX_CHOICES)?;
        let num_made = match options.best_of {
            Some(count) => integer("best_of", count, options.n, MAX_CHOICES)?,
            None => num_returned,
        };
        let logprob_token_ids = logprob_token_ids(&options.logprob_token_ids)?;
        let returns_logprobs = options.logprobs.is_some() || !logprob_token_ids.is_empty();
        let needs_logprobs = returns_logprobs || num_made > num_returned;
        let beams = beams(&options)?;
        if beams.is_some() && !logprob_token_ids.is_empty() {
            return Err(invalid("logprob_token_ids", "a beam search gives its own candidates only"));
        }
        let is_greedy = beams.is_some() || options.temperature < MIN_TEMPERATURE;
        let engine = octavo_wire::Sampling {
            n: num_made,
            temperature: if is_greedy { 0.0 } else { temperature },
            top_p: float("top_p", options.top_p, Range { above: Some(0.0), most: 1.0, ..Range::ANY })?,
            top_k: integer("top_k", options.top_k, -1, i64::from(u32::MAX)).map(|count: i64| count.max(0) as u32)?,
            min_p: float("min_p", options.min_p, Range { most: 1.0, ..Range::at_least(0.0) })?,
            presence_penalty: float("presence_penalty", options.presence_penalty, Range::between(-2.0, 2.0))?,
            frequency_penalty: float("frequency_penalty", options.frequency_penalty, Range::between(-2.0, 2.0))?,
            repetition_penalty: float(
                "repetition_penalty",
                options.repetition_penalty,
                Range { above: Some(0.0), ..Range::ANY },
            )?,
            seed: options.seed.map(i64::cast_unsigned),
            max_tokens: max_tokens.unwrap_or(0),
            min_tokens,
            ignore_eos: options.ignore_eos,
            stop_token_ids: stop_token_ids(&options.stop_token_ids)?,
            allowed_token_ids: allowed_token_ids(options.allowed_token_ids.as_deref())?,
            bad_words: Vec::new(),
            logit_bias: logit_bias(&options.logit_bias)?,
            logprobs: num_logprobs("logprobs", options.logprobs)?.or(needs_logprobs.then_some(0)),
            logprob_token_ids,
            prompt_logprobs: num_logprobs("prompt_logprobs", options.prompt_logprobs)?,
            structure: options.structure.map(structure).transpose()?,
            reasoning_end: reasoning_end(&options.reasoning_end)?,
            thinking_token_budget: match options.thinking_token_budget {
                Some(count) => Some(integer("thinking_token_budget", count, 0, i64::from(u32::MAX))?),
                None => None,
            },
            beams,
            is_processed: options.logits_processors,
        };
        if engine.thinking_token_budget.is_some() && engine.reasoning_end.is_empty() {
            return Err(invalid("thinking_token_budget", "needs a model whose reasoning has an end"));
        }
        if !options.detokenize && !options.stop.is_empty() {
            return Err(invalid("stop", "stop strings need detokenize=True"));
        }
        Ok(Self {
            engine,
            max_tokens,
            stop: Arc::new(StopStrings::new(stop_strings(options.stop)?)),
            bad_words: bad_words(options.bad_words)?,
            include_stop: options.include_stop_str_in_output,
            skip_special_tokens: options.skip_special_tokens,
            detokenize: options.detokenize,
            num_returned,
            returns_logprobs,
            prompt_only: options.prompt_only,
            repeats: options.repetition_detection.map_or(Ok(None), repeat_limits)?,
            spaces_between_special_tokens: options.spaces_between_special_tokens,
            stream_interval: integer("stream_interval", options.stream_interval, 1, i64::from(u32::MAX))?,
            truncation: truncation(options.truncate_prompt_tokens, options.truncation_side)?,
        })
    }

    /// Choices that the caller gets.
    pub fn num_returned(&self) -> u32 {
        self.num_returned
    }
}

fn repeat_limits(asked: RepetitionDetection) -> Result<Option<RepeatLimits>, InvalidParam> {
    let name = "repetition_detection";
    let RepetitionDetection { max_pattern_size, min_pattern_size, min_count } = asked;
    if !(0..=MAX_PATTERN).contains(&max_pattern_size) {
        return Err(invalid(name, format!("max_pattern_size must be 0 to {MAX_PATTERN}, got {max_pattern_size}")));
    }
    if !(0..=max_pattern_size).contains(&min_pattern_size) {
        return Err(invalid(
            name,
            format!("min_pattern_size must be 0 to max_pattern_size={max_pattern_size}, got {min_pattern_size}"),
        ));
    }
    if max_pattern_size == 0 {
        return Ok(None);
    }
    if !(2..=i64::from(u16::MAX)).contains(&min_count) {
        return Err(invalid(name, format!("min_count must be 2 to {}, got {min_count}", u16::MAX)));
    }
    let (shortest, longest) = (min_pattern_size.max(1) as usize, max_pattern_size as usize);
    Ok(Some(RepeatLimits { shortest, longest, count: min_count as u32 }))
}

fn truncation(limit: Option<i64>, side: Side) -> Result<Option<Truncation>, InvalidParam> {
    let name = "truncate_prompt_tokens";
    match limit {
        None => Ok(None),
        Some(-1) => Ok(Some(Truncation { limit: None, side })),
        Some(0) => Err(invalid(name, "must be at least 1, or -1 for what leaves room for the answer, got 0")),
        Some(count) => Ok(Some(Truncation { limit: Some(integer(name, count, 1, i64::from(u32::MAX))?), side })),
    }
}

pub(crate) fn integer<T: TryFrom<i64>>(
    param: &'static str,
    value: i64,
    least: i64,
    most: i64,
) -> Result<T, InvalidParam> {
    if value < least {
        return Err(invalid(param, format!("must be at least {least}, got {value}")));
    }
    if value > most {
        return Err(invalid(param, format!("must be at most {most}, got {value}")));
    }
    T::try_from(value).map_err(|_| invalid(param, format!("{value} is out of range")))
}

#[derive(Clone, Copy)]
pub(crate) struct Range {
    least: f64,
    /// Exclusive lower bound, instead of `least`.
    above: Option<f64>,
    most: f64,
}

impl Range {
    const ANY: Self = Self { least: f64::NEG_INFINITY, above: None, most: f64::INFINITY };

    fn at_least(least: f64) -> Self {
        Self { least, ..Self::ANY }
    }

    pub fn between(least: f64, most: f64) -> Self {
        Self { least, above: None, most }
    }
}

pub(crate) fn float(param: &'static str, value: f64, range: Range) -> Result<f32, InvalidParam> {
    let narrow = value as f32;
    if !narrow.is_finite() {
        return Err(invalid(param, format!("must be a finite number, got {value}")));
    }
    if let Some(above) = range.above.filter(|above| value <= *above || f64::from(narrow) <= *above) {
        return Err(invalid(param, format!("must be greater than {above}, got {value}")));
    }
    if value < range.least {
        return Err(invalid(param, format!("must be at least {}, got {value}", range.least)));
    }
    if value > range.most {
        return Err(invalid(param, format!("must be at most {}, got {value}", range.most)));
    }
    Ok(narrow)
}

fn token(param: &'static str, value: i64) -> Result<u32, InvalidParam> {
    u32::try_from(value).map_err(|_| invalid(param, format!("{value} is not a token id")))
}

fn stop_token_ids(ids: &[i64]) -> Result<Vec<u32>, InvalidParam> {
    if ids.len() > MAX_STOP_TOKENS {
        return Err(invalid("stop_token_ids", format!("at most {MAX_STOP_TOKENS} are taken, got {}", ids.len())));
    }
    distinct("stop_token_ids", ids)
}

/// Each once, in the caller's order.
fn logprob_token_ids(ids: &[i64]) -> Result<Vec<u32>, InvalidParam> {
    let name = "logprob_token_ids";
    if ids.len() > MAX_LOGPROB_TOKENS {
        return Err(invalid(name, format!("at most {MAX_LOGPROB_TOKENS} are taken, got {}", ids.len())));
    }
    let mut tokens: Vec<u32> = Vec::with_capacity(ids.len());
    let mut seen = HashSet::with_capacity(ids.len());
    for id in ids {
        let token = token(name, *id)?;
        if seen.insert(token) {
            tokens.push(token);
        }
    }
    Ok(tokens)
}

fn num_logprobs(param: &'static str, count: Option<i64>) -> Result<Option<u32>, InvalidParam> {
    match count {
        None => Ok(None),
        Some(-1) => Ok(Some(WHOLE_VOCABULARY)),
        Some(count) => integer(param, count, -1, i64::from(u32::MAX - 1)).map(Some),
    }
}

fn allowed_token_ids(ids: Option<&[i64]>) -> Result<Vec<u32>, InvalidParam> {
    match ids {
        None => Ok(Vec::new()),
        Some([]) => Err(invalid("allowed_token_ids", "must not be empty: no token could be chosen")),
        Some(ids) => distinct("allowed_token_ids", ids),
    }
}

fn distinct(param: &'static str, ids: &[i64]) -> Result<Vec<u32>, InvalidParam> {
    let mut tokens = ids.iter().map(|id| token(param, *id)).collect::<Result<Vec<_>, _>>()?;
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokens)
}

fn bad_words(words: Vec<String>) -> Result<Vec<String>, InvalidParam> {
    if words.len() > MAX_BAD_WORDS {
        return Err(invalid("bad_words", format!("at most {MAX_BAD_WORDS} are taken, got {}", words.len())));
    }
    for word in &words {
        if word.trim_start().is_empty() {
            return Err(invalid("bad_words", "a bad word cannot be empty"));
        }
        if word.len() > MAX_BAD_WORD_BYTES {
            let length = word.len();
            return Err(invalid(
                "bad_words",
                format!("a bad word has at most {MAX_BAD_WORD_BYTES} bytes, got {length}"),
            ));
        }
    }
    Ok(words)
}

/// The grammar itself is checked where it is compiled, in the engine.
fn structure((kind, text): (String, String)) -> Result<Structure, InvalidParam> {
    let kind = match kind.as_str() {
        "json_schema" => StructureKind::JsonSchema,
        "regex" => StructureKind::Regex,
        "lark" => StructureKind::Lark,
        _ => {
            let kind = kind.escape_debug();
            return Err(invalid(STRUCTURE, format!("'{kind}' is none of json_schema, regex, lark")));
        }
    };
    if text.len() > MAX_STRUCTURE_BYTES {
        let length = text.len();
        return Err(invalid(STRUCTURE, format!("a grammar has at most {MAX_STRUCTURE_BYTES} bytes, got {length}")));
    }
    Ok(Structure { kind, text })
}

fn reasoning_end(ids: &[i64]) -> Result<Vec<u32>, InvalidParam> {
    if ids.len() > MAX_REASONING_END {
        return Err(invalid("reasoning_end", format!("at most {MAX_REASONING_END} tokens, got {}", ids.len())));
    }
    ids.iter().map(|id| token("reasoning_end", *id)).collect()
}

fn logit_bias(biases: &[(i64, f64)]) -> Result<Vec<(u32, f32)>, InvalidParam> {
    if biases.len() > MAX_BIASES {
        return Err(invalid("logit_bias", format!("at most {MAX_BIASES} are taken, got {}", biases.len())));
    }
    let mut result = Vec::with_capacity(biases.len());
    // Reversed, so that after the stable sort the last bias of a token stands first and `dedup` keeps it.
    for (id, bias) in biases.iter().rev() {
        if !bias.is_finite() {
            return Err(invalid("logit_bias", format!("must be finite numbers, got {bias} for token {id}")));
        }
        result.push((token("logit_bias", *id)?, bias.clamp(-MAX_BIAS, MAX_BIAS) as f32));
    }
    result.sort_by_key(|(token, _)| *token);
    result.dedup_by_key(|(token, _)| *token);
    Ok(result)
}

fn stop_strings(strings: Vec<String>) -> Result<Vec<String>, InvalidParam> {
    if strings.len() > MAX_STOP_STRINGS {
        return Err(invalid("stop", format!("at most {MAX_STOP_STRINGS} strings are taken, got {}", strings.len())));
    }
    for string in &strings {
        if string.is_empty() {
            return Err(invalid("stop", "a stop string cannot be empty"));
        }
        if string.len() > MAX_STOP_BYTES {
            return Err(invalid(
                "stop",
                format!("a stop string has at most {MAX_STOP_BYTES} bytes, got {}", string.len()),
            ));
        }
    }
    Ok(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(change: impl FnOnce(&mut SamplingOptions)) -> String {
        let mut options = SamplingOptions::default();
        change(&mut options);
        Sampling::new(options).expect_err("out of range").to_string()
    }

    fn checked(change: impl FnOnce(&mut SamplingOptions)) -> Sampling {
        let mut options = SamplingOptions::default();
        change(&mut options);
        Sampling::new(options).expect("in range")
    }

    #[test]
    fn every_float_refuses_what_is_not_finite() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            let reason = format!("must be a finite number, got {value}");
            assert_eq!(error(|o| o.temperature = value), format!("temperature: {reason}"));
            assert_eq!(error(|o| o.top_p = value), format!("top_p: {reason}"));
            assert_eq!(error(|o| o.min_p = value), format!("min_p: {reason}"));
            assert_eq!(error(|o| o.presence_penalty = value), format!("presence_penalty: {reason}"));
            assert_eq!(error(|o| o.frequency_penalty = value), format!("frequency_penalty: {reason}"));
            assert_eq!(error(|o| o.repetition_penalty = value), format!("repetition_penalty: {reason}"));
        }
        assert!(error(|o| o.logit_bias = vec![(1, f64::NAN)]).starts_with("logit_bias: must be finite"));
    }

    #[test]
    fn ranges_name_the_parameter_and_the_bound() {
        assert_eq!(error(|o| o.temperature = -0.5), "temperature: must be at least 0, got -0.5");
        assert_eq!(error(|o| o.top_p = 0.0), "top_p: must be greater than 0, got 0");
        assert_eq!(error(|o| o.top_p = 1.5), "top_p: must be at most 1, got 1.5");
        assert_eq!(error(|o| o.top_k = -5), "top_k: must be at least -1, got -5");
        assert_eq!(error(|o| o.min_p = 1.1), "min_p: must be at most 1, got 1.1");
        assert_eq!(error(|o| o.presence_penalty = 2.5), "presence_penalty: must be at most 2, got 2.5");
        assert_eq!(error(|o| o.frequency_penalty = -3.0), "frequency_penalty: must be at least -2, got -3");
        assert_eq!(error(|o| o.repetition_penalty = 0.0), "repetition_penalty: must be greater than 0, got 0");
        assert_eq!(
            error(|o| o.repetition_penalty = 1e-60),
            "repetition_penalty: must be greater than 0, got 0.000000000000000000000000000000000000000000000000000000000001"
        );
        assert_eq!(error(|o| o.n = 1_000_000), "n: must be at most 128, got 1000000");
        assert_eq!(error(|o| o.n = 0), "n: must be at least 1, got 0");
        assert_eq!(error(|o| o.max_tokens = Some(0)), "max_tokens: must be at least 1, got 0");
        assert_eq!(error(|o| o.min_tokens = -1), "min_tokens: must be at least 0, got -1");
        assert_eq!(error(|o| o.logprobs = Some(-2)), "logprobs: must be at least -1, got -2");
        assert_eq!(error(|o| o.prompt_logprobs = Some(-2)), "prompt_logprobs: must be at least -1, got -2");
        assert_eq!(error(|o| o.logprob_token_ids = vec![3, -1]), "logprob_token_ids: -1 is not a token id");
        let many = "logprob_token_ids: at most 1024 are taken, got 1025";
        assert_eq!(error(|o| o.logprob_token_ids = vec![1; 1025]), many);
        assert_eq!(error(|o| o.stop_token_ids = vec![-1]), "stop_token_ids: -1 is not a token id");
        assert_eq!(error(|o| o.logit_bias = vec![(1 << 40, 1.0)]), "logit_bias: 1099511627776 is not a token id");
        assert_eq!(
            error(|o| (o.min_tokens, o.max_tokens) = (5, Some(4))),
            "min_tokens: must be at most max_tokens=4, got 5"
        );
    }

    #[test]
    fn choices_prompts_and_repeats_have_ranges_too() {
        assert_eq!(error(|o| (o.n, o.best_of) = (3, Some(2))), "best_of: must be at least 3, got 2");
        assert_eq!(error(|o| o.best_of = Some(129)), "best_of: must be at most 128, got 129");
        assert_eq!(error(|o| o.stream_interval = 0), "stream_interval: must be at least 1, got 0");
        assert_eq!(
            error(|o| o.truncate_prompt_tokens = Some(0)),
            "truncate_prompt_tokens: must be at least 1, or -1 for what leaves room for the answer, got 0"
        );
        let repeats = |max_pattern_size, min_pattern_size, min_count| {
            error(|o| {
                o.repetition_detection = Some(RepetitionDetection { max_pattern_size, min_pattern_size, min_count });
            })
        };
        assert_eq!(repeats(2000, 1, 2), "repetition_detection: max_pattern_size must be 0 to 1024, got 2000");
        assert_eq!(repeats(4, 5, 2), "repetition_detection: min_pattern_size must be 0 to max_pattern_size=4, got 5");
        assert_eq!(repeats(4, 1, 1), "repetition_detection: min_count must be 2 to 65535, got 1");
        assert!(checked(|o| o.repetition_detection = Some(RepetitionDetection::default())).repeats.is_none());
    }

    #[test]
    fn stop_strings_are_few_short_and_not_empty() {
        assert_eq!(error(|o| o.stop = vec![String::new()]), "stop: a stop string cannot be empty");
        assert_eq!(error(|o| o.stop = vec!["a".into(); 65]), "stop: at most 64 strings are taken, got 65");
        assert_eq!(
            error(|o| o.stop = vec!["a".repeat(1 << 20)]),
            "stop: a stop string has at most 1024 bytes, got 1048576"
        );
        assert_eq!(
            error(|o| (o.detokenize, o.stop) = (false, vec!["a".into()])),
            "stop: stop strings need detokenize=True"
        );
    }

    #[test]
    fn constraints_are_few_short_and_not_empty() {
        let empty = "allowed_token_ids: must not be empty: no token could be chosen";
        assert_eq!(error(|o| o.allowed_token_ids = Some(vec![])), empty);
        assert_eq!(error(|o| o.allowed_token_ids = Some(vec![3, -4])), "allowed_token_ids: -4 is not a token id");
        assert_eq!(error(|o| o.bad_words = vec!["a".into(), " ".into()]), "bad_words: a bad word cannot be empty");
        assert_eq!(error(|o| o.bad_words = vec!["a".into(); 1025]), "bad_words: at most 1024 are taken, got 1025");
        assert_eq!(
            error(|o| o.bad_words = vec!["a".repeat(257)]),
            "bad_words: a bad word has at most 256 bytes, got 257"
        );
        let allowed = (0..2000).rev().chain(0..2000).collect();
        let checked = checked(|o| o.allowed_token_ids = Some(allowed));
        assert_eq!(checked.engine.allowed_token_ids, (0..2000).collect::<Vec<u32>>());
    }

    #[test]
    fn structures_are_of_a_known_kind_and_not_too_long() {
        let structure = |kind: &str, length| Some((kind.to_owned(), "a".repeat(length)));
        assert_eq!(
            error(|o| o.structure = structure("abnf", 1)),
            "structured_outputs: 'abnf' is none of json_schema, regex, lark"
        );
        assert_eq!(
            error(|o| o.structure = structure("regex", (1 << 20) + 1)),
            "structured_outputs: a grammar has at most 1048576 bytes, got 1048577"
        );
        assert_eq!(error(|o| o.reasoning_end = vec![-7]), "reasoning_end: -7 is not a token id");
        assert_eq!(
            error(|o| o.thinking_token_budget = Some(5)),
            "thinking_token_budget: needs a model whose reasoning has an end"
        );
        let given = checked(|o| (o.reasoning_end, o.thinking_token_budget) = (vec![3, 4], Some(0)));
        assert_eq!((given.engine.reasoning_end, given.engine.thinking_token_budget), (vec![3, 4], Some(0)));
    }

    #[test]
    fn values_are_brought_into_the_engines_form() {
        assert_eq!(checked(|o| o.temperature = 1e-6).engine.temperature, 0.0);
        assert_eq!(checked(|o| o.top_k = -1).engine.top_k, 0);
        assert_eq!(checked(|o| o.logprob_token_ids = vec![9, 2, 9]).engine.logprob_token_ids, [9, 2]);
        assert_eq!(checked(|o| o.logprob_token_ids = vec![9]).engine.logprobs, Some(0));
        assert_eq!(checked(|o| o.seed = Some(-1)).engine.seed, Some(u64::MAX));
        assert_eq!(checked(|o| o.stop_token_ids = vec![7, 3, 7]).engine.stop_token_ids, [3, 7]);
        let biases = vec![(9, 500.0), (2, -1.0), (9, 4.0), (1, -500.0)];
        assert_eq!(checked(|o| o.logit_bias = biases).engine.logit_bias, [(1, -100.0), (2, -1.0), (9, 4.0)]);
    }
}
