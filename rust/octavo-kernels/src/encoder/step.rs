//! The phases of a step, which every thread of the team runs through.
//!
//! A row of a result belongs to one thread in each phase, and is read in later phases only, and only inside a phase's
//! body: that is what the SAFETY comments here rest on.

use std::ops::Range;

use super::attention::{Attend, Item};
use super::config::EncoderConfig;
use super::rows::{Gelu, LayerNorm};
use super::weights::{Layer, Norm, Weights, Workspace};
use crate::CpuKernels;
use crate::linear::{Activations, Linear, Output};
use crate::pool::{Team, lock};

/// Rows that go through the products between two attentions together, as in the decoder.
pub(super) const SLICE: usize = 384;

/// Rows that a thread norms at a time.
const NORM_ROWS: usize = 8;

/// One step. All lengths and indices have been checked.
pub(super) struct Step<'a> {
    pub(super) kernels: &'a CpuKernels,
    pub(super) config: &'a EncoderConfig,
    pub(super) weights: &'a Weights,
    pub(super) workspace: &'a Workspace,
    pub(super) input_ids: &'a [i32],
    pub(super) positions: &'a [i32],
    pub(super) types: &'a [i32],
    pub(super) items: &'a [Item],
}

impl Step<'_> {
    pub(super) fn run(&self, team: &Team<'_>) {
        let Workspace { residual, qkv, .. } = self.workspace;
        let tokens = self.input_ids.len();
        let slices = || (0..tokens).step_by(SLICE).map(|begin| begin..tokens.min(begin + SLICE));
        let layers = &self.weights.layers;
        for rows in slices() {
            self.embed(team, rows.clone());
            self.product(team, &layers[0].qkv, (residual, rows.clone()), (qkv, rows.start), false);
        }
        for (index, layer) in layers.iter().enumerate() {
            self.attention(team);
            for rows in slices() {
                self.mlp(team, layer, rows.clone());
                if let Some(next) = layers.get(index + 1) {
                    self.product(team, &next.qkv, (residual, rows.clone()), (qkv, rows.start), false);
                }
            }
        }
    }

    fn embed(&self, team: &Team<'_>, rows: Range<usize>) {
        let Weights { embedding, positions, types, embedding_norm, .. } = self.weights;
        let hidden = self.config.hidden_size;
        team.each(rows.len(), |index| {
            let token = rows.start + index;
            // SAFETY: the token's row is this index's alone.
            let row = unsafe { std::slice::from_raw_parts_mut(self.workspace.residual.row(token), hidden) };
            embedding.read_row(self.kernels, self.input_ids[token] as usize, row);
            let position = &positions[self.positions[token] as usize * hidden..][..hidden];
            for (x, position) in row.iter_mut().zip(position) {
                *x += position;
            }
            if !types.is_empty() {
                let kind = &types[self.types[token] as usize * hidden..][..hidden];
                for (x, kind) in row.iter_mut().zip(kind) {
                    *x += kind;
                }
            }
            self.norm_row(embedding_norm, token);
        });
    }

    /// From `qkv` to `attended`.
    fn attention(&self, team: &Team<'_>) {
        let Workspace { qkv, attended, scratch, .. } = self.workspace;
        let heads = (self.config.num_heads, self.config.head_dim());
        let mut scratch = lock(&scratch[team.thread()]);
        team.each(self.items.len(), |index| {
            // SAFETY: nobody writes `qkv` in this phase, and an item's place in `attended` is its own.
            unsafe {
                let qkv = (qkv.row(0).cast_const(), qkv.stride());
                let attended = (attended.row(0), attended.stride());
                self.kernels.run(Attend::new(&self.items[index], qkv, attended, heads, &mut scratch));
            }
        });
        self.quantise(team, attended, 0..self.input_ids.len());
    }

    /// What comes behind the attention, for some rows.
    fn mlp(&self, team: &Team<'_>, layer: &Layer, rows: Range<usize>) {
        let Workspace { residual, attended, activated, .. } = self.workspace;
        let count = rows.len();
        self.product(team, &layer.output, (attended, rows.clone()), (residual, rows.start), true);
        self.norm(team, &layer.attention_norm, rows.clone());
        self.gelu_product(team, &layer.up, rows.clone());
        self.quantise(team, activated, 0..count);
        self.product(team, &layer.down, (activated, 0..count), (residual, rows.start), true);
        self.norm(team, &layer.mlp_norm, rows);
    }

    /// `activated` becomes gelu(residual · upᵀ + bias): whoever made some of it activates it, while it is in the cache.
    fn gelu_product(&self, team: &Team<'_>, up: &Linear, rows: Range<usize>) {
        let Workspace { residual, activated, .. } = self.workspace;
        up.each_share(team, rows.clone(), |share| {
            let columns = share.columns();
            let first = share.tokens.start - rows.start;
            // SAFETY: the share's rows and columns of `activated` are this index's alone.
            unsafe {
                let pointer = activated.row(first).add(columns.start);
                let out = Output { pointer, stride: activated.stride(), add: false };
                share.multiply(self.kernels, residual, share.tokens.clone(), out);
                for row in first..first + share.tokens.len() {
                    let pointer = activated.row(row).add(columns.start);
                    self.kernels.run(Gelu(std::slice::from_raw_parts_mut(pointer, columns.len())));
                }
            }
        });
    }

    fn norm(&self, team: &Team<'_>, norm: &Norm, rows: Range<usize>) {
        team.each_range(rows.len(), NORM_ROWS, |indices| {
            for index in indices {
                self.norm_row(norm, rows.start + index);
            }
        });
    }

    /// Norms a row of the residual, which is the calling thread's.
    fn norm_row(&self, norm: &Norm, row: usize) {
        // SAFETY: the row is this thread's.
        self.kernels.run(unsafe { LayerNorm::new(&self.workspace.residual, row, norm, self.config.norm_eps) });
    }

    /// Brings rows into int8, where products read that.
    fn quantise(&self, team: &Team<'_>, activations: &Activations, rows: Range<usize>) {
        if activations.contents().has_codes() {
            team.each_range(rows.len(), NORM_ROWS, |indices| {
                for index in indices {
                    // SAFETY: the row is this index's alone.
                    unsafe { activations.quantise(self.kernels, rows.start + index) };
                }
            });
        }
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
