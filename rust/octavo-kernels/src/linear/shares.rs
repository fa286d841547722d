//! How a product is shared out among threads.

use std::ops::Range;

use super::{Activations, Item, Linear, Output, Part, float};
use crate::CpuKernels;
use crate::pool::Team;
use crate::simd::LANES;

/// About half of the second-level caches of today.
const TOKENS_CACHE: usize = 512 << 10;

/// Tokens that one tile of the vector kernels takes at most.
const TILE: usize = 12;

/// Whole tiles of every kernel, of AMX too, and as many as a strip of weights is worth reading for.
const TOKENS_TOGETHER: usize = 48;

/// What of a product one thread computes.
pub(crate) struct Share<'a> {
    matrix: &'a Linear,
    part: &'a Part,
    strips: Range<usize>,
    /// Rows of the input.
    pub(crate) tokens: Range<usize>,
}

impl Share<'_> {
    /// Columns of the result: rows of the matrix.
    pub(crate) fn columns(&self) -> Range<usize> {
        let rows = self.strips.start * LANES..self.part.rows.min(self.strips.end * LANES);
        self.part.first_row + rows.start..self.part.first_row + rows.end
    }

    /// The result for some of the share's tokens, to `out` from its first element.
    ///
    /// # Safety
    /// `out` is writable for as many rows of the share's columns; nobody writes the input meanwhile.
    pub(crate) unsafe fn multiply(&self, kernels: &CpuKernels, input: &Activations, tokens: Range<usize>, out: Output) {
        let Self { matrix, part, ref strips, .. } = *self;
        assert!(input.columns() == matrix.columns && tokens.end <= input.max_rows());
        assert!(input.contents().serves(matrix.reads()));
        let bias = matrix.bias.get(self.columns().start..).unwrap_or(&[]);
        kernels.run(Item { part, strips: strips.clone(), tokens, input, out, bias });
    }
}

impl Linear {
    /// The shares of a product with rows `tokens` of an input. A phase; those of the same tokens come by rising column.
    pub(crate) fn each_share(&self, team: &Team<'_>, tokens: Range<usize>, mut body: impl FnMut(&Share<'_>)) {
        let count = self.parts.iter().map(|part| part.shares(team.threads(), tokens.len()).count()).sum();
        team.each(count, |mut index| {
            for part in &self.parts {
                let shares = part.shares(team.threads(), tokens.len());
                if index < shares.count() {
                    let (strips, share) = shares.share(index);
                    let tokens = tokens.start + share.start..tokens.start + share.end;
                    return body(&Share { matrix: self, part, strips, tokens });
                }
                index -= shares.count();
            }
        });
    }
}

/// A product cut into strips × tokens.
pub(super) struct Shares {
    strips: usize,
    tokens: usize,
    strips_a_share: usize,
    tokens_a_share: usize,
}

impl Shares {
    pub(super) fn count(&self) -> usize {
        self.strips.div_ceil(self.strips_a_share) * self.tokens.div_ceil(self.tokens_a_share)
    }

    /// Strips first: one after the other meets the same tokens.
    pub(super) fn share(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let columns = self.strips.div_ceil(self.strips_a_share);
        let (token, strip) = (index / columns * self.tokens_a_share, index % columns * self.strips_a_share);
        (strip..self.strips.min(strip + self.strips_a_share), token..self.tokens.min(token + self.tokens_a_share))
    }
}

impl Part {
    /// Enough shares for every thread to have some, and with few tokens not many more, as a share begins slowly; strips in
    /// pairs, as a pair is a block of the activations that follow; not more tokens than stay in the second-level cache
    /// while strips pass by, and fewer where strips are few.
    pub(super) fn shares(&self, threads: usize, tokens: usize) -> Shares {
        let strips = self.strips();
        let shares_a_thread = if tokens <= TILE {
            4
        } else if tokens <= TOKENS_TOGETHER {
            8
        } else {
            16
        };
        let wanted = threads * shares_a_thread;
        let strips_a_share = if self.format.is_quantised() {
            (strips / wanted).clamp(1, 16).next_multiple_of(2)
        } else {
            float::strips_a_share(strips, threads, tokens)
        };
        let token_bytes = Activations::token_bytes(self.columns, self.format.is_quantised());
        let tokens_a_share = (TOKENS_CACHE / token_bytes)
            .min(tokens * strips.div_ceil(strips_a_share) / wanted)
            .max(1)
            .next_multiple_of(TOKENS_TOGETHER);
        Shares { strips, tokens, strips_a_share, tokens_a_share }
    }
}
