//! Names of full blocks: 128-bit hashes, each chained to the block before it.
//!
//! The chain starts from a request's salt, and the hash is SipHash-1-3 under a key which is drawn anew in each
//! process: nobody outside can construct a collision, and a hash says nothing in another process. A hit is still
//! confirmed by comparing tokens (`prefix.rs`), so a collision costs a miss and never shares a wrong block.

use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip128::SipHasher13;

use crate::engine::EngineError;

pub(crate) type BlockHash = u128;

/// Computes block hashes.
pub struct BlockHasher {
    sip: SipHasher13,
    mask: u128,
    /// The parent's hash and the tokens, side by side.
    scratch: Vec<u32>,
}

impl BlockHasher {
    /// With a key from the system's random numbers.
    pub fn from_system() -> Result<Self, EngineError> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|error| EngineError::Random(error.to_string()))?;
        Ok(Self::with_key(&key))
    }

    pub fn with_key(key: &[u8; 16]) -> Self {
        BlockHasher { sip: SipHasher13::new_with_key(key), mask: u128::MAX, scratch: Vec::new() }
    }

    /// Keeps `bits` bits of each hash, so that a test meets collisions.
    pub fn narrowed(mut self, bits: u32) -> Self {
        self.mask = u128::MAX.checked_shr(128 - bits).unwrap_or(0);
        self
    }

    /// Where the chain of a request with this salt starts.
    pub(crate) fn root(&self, salt: &str) -> BlockHash {
        self.sip.hash(salt.as_bytes()).as_u128() & self.mask
    }

    /// The hash of a full block that follows `parent`.
    pub(crate) fn chain(&mut self, parent: BlockHash, tokens: &[u32]) -> BlockHash {
        self.scratch.clear();
        self.scratch.extend_from_slice(&bytemuck::cast::<u128, [u32; 4]>(parent));
        self.scratch.extend_from_slice(tokens);
        self.sip.hash(bytemuck::cast_slice(&self.scratch)).as_u128() & self.mask
    }
}

/// For keys which are hashes already (block hashes) or small counters (request numbers).
#[derive(Default)]
pub(crate) struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only u64 and u128 keys are looked up")
    }
    fn write_u64(&mut self, value: u64) {
        // The table takes its tag from the top bits, which are zero in a counter.
        self.0 = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

pub(crate) type HashKeyed<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<IdentityHasher>>;
