//! The prefix cache: full blocks, found again by their hash.
//!
//! Each cached block stands for one content: its tokens after the content of its parent. Contents have numbers which
//! are never used twice, so "the same parent" does not depend on which physical block holds the parent now. A hit is
//! confirmed by the parent's number and the tokens.

use std::sync::Arc;

use crate::blocks::BlockId;
use crate::hash::{BlockHash, HashKeyed};

/// The number of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content(u64);

impl Content {
    /// What stands before a sequence's first block.
    pub const ROOT: Content = Content(0);
    const NOTHING: Content = Content(u64::MAX);
}

/// Where in its chain a block stands.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub hash: BlockHash,
    pub parent: Content,
    /// The request's salt; part of the content of a first block.
    pub salt: &'a Option<Arc<str>>,
}

#[derive(Clone, Copy)]
struct Entry {
    hash: BlockHash,
    content: Content,
    parent: Content,
}

const EMPTY: Entry = Entry { hash: 0, content: Content::NOTHING, parent: Content::NOTHING };

pub(crate) struct PrefixCache {
    block_size: usize,
    blocks: HashKeyed<BlockHash, BlockId>,
    /// By block.
    entries: Vec<Entry>,
    /// By block, `block_size` each.
    tokens: Vec<u32>,
    /// Of first blocks whose request has a salt.
    salts: HashKeyed<u64, Arc<str>>,
    next_content: u64,
}

impl PrefixCache {
    pub fn new(num_blocks: usize, block_size: usize) -> Self {
        let mut blocks = HashKeyed::default();
        blocks.reserve(num_blocks);
        PrefixCache {
            block_size,
            blocks,
            entries: vec![EMPTY; num_blocks],
            tokens: vec![0; num_blocks * block_size],
            salts: HashKeyed::default(),
            next_content: 1,
        }
    }

    pub fn contains(&self, block: BlockId) -> bool {
        self.entries[block as usize].content != Content::NOTHING
    }

    /// The cached block with exactly these tokens at this place.
    pub fn find(&self, place: Place<'_>, tokens: &[u32]) -> Option<(BlockId, Content)> {
        let block = *self.blocks.get(&place.hash)?;
        let entry = &self.entries[block as usize];
        let same = entry.parent == place.parent
            && self.tokens_of(block) == tokens
            && (place.parent != Content::ROOT || self.salts.get(&u64::from(block)) == place.salt.as_ref());
        same.then_some((block, entry.content))
    }

    /// Makes a full block findable. Where its content is cached already, that content's number comes back and the
    /// block stays private; `None` when another content has the same hash: then nothing that follows can be found.
    pub fn insert(&mut self, block: BlockId, place: Place<'_>, tokens: &[u32]) -> Option<Content> {
        debug_assert!(!self.contains(block));
        if self.blocks.contains_key(&place.hash) {
            return self.find(place, tokens).map(|(_, content)| content);
        }
        let content = Content(self.next_content);
        self.next_content += 1;
        self.blocks.insert(place.hash, block);
        self.entries[block as usize] = Entry { hash: place.hash, content, parent: place.parent };
        let start = block as usize * self.block_size;
        self.tokens[start..start + self.block_size].copy_from_slice(tokens);
        if let (Content::ROOT, Some(salt)) = (place.parent, place.salt) {
            self.salts.insert(u64::from(block), salt.clone());
        }
        Some(content)
    }

    /// The block is to hold something else.
    pub fn forget(&mut self, block: BlockId) {
        let entry = std::mem::replace(&mut self.entries[block as usize], EMPTY);
        if entry.content != Content::NOTHING {
            self.blocks.remove(&entry.hash);
            if entry.parent == Content::ROOT {
                self.salts.remove(&u64::from(block));
            }
        }
    }

    pub fn tokens_of(&self, block: BlockId) -> &[u32] {
        let start = block as usize * self.block_size;
        &self.tokens[start..start + self.block_size]
    }

    /// Says what is wrong, if anything.
    pub fn check(&self) -> Result<(), String> {
        let cached = self.entries.iter().filter(|entry| entry.content != Content::NOTHING).count();
        if cached != self.blocks.len() {
            return Err(format!("{cached} blocks are cached, {} are in the map", self.blocks.len()));
        }
        for (hash, &block) in &self.blocks {
            if self.entries[block as usize].hash != *hash {
                return Err(format!("block {block} is cached under another hash"));
            }
        }
        Ok(())
    }
}
