//! One of a request's n answers: its text so far, as far as more of it depends on that.

use std::sync::Arc;

use octavo_wire::{ChoiceOutput, FinishReason, RequestId, Timings};

use crate::detokenize::Detokenizer;
use crate::event::{Delta, EndReason, StopReason};
use crate::repeats::RepeatFinder;
use crate::sampling::Sampling;
use crate::stop::StopMatcher;
use crate::tokenize::Tokenizer;

/// The stop reason of a choice that repeats itself, by vLLM's name.
const REPETITION: &str = "repetition_detected";

pub(crate) struct Choice {
    /// `None`: the request wants no text, or there is no tokenizer.
    detokenizer: Option<Detokenizer>,
    matcher: StopMatcher,
    repeats: Option<RepeatFinder>,
    /// What `stream_interval` holds back.
    held: Option<Delta>,
    has_begun: bool,
    num_tokens: u32,
    scheduled: f64,
    first_token: Option<f64>,
    ended: bool,
}

/// What an output came to.
pub(crate) struct Turn {
    /// `None` while `stream_interval` holds it back.
    pub delta: Option<Delta>,
    pub is_last: bool,
    /// The choice was ended here, of which the engine does not know.
    pub is_stopped_here: bool,
}

impl Choice {
    pub fn new(sampling: &Sampling, tokenizer: Option<&Arc<Tokenizer>>, prompt: &[u32]) -> Self {
        let tokenizer = tokenizer.filter(|_| sampling.detokenize);
        Self {
            detokenizer: tokenizer.map(|tokenizer| {
                let (skip, spaces) = (sampling.skip_special_tokens, sampling.spaces_between_special_tokens);
                Detokenizer::new(tokenizer.clone(), prompt, skip, spaces)
            }),
            matcher: StopMatcher::new(sampling.stop.clone(), sampling.include_stop),
            repeats: sampling.repeats.map(RepeatFinder::new),
            held: None,
            has_begun: false,
            num_tokens: 0,
            scheduled: 0.0,
            first_token: None,
            ended: false,
        }
    }

    /// Takes an output that a step at `time` made; `None` once the choice has ended.
    pub fn take(&mut self, mut output: ChoiceOutput, sampling: &Sampling, arrival: f64, time: f64) -> Option<Turn> {
        if self.ended {
            return None;
        }
        if sampling.prompt_only {
            output.tokens.clear();
            output.logprobs.clear();
            output.finish.iter_mut().filter(|finish| finish.reason != FinishReason::Abort).for_each(|finish| {
                finish.reason = FinishReason::Length;
            });
        }
        if output.scheduled != 0.0 {
            self.scheduled = output.scheduled;
        }
        if !output.tokens.is_empty() {
            self.first_token.get_or_insert(time);
        }
        let (text, stop) = self.read(&output, sampling);
        let repeats = self.repeats.as_mut().is_some_and(|finder| output.tokens.iter().any(|&token| finder.push(token)));
        let stop = stop.map(|index| sampling.stop.get(index)).or(repeats.then_some(REPETITION));
        self.ended = stop.is_some() || output.finish.is_some();
        let (finish_reason, stop_reason, timings) = match (stop, &output.finish) {
            (Some(stop), finish) => {
                let timings = finish.as_ref().map_or_else(|| self.timings(arrival, time), |finish| finish.timings);
                (Some(EndReason::Stop), Some(StopReason::Text(stop.to_owned())), Some(timings))
            }
            (None, Some(finish)) => {
                let (reason, stop_reason) = match finish.reason {
                    FinishReason::EndOfSequence => (EndReason::Stop, None),
                    FinishReason::StopToken(token) => (EndReason::Stop, Some(StopReason::Token(token))),
                    FinishReason::Length => (EndReason::Length, None),
                    FinishReason::Abort => (EndReason::Abort, None),
                };
                (Some(reason), stop_reason, Some(finish.timings))
            }
            (None, None) => (None, None, None),
        };
        let delta = Delta {
            request: output.request,
            index: output.choice,
            text,
            token_ids: output.tokens,
            logprobs: sampling.engine.logprobs.map(|_| output.logprobs),
            prompt_logprobs: output.prompt_logprobs,
            num_cached_tokens: output.num_cached_tokens,
            finish_reason,
            stop_reason,
            timings,
        };
        let is_stopped_here = stop.is_some() && output.finish.is_none();
        Some(Turn { delta: self.pace(delta, sampling.stream_interval), is_last: self.ended, is_stopped_here })
    }

    /// Holds `delta` back until there are `interval` tokens, unless it is the first or the last.
    fn pace(&mut self, delta: Delta, interval: u32) -> Option<Delta> {
        if interval == 1 {
            return Some(delta);
        }
        match &mut self.held {
            Some(held) => held.extend(delta),
            held => *held = Some(delta),
        }
        let is_due =
            |held: &Delta| !self.has_begun || held.finish_reason.is_some() || held.token_ids.len() >= interval as usize;
        let due = self.held.take_if(|held| is_due(held));
        self.has_begun |= due.is_some();
        due
    }

    /// The new text, and the stop string that cut it. What a repetition ends is cut off nowhere.
    fn read(&mut self, output: &ChoiceOutput, sampling: &Sampling) -> (String, Option<usize>) {
        let mut text = String::new();
        let Some(detokenizer) = &mut self.detokenizer else {
            return (text, None);
        };
        let is_stopped = output
            .finish
            .as_ref()
            .is_some_and(|finish| matches!(finish.reason, FinishReason::EndOfSequence | FinishReason::StopToken(_)));
        // The token that stopped the choice is not part of the answer's text, unless asked for.
        let hidden = usize::from(is_stopped && !sampling.include_stop);
        let shown = &output.tokens[..output.tokens.len().saturating_sub(hidden)];
        let mut piece = String::new();
        for token in shown {
            self.num_tokens += 1;
            piece.clear();
            detokenizer.push(*token, &mut piece);
            let is_armed = self.num_tokens > sampling.engine.min_tokens;
            if let Some(index) = self.matcher.push(&piece, is_armed, &mut text) {
                return (text, Some(index));
            }
        }
        if output.finish.is_some() {
            piece.clear();
            detokenizer.finish(&mut piece);
            if let Some(index) = self.matcher.push(&piece, true, &mut text) {
                return (text, Some(index));
            }
            self.matcher.flush(&mut text);
        }
        (text, None)
    }

    /// The times as far as they are known here: the engine does not report those of a choice that it did not end; preemptions are not counted.
    fn timings(&self, arrival: f64, time: f64) -> Timings {
        let first_token = self.first_token.unwrap_or(time);
        Timings { arrival, scheduled: self.scheduled, first_token, last_token: time, num_preemptions: 0 }
    }
}

/// The end of a choice whose request never came to the engine.
pub(crate) fn aborted(request: RequestId, index: u32, arrival: f64, time: f64) -> Delta {
    Delta {
        request,
        index,
        text: String::new(),
        token_ids: Vec::new(),
        logprobs: None,
        prompt_logprobs: Vec::new(),
        num_cached_tokens: 0,
        finish_reason: Some(EndReason::Abort),
        stop_reason: None,
        timings: Some(Timings { arrival, scheduled: time, first_token: time, last_token: time, num_preemptions: 0 }),
    }
}
