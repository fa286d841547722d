//! The blocks of the KV cache: who holds them, and in which order free ones are used again.
//!
//! A [`BlockTable`] owns its blocks. It cannot be copied; only the pool makes one grow, shares it (`fork`) or empties
//! it, so that every block is held as often as the tables say (`check`). A free block keeps its cached content until
//! it is used again: blocks without content first, then those which were freed longest ago.

use crate::prefix::PrefixCache;

pub(crate) type BlockId = u32;

/// The blocks of one sequence, in the order of its tokens.
#[derive(Debug, Default)]
pub(crate) struct BlockTable(Vec<BlockId>);

impl BlockTable {
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn blocks(&self) -> &[BlockId] {
        &self.0
    }
}

pub(crate) struct BlockPool {
    block_size: u32,
    pub prefix: PrefixCache,
    /// Holders of each block.
    references: Vec<u32>,
    /// Token slots of each held block that hold a token.
    filled: Vec<u32>,
    /// The free blocks as a ring, next to use first; the last index is the ring's anchor.
    next: Vec<BlockId>,
    previous: Vec<BlockId>,
    num_free: u32,
    /// Empty slots of held blocks.
    num_wasted: u32,
}

impl BlockPool {
    pub fn new(num_blocks: u32, block_size: u32) -> Self {
        let anchor = num_blocks;
        BlockPool {
            block_size,
            prefix: PrefixCache::new(num_blocks as usize, block_size as usize),
            references: vec![0; num_blocks as usize],
            filled: vec![0; num_blocks as usize],
            next: (1..=anchor).chain([0]).collect(),
            previous: [anchor].into_iter().chain(0..anchor).collect(),
            num_free: num_blocks,
            num_wasted: 0,
        }
    }

    pub fn num_blocks(&self) -> u32 {
        self.references.len() as u32
    }
    pub fn num_free(&self) -> u32 {
        self.num_free
    }
    pub fn num_wasted(&self) -> u32 {
        self.num_wasted
    }

    pub fn is_free(&self, block: BlockId) -> bool {
        self.references[block as usize] == 0
    }

    /// Whether a write to the block would be seen by another table.
    pub fn is_shared(&self, block: BlockId) -> bool {
        self.references[block as usize] > 1
    }

    /// Appends an empty block; false when none is free.
    pub fn grow(&mut self, table: &mut BlockTable) -> bool {
        let block = self.take();
        table.0.extend(block);
        block.is_some()
    }

    /// Appends a cached block that `prefix` found.
    pub fn adopt(&mut self, table: &mut BlockTable, block: BlockId) {
        if self.is_free(block) {
            self.unlink(block);
            self.filled[block as usize] = self.block_size;
        }
        self.references[block as usize] += 1;
        table.0.push(block);
    }

    /// Shares all blocks.
    pub fn fork(&mut self, table: &BlockTable) -> BlockTable {
        for &block in &table.0 {
            self.references[block as usize] += 1;
        }
        BlockTable(table.0.clone())
    }

    /// Gives the table an empty block of its own in place of a shared one. The step is to copy the contents from the
    /// first block returned to the second. `None` when no block is free.
    pub fn copy_on_write(&mut self, table: &mut BlockTable, column: usize) -> Option<(BlockId, BlockId)> {
        let target = self.take()?;
        let source = std::mem::replace(&mut table.0[column], target);
        self.release_block(source);
        Some((source, target))
    }

    /// `block` holds `count` tokens now.
    pub fn fill(&mut self, block: BlockId, count: u32) {
        let filled = &mut self.filled[block as usize];
        self.num_wasted -= count - *filled;
        *filled = count;
    }

    /// Empties the table. Later blocks are used again before earlier ones, for a prefix needs its head.
    pub fn release(&mut self, table: &mut BlockTable) {
        while let Some(block) = table.0.pop() {
            self.release_block(block);
        }
    }

    /// Forgets the contents of all free blocks.
    pub fn forget_free(&mut self) {
        for block in 0..self.num_blocks() {
            if self.is_free(block) {
                self.prefix.forget(block);
            }
        }
    }

    fn take(&mut self) -> Option<BlockId> {
        if self.num_free == 0 {
            return None;
        }
        let block = self.next[self.references.len()];
        self.unlink(block);
        self.prefix.forget(block);
        self.references[block as usize] = 1;
        self.filled[block as usize] = 0;
        self.num_wasted += self.block_size;
        Some(block)
    }

    fn release_block(&mut self, block: BlockId) {
        let references = &mut self.references[block as usize];
        *references -= 1;
        if *references > 0 {
            return;
        }
        self.num_wasted -= self.block_size - self.filled[block as usize];
        let anchor = self.num_blocks();
        let before = if self.prefix.contains(block) { self.previous[anchor as usize] } else { anchor };
        let after = self.next[before as usize];
        self.next[before as usize] = block;
        self.previous[block as usize] = before;
        self.next[block as usize] = after;
        self.previous[after as usize] = block;
        self.num_free += 1;
    }

    fn unlink(&mut self, block: BlockId) {
        let (before, after) = (self.previous[block as usize], self.next[block as usize]);
        self.next[before as usize] = after;
        self.previous[after as usize] = before;
        self.num_free -= 1;
    }

    /// Says what is wrong, if anything. `tables` are all there are.
    pub fn check<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) -> Result<(), String> {
        self.prefix.check()?;
        let mut references = vec![0; self.references.len()];
        tables.flat_map(|table| &table.0).for_each(|&block| references[block as usize] += 1);
        if let Some(block) = (0..references.len()).find(|&block| references[block] != self.references[block]) {
            return Err(format!(
                "block {block} is held {} times and counted {}",
                references[block], self.references[block]
            ));
        }
        let anchor = self.num_blocks();
        let (mut block, mut num_free) = (self.next[anchor as usize], 0);
        while block != anchor {
            if !self.is_free(block) || num_free > anchor {
                return Err(format!("block {block} is held and yet in the free list"));
            }
            num_free += 1;
            block = self.next[block as usize];
        }
        let free = references.iter().filter(|&&count| count == 0).count() as u32;
        if (num_free, num_free) != (self.num_free, free) {
            return Err(format!("{free} blocks are free, {num_free} listed, {} counted", self.num_free));
        }
        let wasted = (0..references.len()).filter(|&block| references[block] > 0);
        let wasted: u32 = wasted.map(|block| self.block_size - self.filled[block]).sum();
        if wasted != self.num_wasted {
            return Err(format!("{wasted} slots are empty, {} counted", self.num_wasted));
        }
        Ok(())
    }
}
