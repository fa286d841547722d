//! `best_of`: all choices of a request are made, and when the last one has ended, the best are given out.

use std::mem::take;

use crate::event::Delta;
use crate::sampling::Sampling;

/// The choices of one request, whole.
#[derive(Default)]
pub(crate) struct Ranking {
    choices: Vec<Ranked>,
}

struct Ranked {
    delta: Delta,
    /// Of all its tokens together.
    logprob: f64,
}

impl Ranking {
    pub fn take(&mut self, delta: Delta) {
        let logprob = delta.logprobs.iter().flatten().map(|token| f64::from(token.logprob)).sum();
        match self.choices.iter_mut().find(|choice| choice.delta.index == delta.index) {
            Some(choice) => {
                choice.delta.extend(delta);
                choice.logprob += logprob;
            }
            None => self.choices.push(Ranked { delta, logprob }),
        }
    }

    /// The `num_returned` with the highest log-probability per token, best first, numbered anew. Equals keep the order
    /// of their choices.
    pub fn best(mut self, sampling: &Sampling) -> impl Iterator<Item = Delta> {
        self.choices.sort_by_key(|choice| choice.delta.index);
        // They came with the first choice, and go out with the best.
        let mut prompt_logprobs = self.choices.first_mut().map(|choice| take(&mut choice.delta.prompt_logprobs));
        self.choices.sort_by(|left, right| right.mean().total_cmp(&left.mean()));
        self.choices.truncate(sampling.num_returned as usize);
        let returns_logprobs = sampling.returns_logprobs;
        (0..).zip(self.choices).map(move |(index, choice)| {
            let mut delta = choice.delta;
            delta.index = index;
            delta.prompt_logprobs = prompt_logprobs.take().unwrap_or_default();
            delta.logprobs = delta.logprobs.filter(|_| returns_logprobs);
            delta
        })
    }
}

impl Ranked {
    /// Minus infinity for a choice without tokens: it was aborted.
    fn mean(&self) -> f64 {
        match self.delta.token_ids.len() {
            0 => f64::NEG_INFINITY,
            count => self.logprob / count as f64,
        }
    }
}
