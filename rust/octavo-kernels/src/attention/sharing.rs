//! Finds the tiles whose split lies in the same blocks, at least where it begins: sequences share the blocks of a prefix.
//!
//! One walk over the tiles finds those that have a whole split in common, by its last block; another one, those of the
//! rest that begin it alike, by its first. Blocks are compared with those of the group's first tile.

use crate::kv_cache::{KvCacheConfig, Sequence};
use crate::simd::LANES;

use super::schedule::Tile;
use super::split::SPLIT;

/// Positions that are worth it.
const FEWEST: usize = 2 * LANES;

const NONE: u32 = u32::MAX;

/// Where the step's sequences have their blocks.
pub(super) struct Table<'a> {
    /// [max_num_seqs, max_blocks_per_seq]
    pub(super) blocks: &'a [u32],
    pub(super) sequences: &'a [Sequence],
    pub(super) config: &'a KvCacheConfig,
}

impl Table<'_> {
    fn row(&self, tile: &Tile) -> &[u32] {
        let columns = self.config.max_blocks_per_seq;
        &self.blocks[self.sequences[tile.sequence].row * columns..][..columns]
    }

    /// Positions of a split before the tile's tokens, in whole strips.
    fn before(&self, tile: &Tile, split: usize) -> usize {
        let first = self.sequences[tile.sequence].context + tile.token_begin;
        first.saturating_sub(split * SPLIT).min(SPLIT) / LANES * LANES
    }

    /// Positions of the split that lie in the same blocks for both.
    fn common(&self, one: &Tile, other: &Tile, split: usize) -> usize {
        let block_size = self.config.block_size;
        let columns = split * SPLIT / block_size..((split + 1) * SPLIT).div_ceil(block_size);
        let (one_row, other_row) = (self.row(one), self.row(other));
        let pairs = columns
            .clone()
            .take_while(|&column| one_row.get(column).is_some_and(|it| other_row.get(column) == Some(it)));
        let end = (columns.start + pairs.count()) * block_size;
        end.saturating_sub(split * SPLIT).min(self.before(one, split)).min(self.before(other, split))
    }
}

/// How much of a split its tiles have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    Part,
}

/// Tiles that share the beginning of a split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    first: u32,
    last: u32,
    count: usize,
    /// Positions.
    pub(super) shared: usize,
}

#[derive(Default)]
pub(super) struct Sharing {
    groups: Vec<Group>,
    /// [num_blocks] the group that was found by a block; NONE between two walks.
    found: Vec<u32>,
    /// [tiles] the next tile of the same group.
    next: Vec<u32>,
}

impl Sharing {
    /// Strips are read where they lie.
    pub(super) fn is_possible(table: &Table<'_>) -> bool {
        table.config.block_size.is_multiple_of(LANES)
    }

    /// Groups the free ones of the tiles by what they share of a split.
    pub(super) fn find(
        &mut self,
        table: &Table<'_>,
        split: usize,
        extent: Extent,
        tiles: &[Tile],
        is_free: impl Fn(&Tile) -> bool,
    ) {
        self.groups.clear();
        self.found.resize(table.config.num_blocks, NONE);
        self.next.resize(tiles.len().max(self.next.len()), NONE);
        let fewest = if extent == Extent::Whole { SPLIT } else { FEWEST };
        let position = split * SPLIT + if extent == Extent::Whole { SPLIT - 1 } else { 0 };
        let key = |tile: &Tile| table.row(tile)[position / table.config.block_size] as usize;
        for (index, tile) in tiles.iter().enumerate().filter(|(_, tile)| is_free(tile)) {
            let before = table.before(tile, split);
            if before < fewest {
                continue;
            }
            let alone = Group { first: index as u32, last: index as u32, count: 1, shared: before };
            let found = &mut self.found[key(tile)];
            if let Some(group) = self.groups.get_mut(*found as usize) {
                let common = table.common(&tiles[group.first as usize], tile, split);
                // A group that has found what it shares does not give it up for one that shares less.
                if common >= if group.count == 1 { fewest } else { group.shared } {
                    self.next[group.last as usize] = alone.last;
                    *group =
                        Group { last: alone.last, count: group.count + 1, shared: common.min(group.shared), ..*group };
                    continue;
                }
            }
            *found = self.groups.len() as u32;
            self.groups.push(alone);
        }
        for group in &self.groups {
            self.found[key(&tiles[group.first as usize])] = NONE;
        }
    }

    /// Those of several tiles.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.count > 1)
    }

    /// A group's tiles.
    pub(super) fn members(&self, group: &Group) -> impl Iterator<Item = usize> + Clone {
        std::iter::successors(Some(group.first as usize), |&tile| Some(self.next[tile] as usize)).take(group.count)
    }
}
