//! The phases of a step, which every thread of the team runs through.
//!
//! A row of a result belongs to one thread in each phase, and is read in later phases only, and only inside a phase's
//! body: that is what the SAFETY comments here rest on.

use super::clock::{Clock, StepPart};
use super::config::DecoderConfig;
use super::weights::{Layer, Weights};
use super::workspace::Workspace;
use crate::attention::{AttentionOptions, QkvRows, Rotation};
use crate::linear::{Activations, Linear, Output};
use crate::pool::Team;
use crate::{CpuKernels, KvCache};

/// Rows that a thread norms at a time.
const NORM_ROWS: usize = 8;

/// One step. All lengths and indices have been checked.
pub(super) struct Step<'a> {
    pub(super) kernels: &'a CpuKernels,
    pub(super) config: &'a DecoderConfig,
    pub(super) weights: &'a Weights,
    pub(super) workspace: &'a Workspace,
    pub(super) cache: &'a KvCache,
    pub(super) input_ids: &'a [i32],
    pub(super) positions: &'a [i32],
    pub(super) cos_sin: &'a [f32],
    /// [sampled tokens, vocab]
    pub(super) logits: *mut f32,
}

// SAFETY: `logits` is the workspace's, which nobody else uses during a step; its rows are written in one phase, each
// element by one thread. The rest is Sync.
unsafe impl Sync for Step<'_> {}

impl Step<'_> {
    pub(super) fn run(&self, team: &Team<'_>, clock: &mut Clock) {
        let layers = &self.weights.layers;
        self.embed(team);
        for (index, layer) in layers.iter().enumerate() {
            let normed = self.norm(team, &layer.attention_norm);
            clock.ends(StepPart::Norm);
            self.attention(team, index, layer, normed, clock);
            let normed = self.norm(team, &layer.mlp_norm);
            clock.ends(StepPart::Norm);
            self.mlp(team, layer, normed, clock);
        }
        self.head(team);
        clock.ends(StepPart::Head);
    }

    fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    fn embed(&self, team: &Team<'_>) {
        let residual = &self.workspace.residual;
        team.each(self.tokens(), |token| {
            // SAFETY: the token's row is this index's alone.
            let row = unsafe { self.row_mut(residual, token) };
            self.weights.embedding.read_row(self.kernels, self.input_ids[token] as usize, row);
        });
    }

    /// The normed residual, ready for a product.
    fn norm(&self, team: &Team<'_>, weight: &[f32]) -> &Activations {
        let normed = &self.workspace.normed;
        team.each_range(self.tokens(), NORM_ROWS, |tokens| {
            for token in tokens {
                self.norm_row(token, weight, normed, token);
            }
        });
        normed
    }

    /// Row `to` of `out`, which is the calling thread's, from the residual of `token`.
    fn norm_row(&self, token: usize, weight: &[f32], out: &Activations, to: usize) {
        // SAFETY: nobody writes the residual in this phase, and the other row is this thread's.
        unsafe {
            let residual = &*self.row_mut(&self.workspace.residual, token);
            self.kernels.rms_norm_row(residual, weight, self.config.norm_eps, self.row_mut(out, to));
            out.quantise(self.kernels, to, 0..self.config.hidden_size);
        }
    }

    fn attention(&self, team: &Team<'_>, index: usize, layer: &Layer, normed: &Activations, clock: &mut Clock) {
        let Workspace { qkv, attended, .. } = self.workspace;
        let rotation = Rotation {
            positions: self.positions,
            cos_sin: self.cos_sin,
            rotary_dim: self.config.rotary_dim,
            query_norm: layer.query_norm.as_deref(),
            key_norm: layer.key_norm.as_deref(),
            norm_eps: self.config.norm_eps,
        };
        let options = AttentionOptions {
            scale: self.config.attention_scale,
            sliding_window: self.config.windows[index],
            softcap: 0.0,
        };
        self.product(team, &layer.qkv, normed, qkv, false);
        clock.ends(StepPart::Qkv);
        // SAFETY: the step's tokens have their rows, and the cache this layer; a phase each.
        unsafe {
            let rows = QkvRows { pointer: qkv.row(0), stride: qkv.stride() };
            self.cache.rotate_and_store(team, index, rows, &rotation);
            clock.ends(StepPart::Store);
            self.cache.attend(team, index, rows, &rotation, attended, options);
            clock.ends(StepPart::Attention);
        }
        self.product(team, &layer.output, attended, &self.workspace.residual, true);
        clock.ends(StepPart::Output);
    }

    fn mlp(&self, team: &Team<'_>, layer: &Layer, normed: &Activations, clock: &mut Clock) {
        let activated = &self.workspace.activated;
        // SAFETY: a phase which alone writes `activated`.
        unsafe {
            Linear::multiply_gated(&layer.gate, &layer.up, self.kernels, team, normed, self.tokens(), activated);
        }
        clock.ends(StepPart::GateUp);
        self.product(team, &layer.down, activated, &self.workspace.residual, true);
        clock.ends(StepPart::Down);
    }

    fn head(&self, team: &Team<'_>) {
        let tokens = &self.workspace.sampled_tokens;
        let sampled = &self.workspace.sampled;
        team.each(tokens.len(), |row| self.norm_row(tokens[row], &self.weights.final_norm, sampled, row));
        let out = Output { pointer: self.logits, stride: self.config.vocab_size, add: false };
        // SAFETY: the logits have a row for each sample, and this phase alone writes them.
        unsafe { self.weights.head().multiply(self.kernels, team, sampled, tokens.len(), out) };
    }

    fn product(&self, team: &Team<'_>, matrix: &Linear, input: &Activations, out: &Activations, add: bool) {
        // SAFETY: `out` has a row for each token, which this phase alone writes and reads.
        unsafe {
            let out = Output { pointer: out.row(0), stride: out.stride(), add };
            matrix.multiply(self.kernels, team, input, self.tokens(), out);
        }
    }

    /// # Safety
    /// Nobody writes the row but who asks, and nobody else reads it while he does.
    #[expect(clippy::mut_from_ref, reason = "rows of one workspace, kept apart by the phases")]
    unsafe fn row_mut<'a>(&self, rows: &'a Activations, index: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise; a row has as many floats as columns, or more.
        unsafe { std::slice::from_raw_parts_mut(rows.row(index), rows.columns()) }
    }
}
