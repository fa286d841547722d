//! The phases of a step, which every thread of the team runs through.
//!
//! A row of a result belongs to one thread in each phase, and is read in later phases only, and only inside a phase's
//! body: that is what the SAFETY comments here rest on.

use std::ops::Range;

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

/// Rows that go through the products between two attentions together. Of 2,048 rows at once, which take more than the
/// second-level caches have, the norms took twice as long, and a whole step 5% longer.
pub(super) const SLICE: usize = 384;

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
    /// [sampled tokens, vocab]; None: the largest ones are found instead.
    pub(super) logits: Option<*mut f32>,
}

// SAFETY: `logits` is the workspace's, which nobody else uses during a step; its rows are written in one phase, each
// element by one thread. The rest is Sync.
unsafe impl Sync for Step<'_> {}

/// The rows of a layer behind its attention: of all tokens, or, in the last layer, of the sampled ones.
struct Stream<'a> {
    residual: &'a Activations,
    attended: &'a Activations,
    rows: usize,
}

/// `rows` in ranges whose intermediate rows stay in the second-level caches from product to product.
fn slices(rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(SLICE).map(move |begin| begin..rows.min(begin + SLICE))
}

impl Step<'_> {
    pub(super) fn run(&self, team: &Team<'_>, clock: &mut Clock) {
        let Workspace { residual, attended, sampled_residual, sampled_attended, sampled_tokens, .. } = self.workspace;
        let all = Stream { residual, attended, rows: self.input_ids.len() };
        let sampled = Stream { residual: sampled_residual, attended: sampled_attended, rows: sampled_tokens.len() };
        let layers = &self.weights.layers;
        for rows in slices(all.rows) {
            self.embed(team, rows.clone());
            self.qkv(team, &layers[0], rows, clock);
        }
        for (index, layer) in layers.iter().enumerate() {
            self.attention(team, index, layer, clock);
            if let Some(next) = layers.get(index + 1) {
                for rows in slices(all.rows) {
                    self.mlp(team, layer, &all, rows.clone(), clock);
                    self.qkv(team, next, rows, clock);
                }
            } else {
                self.gather(team, &all, &sampled);
                for rows in slices(sampled.rows) {
                    self.mlp(team, layer, &sampled, rows, clock);
                }
            }
        }
        self.head(team, &sampled);
        clock.ends(StepPart::Head);
    }

    fn embed(&self, team: &Team<'_>, tokens: Range<usize>) {
        team.each(tokens.len(), |index| {
            let token = tokens.start + index;
            // SAFETY: the token's row is this index's alone.
            let row = unsafe { row_mut(&self.workspace.residual, token) };
            self.weights.embedding.read_row(self.kernels, self.input_ids[token] as usize, row);
        });
    }

    /// `normed` becomes the norm of these rows of the residual, and `qkv` their queries, keys and values.
    fn qkv(&self, team: &Team<'_>, layer: &Layer, rows: Range<usize>, clock: &mut Clock) {
        let Workspace { residual, normed, qkv, .. } = self.workspace;
        self.norm(team, &layer.attention_norm, residual, rows.clone());
        clock.ends(StepPart::Norm);
        self.product(team, &layer.qkv, (normed, 0..rows.len()), (qkv, rows.start), false);
        clock.ends(StepPart::Qkv);
    }

    fn attention(&self, team: &Team<'_>, index: usize, layer: &Layer, clock: &mut Clock) {
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
        // SAFETY: the step's tokens have their rows, and the cache this layer; a phase each.
        unsafe {
            let rows = QkvRows { pointer: qkv.row(0), stride: qkv.stride() };
            self.cache.rotate_and_store(team, index, rows, &rotation);
            clock.ends(StepPart::Store);
            self.cache.attend(team, index, rows, &rotation, attended, options);
            clock.ends(StepPart::Attention);
        }
    }

    /// Nothing else reads what the last layer makes of the others.
    fn gather(&self, team: &Team<'_>, all: &Stream<'_>, sampled: &Stream<'_>) {
        team.each(sampled.rows, |row| {
            let token = self.workspace.sampled_tokens[row];
            // SAFETY: the row is this index's alone, and nobody writes the tokens' in this phase.
            unsafe {
                sampled.residual.copy_row(row, all.residual, token);
                sampled.attended.copy_row(row, all.attended, token);
            }
        });
    }

    /// What comes behind the attention, for some rows.
    fn mlp(&self, team: &Team<'_>, layer: &Layer, stream: &Stream<'_>, rows: Range<usize>, clock: &mut Clock) {
        let Workspace { normed, activated, .. } = self.workspace;
        let count = rows.len();
        self.product(team, &layer.output, (stream.attended, rows.clone()), (stream.residual, rows.start), true);
        clock.ends(StepPart::Output);
        self.norm(team, &layer.mlp_norm, stream.residual, rows.clone());
        clock.ends(StepPart::Norm);
        // SAFETY: a phase which alone writes `activated`.
        unsafe { Linear::multiply_gated(&layer.gate, &layer.up, self.kernels, team, normed, count, activated) };
        clock.ends(StepPart::GateUp);
        self.product(team, &layer.down, (activated, 0..count), (stream.residual, rows.start), true);
        clock.ends(StepPart::Down);
    }

    fn head(&self, team: &Team<'_>, stream: &Stream<'_>) {
        let Workspace { sampled, greedy, .. } = self.workspace;
        team.each(stream.rows, |row| {
            self.norm_row(&self.weights.final_norm, (stream.residual, row), (sampled, row));
        });
        if self.weights.pooler.is_some() {
            return;
        }
        let Some(pointer) = self.logits else {
            return greedy.find(self.kernels, team, self.weights.head(), sampled, stream.rows);
        };
        let out = Output { pointer, stride: self.config.vocab_size, add: false };
        // SAFETY: the logits have a row for each sample, and this phase alone writes them.
        unsafe { self.weights.head().multiply(self.kernels, team, sampled, 0..stream.rows, out) };
    }

    /// `normed` becomes the norm of these rows.
    fn norm(&self, team: &Team<'_>, weight: &[f32], residual: &Activations, rows: Range<usize>) {
        team.each_range(rows.len(), NORM_ROWS, |indices| {
            for index in indices {
                self.norm_row(weight, (residual, rows.start + index), (&self.workspace.normed, index));
            }
        });
    }

    /// A row of the output, which is the calling thread's.
    fn norm_row(&self, weight: &[f32], (input, row): (&Activations, usize), (out, to): (&Activations, usize)) {
        // SAFETY: nobody writes the input in this phase, and the other row is this thread's.
        unsafe { self.kernels.rms_norm_row(row_mut(input, row), weight, self.config.norm_eps, out, to) };
    }

    fn product(
        &self,
        team: &Team<'_>,
        matrix: &Linear,
        (input, rows): (&Activations, Range<usize>),
        (out, first): (&Activations, usize),
        add: bool,
    ) {
        // SAFETY: `out` has as many rows from `first`, which this phase alone writes and reads.
        unsafe {
            let out = Output { pointer: out.row(first), stride: out.stride(), add };
            matrix.multiply(self.kernels, team, input, rows, out);
        }
    }
}

/// # Safety
/// Nobody writes the row but who asks, and nobody else reads it while he does.
#[expect(clippy::mut_from_ref, reason = "rows of one workspace, kept apart by the phases")]
unsafe fn row_mut(rows: &Activations, index: usize) -> &mut [f32] {
    // SAFETY: the caller's promise; a row has as many floats as columns, or more.
    unsafe { std::slice::from_raw_parts_mut(rows.row(index), rows.columns()) }
}
