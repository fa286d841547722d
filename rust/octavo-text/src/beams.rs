//! What a request asks of a beam search, and which other parameters it cannot have beside that.
//!
//! A beam search ranks whole answers by the model's own log-probabilities, so whatever would change or draw single
//! tokens is refused, by name. A seed is welcome: the same search finds the same answers always.

use octavo_wire::{BeamStop, Beams};

use crate::sampling::{InvalidParam, Range, SamplingOptions, float, integer, invalid};

const MAX_LENGTH_PENALTY: f64 = 10.0;

/// `None` when the request samples.
pub(crate) fn beams(options: &SamplingOptions) -> Result<Option<Beams>, InvalidParam> {
    let Some(width) = options.beam_width else {
        if options.length_penalty != 1.0 {
            return Err(invalid("length_penalty", "needs use_beam_search"));
        }
        if options.early_stopping == Some(true) {
            return Err(invalid("early_stopping", "needs use_beam_search"));
        }
        return Ok(None);
    };
    let width = integer("best_of", width, 1, i64::from(u32::MAX))?;
    if i64::from(width) < options.n {
        return Err(invalid("best_of", format!("must be at least n={}, got {width}", options.n)));
    }
    let refused = [
        ("temperature", options.temperature != 0.0 && options.temperature != 1.0),
        ("top_p", options.top_p != 1.0),
        ("top_k", !matches!(options.top_k, 0 | -1)),
        ("min_p", options.min_p != 0.0),
        ("presence_penalty", options.presence_penalty != 0.0),
        ("frequency_penalty", options.frequency_penalty != 0.0),
        ("repetition_penalty", options.repetition_penalty != 1.0),
        ("min_tokens", options.min_tokens != 0),
        ("stop", !options.stop.is_empty()),
        ("stop_token_ids", !options.stop_token_ids.is_empty()),
        ("logit_bias", !options.logit_bias.is_empty()),
        ("allowed_token_ids", options.allowed_token_ids.is_some()),
        ("bad_words", !options.bad_words.is_empty()),
        ("structured_outputs", options.structure.is_some()),
        ("thinking_token_budget", options.thinking_token_budget.is_some()),
        ("repetition_detection", options.repetition_detection.is_some()),
    ];
    if let Some((name, _)) = refused.iter().find(|(_, is_set)| *is_set) {
        return Err(invalid(name, "use_beam_search cannot honour it: it ranks by the model's own log-probabilities"));
    }
    float("length_penalty", options.length_penalty, Range::between(-MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY))?;
    let stop = match options.early_stopping {
        None => BeamStop::Exact,
        Some(false) => BeamStop::Likely,
        Some(true) => BeamStop::Enough,
    };
    Ok(Some(Beams { width, length_penalty: options.length_penalty, stop }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::Sampling;

    type Change = fn(&mut SamplingOptions);

    fn error(change: impl FnOnce(&mut SamplingOptions)) -> String {
        let mut options = SamplingOptions { n: 2, beam_width: Some(3), ..SamplingOptions::default() };
        change(&mut options);
        Sampling::new(options).expect_err("a search cannot have it").to_string()
    }

    #[test]
    fn what_a_search_cannot_honour_is_named() {
        let changes: [(&str, Change); 11] = [
            ("temperature", |o| o.temperature = 0.7),
            ("top_p", |o| o.top_p = 0.9),
            ("top_k", |o| o.top_k = 5),
            ("min_p", |o| o.min_p = 0.1),
            ("presence_penalty", |o| o.presence_penalty = 1.0),
            ("frequency_penalty", |o| o.frequency_penalty = 1.0),
            ("repetition_penalty", |o| o.repetition_penalty = 1.1),
            ("min_tokens", |o| o.min_tokens = 3),
            ("stop", |o| o.stop = vec!["a".into()]),
            ("stop_token_ids", |o| o.stop_token_ids = vec![3]),
            ("logit_bias", |o| o.logit_bias = vec![(3, 1.0)]),
        ];
        for (name, change) in changes {
            assert!(error(change).starts_with(&format!("{name}: use_beam_search cannot honour it")), "{name}");
        }
        assert_eq!(error(|o| o.n = 4), "best_of: must be at least n=4, got 3");
        assert_eq!(error(|o| o.beam_width = Some(0)), "best_of: must be at least 1, got 0");
        assert_eq!(error(|o| o.length_penalty = 11.0), "length_penalty: must be at most 10, got 11");
        assert_eq!(error(|o| (o.beam_width, o.length_penalty) = (None, 2.0)), "length_penalty: needs use_beam_search");
        assert_eq!(
            error(|o| (o.beam_width, o.early_stopping) = (None, Some(true))),
            "early_stopping: needs use_beam_search"
        );
    }

    #[test]
    fn a_search_may_have_a_seed_and_log_probabilities() {
        for temperature in [0.0, 1.0] {
            let (seed, logprobs) = (Some(3), Some(2));
            let options = SamplingOptions { temperature, seed, logprobs, beam_width: Some(4), ..Default::default() };
            let beams = Sampling::new(options).expect("a search can have these").engine.beams;
            assert_eq!(beams, Some(Beams { width: 4, length_penalty: 1.0, stop: BeamStop::Exact }));
        }
    }
}
