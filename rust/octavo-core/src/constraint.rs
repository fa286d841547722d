//! What the tokens of a sequence are held to: an end of the reasoning, and a structure after it.
//!
//! [`Rules`] are a request's, a [`Stage`] is a sequence's. Precedence, so that some token is always left: a token that is
//! forced comes whatever else is asked; in a structure the tokens of `min_tokens` and `ignore_eos` are banned as far as
//! the grammar allows others; and an end-of-sequence token ends a structure in any case.

use std::sync::Arc;

use crate::turn::Turn;
use crate::workers::Workers;

/// What a request asks of its output.
#[derive(Default)]
pub(crate) struct Rules {
    pub structure: Option<Grammar>,
    reasoning_end: Vec<u32>,
    /// Tokens of reasoning, at most.
    budget: Option<u32>,
    vocab_size: u32,
    /// Until so many tokens are there, `banned_early` are banned.
    min_tokens: u32,
    banned_early: Vec<u32>,
    eos: Vec<u32>,
    ignores_eos: bool,
}

pub(crate) struct Grammar {
    /// Before the first token.
    pub start: Arc<Turn>,
    pub workers: Arc<Workers>,
}

/// Where a sequence stands.
#[derive(Clone, Default)]
pub(crate) enum Stage {
    #[default]
    Free,
    /// Before the end of the reasoning.
    Reasoning,
    /// The reasoning has had its tokens; the one in the mask comes next.
    Forced(Arc<[u32]>),
    Structured(Arc<Turn>),
}

/// The tokens that may be sampled: bit i % 32 of word i / 32 stands for token i.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    All,
    Known(&'a [u32]),
    Awaited(&'a Turn),
}

impl<'a> Mask<'a> {
    pub fn is_all(self) -> bool {
        matches!(self, Mask::All)
    }

    /// No word at all stands for all tokens. May wait for the thread that works it out. After an error no token is left,
    /// and the commit says why.
    pub fn wait(self) -> &'a [u32] {
        match self {
            Mask::All => &[],
            Mask::Known(words) => words,
            Mask::Awaited(turn) => turn.wait().unwrap_or(&[0]),
        }
    }
}

impl Rules {
    pub fn new(
        sampling: &octavo_wire::Sampling,
        structure: Option<Grammar>,
        vocab_size: u32,
        eos_token_ids: &[u32],
        banned_early: &[u32],
    ) -> Self {
        if structure.is_none() && sampling.thinking_token_budget.is_none() {
            return Rules::default();
        }
        Rules {
            structure,
            reasoning_end: sampling.reasoning_end.clone(),
            budget: sampling.thinking_token_budget,
            vocab_size,
            min_tokens: sampling.min_tokens,
            banned_early: banned_early.to_vec(),
            eos: eos_token_ids.to_vec(),
            ignores_eos: sampling.ignore_eos,
        }
    }

    /// Whether there is anything to hold to.
    pub fn is_empty(&self) -> bool {
        self.structure.is_none() && self.budget.is_none()
    }

    pub fn begin(&self) -> Stage {
        if self.is_empty() {
            Stage::Free
        } else if self.reasoning_end.is_empty() {
            self.enter(0)
        } else {
            self.reason(&[])
        }
    }

    /// The stage after `output`, of which the last token is new.
    pub fn next(&self, stage: &Stage, output: &[u32]) -> Stage {
        match stage {
            Stage::Free => Stage::Free,
            Stage::Reasoning | Stage::Forced(_) if output.ends_with(&self.reasoning_end) => {
                self.enter(output.len() as u32)
            }
            Stage::Reasoning | Stage::Forced(_) => self.reason(output),
            Stage::Structured(turn) => {
                let Grammar { workers, .. } = self.structure.as_ref().expect("this stage has one");
                Stage::Structured(workers.advance(turn, output.last().copied(), self.banned(output.len() as u32)))
            }
        }
    }

    /// The tokens that may not come while a sequence with `num_output` tokens reasons, besides those of `min_tokens`: one
    /// that ended there would never come to its structure.
    pub fn banned_in(&self, stage: &Stage) -> &[u32] {
        if matches!(stage, Stage::Reasoning) && self.structure.is_some() { &self.eos } else { &[] }
    }

    fn enter(&self, num_output: u32) -> Stage {
        let Some(Grammar { start, workers }) = &self.structure else { return Stage::Free };
        let banned = self.banned(num_output);
        Stage::Structured(if banned.is_empty() { start.clone() } else { workers.advance(start, None, banned) })
    }

    fn reason(&self, output: &[u32]) -> Stage {
        if self.budget.is_none_or(|budget| output.len() < budget as usize) {
            return Stage::Reasoning;
        }
        let end = &self.reasoning_end;
        let known = (0..end.len()).rev().find(|&length| output.ends_with(&end[..length])).unwrap_or(0);
        let token = end[known];
        let mut words = vec![0; self.vocab_size.div_ceil(32) as usize];
        words[token as usize / 32] = 1 << (token % 32);
        Stage::Forced(words.into())
    }

    /// What a structure bans at the token after `num_output` others, if it has others.
    fn banned(&self, num_output: u32) -> Vec<u32> {
        let mut banned = if num_output < self.min_tokens { self.banned_early.clone() } else { Vec::new() };
        if self.ignores_eos {
            banned.extend(&self.eos);
        }
        banned
    }
}

impl Stage {
    pub fn mask(&self) -> Mask<'_> {
        match self {
            Stage::Free | Stage::Reasoning => Mask::All,
            Stage::Forced(words) => Mask::Known(words),
            Stage::Structured(turn) => Mask::Awaited(turn),
        }
    }

    /// Why `token` cannot come here, if it cannot.
    pub fn refuse(&self, token: i32) -> Option<String> {
        if let Stage::Structured(turn) = self
            && let Err(error) = turn.wait()
        {
            return Some(format!("the structure cannot be followed any further: {error}"));
        }
        let (mask, place) = (self.mask(), token.cast_unsigned());
        let word = || mask.wait().get(place as usize / 32).copied().unwrap_or(0);
        let allowed = mask.is_all() || word() >> (place % 32) & 1 == 1;
        (!allowed).then(|| "the structure leaves no token that the request's other settings allow".into())
    }

    pub fn is_structured(&self) -> bool {
        matches!(self, Stage::Structured(_))
    }
}
