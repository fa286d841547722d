//! Logits to tokens. Rows are shared out over the threads; each is done by one thread, from its own numbers alone.
//!
//! In order, as in vLLM: log-probabilities of the raw logits if asked for (scan.rs, truncate.rs); the mask (mask.rs), allowed and
//! banned tokens, logit bias and penalties (penalties.rs); the most probable token if the temperature is 0; else temperature, min-p,
//! top-k, top-p (each of what the one before left, renormalised), and a draw by the inverse of the cumulated
//! probabilities, in the order of the tokens, with a random number that depends on seed, choice and step alone
//! (philox.rs).

mod mask;
mod penalties;
mod philox;
mod scan;
mod truncate;

use std::sync::Mutex;

use crate::error::check_length;
use crate::pool::{Rows, lock};
use crate::{CpuKernels, KernelError};
use penalties::Penalties;
use scan::{CHUNK, Collect, CountAbove, Maxima, SumExp, Weights, best};
use truncate::{Candidate, best_tokens, bound_of_best, keep_nucleus, keep_top_k};

/// vLLM's bound: below it a temperature means the most probable token.
const GREEDY_BELOW: f32 = 1e-5;

/// How one row of logits becomes a token. Token ids outside the vocabulary are without effect.
#[derive(Debug, Clone, Copy)]
pub struct SampleRow<'a> {
    /// Below 1e-5: the most probable token.
    pub temperature: f32,
    /// Tokens as probable as the k-th are kept too. 0: off.
    pub top_k: u32,
    /// The most probable tokens that together reach this probability. 1: off.
    pub top_p: f32,
    /// Tokens with at least this part of the largest probability, after the temperature. 0: off.
    pub min_p: f32,
    /// Taken from the logit of each token in `output`.
    pub presence_penalty: f32,
    /// The same for each time that it occurs there.
    pub frequency_penalty: f32,
    /// Divides the logit, or multiplies a negative one, of each token in `prompt` and `output`. 1: off.
    pub repetition_penalty: f32,
    pub prompt: &'a [u32],
    pub output: &'a [u32],
    pub seed: u64,
    /// Which of a request's n answers.
    pub choice: u32,
    /// How many tokens the answer has already.
    pub step: u64,
    /// Empty, or what may be chosen: token i where bit i % 32 of word i / 32 is set.
    pub mask: &'a [u32],
    /// Some: no other token can be chosen.
    pub allowed: Option<&'a [u32]>,
    pub banned: &'a [u32],
    /// The last token of each is banned where `output` ends with those before it.
    pub bad_words: &'a [Vec<u32>],
    /// (token, what is added to its logit)
    pub logit_bias: &'a [(u32, f32)],
    /// Some(n): give the token's log-probability and rank, and a list of the n best tokens.
    pub num_logprobs: Option<u32>,
    /// The list is of these tokens instead, unless there are none.
    pub named: &'a [u32],
    /// Some: the token is known, and nothing is chosen.
    pub given: Option<u32>,
}

impl SampleRow<'_> {
    /// Whether nothing but the place of the largest raw logit is wanted.
    pub fn is_greedy(&self) -> bool {
        self.takes_largest() && self.num_logprobs.is_none() && self.given.is_none() && !penalties::change(self)
    }

    /// Tokens that its list of log-probabilities may have.
    pub fn num_listed(&self) -> usize {
        match self.num_logprobs {
            Some(count) if self.named.is_empty() => count as usize,
            Some(_) => self.named.len(),
            None => 0,
        }
    }

    fn takes_largest(&self) -> bool {
        self.temperature.is_nan() || self.temperature < GREEDY_BELOW
    }
}

/// The output columns of a step, at least one element a row; the two `top_` columns have `max_logprobs` a row.
pub struct SampleOutput<'a> {
    /// -1 where no token could be chosen.
    pub sampled: &'a mut [i32],
    /// Log-softmax of the raw logits; 0 when the row did not ask.
    pub logprob: &'a mut [f32],
    /// 1 for the most probable token of the raw logits, equals sharing the better rank; 0 when the row did not ask.
    pub rank: &'a mut [i32],
    /// A row's list: the best tokens of the raw logits, best first, or those that it named. Untouched when it did not
    /// ask, else -1 after the last.
    pub top_ids: &'a mut [i32],
    /// Their log-probabilities; minus infinity after the last.
    pub top_logprobs: &'a mut [f32],
    pub max_logprobs: usize,
    /// The lists of the rows whose lists are longer than `max_logprobs`. Empty where there is no such row.
    pub lists: &'a mut [LogprobList],
}

/// (token, log-probability)
pub type LogprobList = Vec<(u32, f32)>;

/// Working memory of one thread.
#[derive(Default)]
pub(crate) struct Scratch {
    penalties: Penalties,
    maxima: Vec<f32>,
    sums: Vec<f64>,
    candidates: Vec<Candidate>,
    selection: Vec<Candidate>,
    values: Vec<f32>,
}

impl CpuKernels {
    /// Chooses one token for each row of logits[rows, vocab_size], which is overwritten. NaN counts as minus infinity.
    ///
    /// Errors: lengths that do not fit, a list longer than max_logprobs without `lists`, and `NoToken` for the rows that
    /// have nothing to choose from, after all others are done.
    pub fn sample(
        &self,
        logits: &mut [f32],
        vocab_size: usize,
        rows: &[SampleRow<'_>],
        out: SampleOutput<'_>,
    ) -> Result<(), KernelError> {
        check_output(logits, vocab_size, rows, &out)?;
        let max_logprobs = out.max_logprobs;
        let logits = Rows::new(logits, vocab_size);
        let (sampled, logprob, rank) = (Rows::new(out.sampled, 1), Rows::new(out.logprob, 1), Rows::new(out.rank, 1));
        let (top_ids, top_logprobs) = (Rows::new(out.top_ids, max_logprobs), Rows::new(out.top_logprobs, max_logprobs));
        let lists = Rows::new(out.lists, 1);
        let failed = Mutex::new(Vec::new());
        self.pool.for_each(rows.len(), |thread, index| {
            let mut scratch = lock(&self.sample_scratch[thread]);
            let row = &rows[index];
            // SAFETY: each index comes once.
            let logits = unsafe { logits.row(index) };
            let list = match row.num_listed() {
                // SAFETY: as above.
                count if count > max_logprobs => List::Long(unsafe { &mut lists.row(index)[0] }),
                _ if row.num_logprobs.is_none() || max_logprobs == 0 => List::Columns(&mut [], &mut []),
                _ => {
                    // SAFETY: as above.
                    let (ids, logprobs) = unsafe { (top_ids.row(index), top_logprobs.row(index)) };
                    List::Columns(ids, logprobs)
                }
            };
            let choice = self.sample_row(logits, row, list, &mut scratch);
            if choice.is_none() {
                lock(&failed).push(index);
            }
            let (token, token_logprob, token_rank) = choice.unwrap_or((-1, 0.0, 0));
            // SAFETY: as above.
            unsafe {
                sampled.row(index)[0] = token;
                logprob.row(index)[0] = token_logprob;
                rank.row(index)[0] = token_rank;
            }
        });
        let mut rows = failed.into_inner().unwrap_or_default();
        rows.sort_unstable();
        if rows.is_empty() { Ok(()) } else { Err(KernelError::NoToken { rows }) }
    }

    /// Token, log-probability and rank.
    fn sample_row(
        &self,
        logits: &mut [f32],
        row: &SampleRow<'_>,
        list: List<'_>,
        scratch: &mut Scratch,
    ) -> Option<(i32, f32, i32)> {
        let raw = row.num_logprobs.map(|_| self.raw_logprobs(logits, row, list, scratch));
        let token = match row.given {
            Some(token) => token as usize,
            None => {
                scratch.penalties.apply(logits, row);
                self.choose(logits, row, scratch)?
            }
        };
        let Some(raw) = raw else {
            return Some((token as i32, 0.0, 0));
        };
        if row.given.is_none() {
            scratch.penalties.undo(logits);
        }
        let logit = logits.get(token)?.max(f32::NEG_INFINITY);
        let rank = self.run(CountAbove { logits, value: logit }) + 1;
        Some((token as i32, raw.of(logit), rank as i32))
    }

    /// Fills the row's list, and returns what turns a logit into a log-probability.
    fn raw_logprobs(&self, logits: &[f32], row: &SampleRow<'_>, list: List<'_>, scratch: &mut Scratch) -> LogSoftmax {
        let Scratch { maxima, sums, candidates, values, .. } = scratch;
        let largest = largest(self, logits, f32::NEG_INFINITY, maxima).map_or(f32::NEG_INFINITY, |(_, logit)| logit);
        self.run(SumExp { logits, largest, factor: 1.0, sums });
        let softmax = LogSoftmax { largest, log_sum: sums.iter().sum::<f64>().ln() };
        if row.named.is_empty() {
            best_tokens(self, logits, maxima, row.num_listed(), candidates, values);
        } else {
            candidates.clear();
            candidates.extend(row.named.iter().filter_map(|&token| Some((token, *logits.get(token as usize)?))));
        }
        let found = candidates.iter().map(|&(token, logit)| (token, softmax.of(logit)));
        match list {
            List::Long(list) => {
                list.clear();
                list.extend(found);
            }
            List::Columns(top_ids, top_logprobs) => {
                let found = found.map(|(token, logprob)| (token as i32, logprob));
                let found = found.chain(std::iter::repeat((-1, f32::NEG_INFINITY)));
                for ((top_id, top_logprob), (token, logprob)) in top_ids.iter_mut().zip(top_logprobs).zip(found) {
                    (*top_id, *top_logprob) = (token, logprob);
                }
            }
        }
        softmax
    }

    fn choose(&self, logits: &[f32], row: &SampleRow<'_>, scratch: &mut Scratch) -> Option<usize> {
        let (token, largest) = largest(self, logits, f32::NEG_INFINITY, &mut scratch.maxima)?;
        // An infinite logit has all the probability.
        if row.takes_largest() || largest == f32::INFINITY {
            return Some(token);
        }
        let softmax = Tempered { largest, factor: 1.0 / row.temperature.min(1e30) };
        let random = philox::uniform(row.seed, row.step, row.choice);
        let has_top_k = row.top_k > 0 && (row.top_k as usize) < logits.len();
        if has_top_k || row.min_p > 0.0 || row.top_p < 1.0 {
            self.truncate(logits, row, softmax, scratch);
            draw(&scratch.candidates, softmax, random)
        } else {
            self.draw_from_all(logits, softmax, random, scratch)
        }
    }

    /// Leaves the tokens that may be drawn in `candidates`, by rising token.
    fn truncate(&self, logits: &[f32], row: &SampleRow<'_>, softmax: Tempered, scratch: &mut Scratch) {
        let Scratch { maxima, sums, candidates, selection, values, .. } = scratch;
        let top_k = if (row.top_k as usize) < logits.len() { row.top_k as usize } else { 0 };
        let lowest = match row.min_p {
            min_p if min_p > 0.0 => softmax.largest + min_p.min(1.0).ln() / softmax.factor,
            _ => f32::NEG_INFINITY,
        };
        let total = if top_k > 0 || row.min_p > 0.0 {
            candidates.clear();
            let threshold = bound_of_best(maxima, top_k, values).max(lowest);
            self.run(Collect { logits, threshold, found: candidates });
            if top_k > 0 {
                keep_top_k(candidates, top_k, values);
            }
            candidates.iter().map(|&(_, logit)| softmax.weight(logit)).sum()
        } else {
            self.run(SumExp { logits, largest: softmax.largest, factor: softmax.factor, sums });
            let total = sums.iter().sum::<f64>();
            // Mostly a few tokens hold the mass, and the first and shortest list is enough.
            for depth in [4.0, 8.0, 16.0, f32::INFINITY] {
                candidates.clear();
                let threshold = softmax.largest - depth / softmax.factor;
                self.run(Collect { logits, threshold, found: candidates });
                let mass: f64 = candidates.iter().map(|&(_, logit)| softmax.weight(logit)).sum();
                if mass >= f64::from(row.top_p) * total {
                    break;
                }
            }
            total
        };
        if row.top_p < 1.0 {
            keep_nucleus(candidates, f64::from(row.top_p) * total, |logit| softmax.weight(logit), selection);
        }
    }

    fn draw_from_all(&self, logits: &[f32], softmax: Tempered, random: f64, scratch: &mut Scratch) -> Option<usize> {
        let Tempered { largest, factor } = softmax;
        self.run(SumExp { logits, largest, factor, sums: &mut scratch.sums });
        let sums = &scratch.sums;
        let mut missing = random * sums.iter().sum::<f64>();
        // Rounding may leave a little missing at the end: then the last chunk and token with any weight are taken.
        let mut chosen = 0;
        for (chunk, &sum) in sums.iter().enumerate().filter(|&(_, &sum)| sum > 0.0) {
            chosen = chunk;
            if missing < sum {
                break;
            }
            missing -= sum;
        }
        let begin = chosen * CHUNK;
        let logits = &logits[begin..logits.len().min(begin + CHUNK)];
        let weights = self.run(Weights { logits, largest, factor });
        let mut token = None;
        for (index, weight) in weights[..logits.len()].iter().copied().enumerate().filter(|&(_, weight)| weight > 0.0) {
            token = Some(begin + index);
            missing -= f64::from(weight);
            if missing < 0.0 {
                break;
            }
        }
        token
    }
}

/// The lowest token that has the largest logit, and that logit; None when none is greater than `above`. Leaves the
/// chunks' maxima in `maxima`.
pub(crate) fn largest(kernels: &CpuKernels, logits: &[f32], above: f32, maxima: &mut Vec<f32>) -> Option<(usize, f32)> {
    kernels.run(Maxima { logits, maxima });
    best(logits, maxima, above)
}

/// Draws in proportion to the candidates' weights.
fn draw(candidates: &[Candidate], softmax: Tempered, random: f64) -> Option<usize> {
    let mut missing = random * candidates.iter().map(|&(_, logit)| softmax.weight(logit)).sum::<f64>();
    let mut token = None;
    for &(candidate, logit) in candidates {
        let weight = softmax.weight(logit);
        if weight > 0.0 {
            token = Some(candidate as usize);
            missing -= weight;
            if missing < 0.0 {
                break;
            }
        }
    }
    token
}

/// Where a row's list goes.
enum List<'a> {
    /// Tokens, log-probabilities.
    Columns(&'a mut [i32], &'a mut [f32]),
    Long(&'a mut LogprobList),
}

/// Weights relative to the most probable token's.
#[derive(Clone, Copy)]
struct Tempered {
    largest: f32,
    /// 1 / temperature
    factor: f32,
}

impl Tempered {
    fn weight(self, logit: f32) -> f64 {
        f64::from(((logit - self.largest) * self.factor).exp())
    }
}

struct LogSoftmax {
    largest: f32,
    /// Of the exponentials relative to the largest logit's.
    log_sum: f64,
}

impl LogSoftmax {
    fn of(&self, logit: f32) -> f32 {
        if self.largest == f32::INFINITY {
            return if logit == f32::INFINITY { 0.0 } else { f32::NEG_INFINITY };
        }
        // `max` turns NaN into its argument.
        (f64::from(logit.max(f32::NEG_INFINITY)) - f64::from(self.largest) - self.log_sum) as f32
    }
}

fn check_output(
    logits: &[f32],
    vocab_size: usize,
    rows: &[SampleRow<'_>],
    out: &SampleOutput<'_>,
) -> Result<(), KernelError> {
    if vocab_size == 0 || i32::try_from(vocab_size).is_err() {
        return Err(KernelError::Config(format!("vocab_size is {vocab_size}: it must be from 1 to 2^31 - 1")));
    }
    check_length("logits", logits.len(), rows.len() * vocab_size)?;
    let columns = [
        ("sampled", out.sampled.len(), 1),
        ("logprob", out.logprob.len(), 1),
        ("rank", out.rank.len(), 1),
        ("top_ids", out.top_ids.len(), out.max_logprobs),
        ("top_logprobs", out.top_logprobs.len(), out.max_logprobs),
    ];
    for (name, actual, width) in columns {
        let expected = rows.len() * width;
        if actual < expected {
            return Err(KernelError::Length { name, actual, expected });
        }
    }
    for (index, row) in rows.iter().enumerate() {
        let count = row.num_listed();
        if count > out.max_logprobs && out.lists.len() < rows.len() {
            let text = format!("row {index} asks for {count} logprobs, more than max_logprobs, {}", out.max_logprobs);
            return Err(KernelError::Config(text));
        }
    }
    Ok(())
}
