//! What changes logits before a token is chosen.

use super::{SampleRow, mask};

/// Working memory of one thread, and the list of what was changed.
#[derive(Default)]
pub(super) struct Penalties {
    /// How often a token is in the output, and whether it is in prompt or output; all zero between rows.
    counts: Vec<u32>,
    /// The tokens with a count.
    counted: Vec<u32>,
    /// (token, logit before the change), in order.
    changed: Vec<(u32, f32)>,
    /// The logits that stay where only some tokens are allowed.
    kept: Vec<f32>,
    /// All logits before the changes, where most of them change and are wanted again; else empty.
    raw: Vec<f32>,
}

/// Set in a count: the token occurs, though perhaps only in the prompt.
const SEEN: u32 = 1 << 31;

/// Whether a row's settings may change its logits.
pub(super) fn change(row: &SampleRow<'_>) -> bool {
    row.allowed.is_some()
        || !row.mask.is_empty()
        || !row.logit_bias.is_empty()
        || !row.banned.is_empty()
        || !row.bad_words.is_empty()
        || penalises(row)
}

fn penalises(row: &SampleRow<'_>) -> bool {
    row.repetition_penalty != 1.0 || row.frequency_penalty != 0.0 || row.presence_penalty != 0.0
}

impl Penalties {
    /// The mask, allowed tokens, logit bias, banned tokens and words, then the repetition, frequency and presence penalties, as
    /// vLLM orders them.
    pub(super) fn apply(&mut self, logits: &mut [f32], row: &SampleRow<'_>) {
        self.changed.clear();
        self.raw.clear();
        if row.num_logprobs.is_some() && (row.allowed.is_some() || !row.mask.is_empty()) {
            self.raw.extend_from_slice(logits);
        }
        if !row.mask.is_empty() {
            mask::apply(logits, row.mask);
        }
        if let Some(allowed) = row.allowed {
            self.keep(logits, allowed);
        }
        for &(token, bias) in row.logit_bias {
            self.change(logits, token, |logit| logit + bias);
        }
        for &token in row.banned {
            self.change(logits, token, |_| f32::NEG_INFINITY);
        }
        for word in row.bad_words {
            match word.split_last() {
                Some((&last, before)) if row.output.ends_with(before) => {
                    self.change(logits, last, |_| f32::NEG_INFINITY);
                }
                _ => {}
            }
        }
        if !penalises(row) {
            return;
        }
        self.count(logits.len(), row);
        for index in 0..self.counted.len() {
            let token = self.counted[index];
            let count = std::mem::take(&mut self.counts[token as usize]) & !SEEN;
            self.change(logits, token, |logit| {
                let repeated =
                    if logit > 0.0 { logit / row.repetition_penalty } else { logit * row.repetition_penalty };
                let presence = if count > 0 { row.presence_penalty } else { 0.0 };
                repeated - row.frequency_penalty * count as f32 - presence
            });
        }
    }

    /// Puts the raw logits back, for a row that asked for log-probabilities.
    pub(super) fn undo(&mut self, logits: &mut [f32]) {
        if !self.raw.is_empty() {
            return logits.copy_from_slice(&self.raw);
        }
        for (token, logit) in self.changed.drain(..).rev() {
            logits[token as usize] = logit;
        }
    }

    /// Leaves nothing but the logits of `allowed`.
    fn keep(&mut self, logits: &mut [f32], allowed: &[u32]) {
        self.kept.clear();
        self.kept.extend(allowed.iter().map(|&token| logits.get(token as usize).copied().unwrap_or_default()));
        logits.fill(f32::NEG_INFINITY);
        for (&token, &logit) in allowed.iter().zip(&self.kept) {
            if let Some(place) = logits.get_mut(token as usize) {
                *place = logit;
            }
        }
    }

    fn change(&mut self, logits: &mut [f32], token: u32, new: impl FnOnce(f32) -> f32) {
        if let Some(logit) = logits.get_mut(token as usize) {
            self.changed.push((token, *logit));
            *logit = new(*logit);
        }
    }

    fn count(&mut self, vocab_size: usize, row: &SampleRow<'_>) {
        self.counts.resize(vocab_size.max(self.counts.len()), 0);
        self.counted.clear();
        let prompt = if row.repetition_penalty == 1.0 { &[] } else { row.prompt };
        for (tokens, one) in [(prompt, 0), (row.output, 1)] {
            for &token in tokens.iter().filter(|&&token| (token as usize) < vocab_size) {
                let count = &mut self.counts[token as usize];
                if *count == 0 {
                    self.counted.push(token);
                }
                *count = (*count | SEEN) + one;
            }
        }
    }
}
