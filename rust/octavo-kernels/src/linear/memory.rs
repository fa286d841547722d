//! Zeroed bytes in huge pages, several matrices to a chunk.
//!
//! A matrix of some hundred kilobytes would have no huge page of its own, and its pages' translations would be missed as
//! often as its bytes.

use std::sync::{Arc, Mutex, Weak};

use crate::KernelError;
use crate::pool::lock;

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// What a chunk has at least. The system commits only what is written.
const CHUNK: usize = 64 << 20;

/// Zeroed bytes that begin on a cache line.
pub(super) struct Memory {
    chunk: Arc<Chunk>,
    begin: usize,
    bytes: usize,
}

/// Memory from the system.
struct Chunk {
    /// On a huge page's boundary.
    begin: usize,
    mapping: *mut libc::c_void,
    mapped: usize,
}

// SAFETY: plain memory, owned; its users keep to their own ranges.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

/// The chunk that was made last, and how much of it is taken. It lives as long as a matrix in it.
static OPEN: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

impl Memory {
    pub(super) fn zeroed(bytes: usize) -> Result<Self, KernelError> {
        let failed = || KernelError::OutOfMemory { bytes };
        let needed = bytes.max(1).checked_next_multiple_of(CACHE_LINE).ok_or_else(failed)?;
        let mut open = lock(&OPEN);
        let (chunk, begin) = match open.0.upgrade() {
            Some(chunk) if needed <= chunk.bytes() - open.1 => (chunk, open.1),
            _ => (Arc::new(Chunk::new(needed.max(CHUNK)).ok_or_else(failed)?), 0),
        };
        *open = (Arc::downgrade(&chunk), begin + needed);
        Ok(Self { chunk, begin, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the bytes begin. Threads may write different ones through it.
    pub(super) fn pointer(&self) -> *mut u8 {
        self.chunk.pointer().wrapping_add(self.begin)
    }

    pub(super) fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes are this value's alone, zeroed by the system, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.bytes) }
    }
}

impl Chunk {
    /// None if the system has no such memory.
    fn new(bytes: usize) -> Option<Self> {
        let mapped = bytes.checked_add(HUGE_PAGE)?;
        // SAFETY: asks for new memory at an address that the system chooses.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return None;
        }
        let begin = mapping.addr().next_multiple_of(HUGE_PAGE) - mapping.addr();
        let chunk = Self { begin, mapping, mapped };
        #[cfg(target_os = "linux")]
        // SAFETY: advice about memory that was just mapped; a refusal changes nothing.
        unsafe {
            libc::madvise(chunk.pointer().cast(), bytes, libc::MADV_HUGEPAGE);
        }
        Some(chunk)
    }

    fn pointer(&self) -> *mut u8 {
        self.mapping.cast::<u8>().wrapping_add(self.begin)
    }

    fn bytes(&self) -> usize {
        self.mapped - self.begin
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nobody refers to any more.
        unsafe { libc::munmap(self.mapping, self.mapped) };
    }
}
