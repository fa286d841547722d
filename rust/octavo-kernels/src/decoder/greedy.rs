//! The most probable tokens, found in the phase that computes the logits: none of these is stored.

use std::ops::Range;
use std::sync::Mutex;

use crate::CpuKernels;
use crate::linear::{Activations, Linear, Output};
use crate::pool::{Team, lock};
use crate::sample::largest;

/// Rows of a share whose logits are there at a time: with 256 columns, 48 KiB.
const ROWS: usize = 48;

/// What each thread has found.
pub(super) struct Greedy(Vec<Mutex<Found>>);

#[derive(Default)]
struct Found {
    /// Of each row the largest logit that the thread has met above minus infinity, and its lowest token.
    best: Vec<Option<(usize, f32)>>,
    /// [rows, columns of a share]
    logits: Vec<f32>,
    maxima: Vec<f32>,
}

impl Greedy {
    pub(super) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Mutex::default()).collect())
    }

    /// Forgets what was found, and expects a step of so many rows.
    pub(super) fn begin(&self, rows: usize) {
        for found in &self.0 {
            let best = &mut lock(found).best;
            best.clear();
            best.resize(rows, None);
        }
    }

    /// Finds the largest of the products of `head` with each of `rows` rows. A phase.
    pub(super) fn find(&self, kernels: &CpuKernels, team: &Team<'_>, head: &Linear, input: &Activations, rows: usize) {
        head.each_share(team, 0..rows, |share| {
            let mut found = lock(&self.0[team.thread()]);
            for first in share.tokens.clone().step_by(ROWS) {
                let rows = first..share.tokens.end.min(first + ROWS);
                let columns = share.columns();
                let length = rows.len() * columns.len();
                if found.logits.len() < length {
                    found.logits.resize(length, 0.0);
                }
                let out = Output { pointer: found.logits.as_mut_ptr(), stride: columns.len(), add: false };
                // SAFETY: there is room for these rows and columns, and nobody writes the input in this phase.
                unsafe { share.multiply(kernels, input, rows.clone(), out) };
                found.take(kernels, rows, columns);
            }
        });
    }

    /// The most probable token of a row; None where all logits are NaN or minus infinity.
    pub(super) fn token(&self, row: usize) -> Option<usize> {
        let found = self.0.iter().filter_map(|found| lock(found).best[row]);
        found.reduce(|a, b| if b.1 > a.1 || (b.1 == a.1 && b.0 < a.0) { b } else { a }).map(|(token, _)| token)
    }
}

impl Found {
    /// A thread takes the shares of a row by rising column, so of equal logits it meets the lowest token first.
    fn take(&mut self, kernels: &CpuKernels, rows: Range<usize>, columns: Range<usize>) {
        let Self { best, logits, maxima } = self;
        for (best, logits) in best[rows].iter_mut().zip(logits.chunks(columns.len())) {
            let above = best.map_or(f32::NEG_INFINITY, |(_, logit)| logit);
            if let Some((token, logit)) = largest(kernels, logits, above, maxima) {
                *best = Some((columns.start + token, logit));
            }
        }
    }
}
