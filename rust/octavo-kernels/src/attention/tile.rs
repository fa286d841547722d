//! The query rows of a tile, token by token, the heads of the group together: where their K and V are, and which they see.

use crate::kv_cache::{KvElement, Piece};
use crate::simd::LANES;

use super::schedule::Tile;
use super::split::{AHEAD, Context, SPLIT};
use super::work::Call;

/// A tile's rows of one kv head.
pub(super) struct TileRows<'a, E> {
    sliding_window: usize,
    group: usize,
    pub(super) context: Context<'a, E>,
    /// Position of the first token.
    first_position: usize,
    pub(super) count: usize,
}

impl<'a, E: KvElement> TileRows<'a, E> {
    #[inline(always)]
    pub(super) fn new(call: &Call<'a, E>, tile: &Tile, kv_head: usize) -> Self {
        let sequence = &call.sequences[tile.sequence];
        let columns = call.config.max_blocks_per_seq;
        Self {
            sliding_window: call.options.sliding_window,
            group: call.group,
            context: Context {
                pages: call.pages,
                head: kv_head,
                blocks: &call.table[sequence.row * columns..][..columns],
            },
            first_position: sequence.context + tile.token_begin,
            count: tile.rows(call.group),
        }
    }

    /// Where the tile's only token goes.
    #[inline(always)]
    pub(super) fn slot_of_token(&self, call: &Call<'_, E>, tile: &Tile) -> Piece {
        let (position, block_size) = (self.first_position, call.config.block_size);
        Piece {
            token: call.sequences[tile.sequence].query_begin,
            count: 1,
            block: self.context.blocks[position / block_size] as usize,
            offset: position % block_size,
        }
    }

    /// The positions that a row sees.
    #[inline(always)]
    fn visible(&self, row: usize) -> (usize, usize) {
        let end = self.first_position + row / self.group + 1;
        match self.sliding_window {
            0 => (0, end),
            window => (end.saturating_sub(window), end),
        }
    }

    /// The same, counted from `begin` and cut to a split; empty as (x, x). Both ends grow with the row.
    #[inline(always)]
    fn visible_from(&self, row: usize, split_begin: usize) -> (usize, usize) {
        let (begin, end) = self.visible(row);
        let end = end.saturating_sub(split_begin).min(SPLIT);
        (begin.saturating_sub(split_begin).min(end), end)
    }

    /// Writes what each row sees of a split.
    #[inline(always)]
    pub(super) fn see(&self, split: usize, to: &mut [(usize, usize)]) {
        for (row, visible) in to[..self.count].iter_mut().enumerate() {
            *visible = self.visible_from(row, split * SPLIT);
        }
    }

    /// The positions of a split that some row sees.
    #[inline(always)]
    pub(super) fn positions(&self, split: usize) -> (usize, usize) {
        let end = self.visible(self.count - 1).1.min((split + 1) * SPLIT);
        (self.visible(0).0.max(split * SPLIT).min(end), end)
    }

    /// Every row sees `position` and what follows, up to its own.
    #[inline(always)]
    pub(super) fn all_see(&self, position: usize) -> bool {
        self.visible(self.count - 1).0 <= position
    }

    #[inline(always)]
    pub(super) fn first_reads(&self, split: usize) -> [*const u8; AHEAD] {
        let (begin, end) = self.positions(split);
        self.context.first_reads(begin / LANES * LANES, end)
    }
}
