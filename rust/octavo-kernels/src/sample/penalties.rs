//! Changes of single logits before a token is chosen.

use super::SampleRow;

/// Working memory of one thread, and the list of what was changed.
#[derive(Default)]
pub(super) struct Penalties {
    /// How often a token is in the output, and whether it is in prompt or output; all zero between rows.
    counts: Vec<u32>,
    /// The tokens with a count.
    counted: Vec<u32>,
    /// (token, logit before the change), in order.
    changed: Vec<(u32, f32)>,
}

/// Set in a count: the token occurs, though perhaps only in the prompt.
const SEEN: u32 = 1 << 31;

/// Whether a row's settings may change its logits.
pub(super) fn change(row: &SampleRow<'_>) -> bool {
    !row.logit_bias.is_empty() || !row.banned.is_empty() || penalises(row)
}

fn penalises(row: &SampleRow<'_>) -> bool {
    row.repetition_penalty != 1.0 || row.frequency_penalty != 0.0 || row.presence_penalty != 0.0
}

impl Penalties {
    /// Logit bias, then banned tokens, then the repetition, frequency and presence penalties, as vLLM orders them.
    pub(super) fn apply(&mut self, logits: &mut [f32], row: &SampleRow<'_>) {
        self.changed.clear();
        for &(token, bias) in row.logit_bias {
            self.change(logits, token, |logit| logit + bias);
        }
        for &token in row.banned {
            self.change(logits, token, |_| f32::NEG_INFINITY);
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

    /// Puts the raw logits back.
    pub(super) fn undo(&mut self, logits: &mut [f32]) {
        for (token, logit) in self.changed.drain(..).rev() {
            logits[token as usize] = logit;
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
