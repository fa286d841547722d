//! The cache's memory: zeros from the system, which clears a huge page when it is first written.
//!
//! A thread that meets such a page waits while it is cleared, and in every layer the others wait for that thread. So before
//! a step all threads together ask for the huge pages that it will be the first to write. On a virtual machine whose host
//! had taken the memory back, steps of 2,048 tokens took 525 ms so, and 590 without; 475 where nothing was fresh.

use std::ops::Range;

use crate::{KernelError, Pool};

const HUGE_PAGE: usize = 2 << 20;

pub(crate) struct Mapping {
    pointer: *mut u8,
    bytes: usize,
    /// A bit for each huge page of the address space that the mapping touches.
    reached: Vec<u64>,
    /// Those that were reached since the last `populate`.
    fresh: Vec<usize>,
}

// SAFETY: plain memory, owned; references to it follow the borrows of this value.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `bytes` is None for more than the address space.
    pub(super) fn new(bytes: Option<usize>) -> Result<Self, KernelError> {
        let Some(bytes) = bytes else {
            let reason = "more than the address space".to_owned();
            return Err(KernelError::Allocation { bytes: u64::MAX, reason });
        };
        // SAFETY: asks for new memory at an address that the system chooses.
        let pointer = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if pointer == libc::MAP_FAILED {
            let reason = std::io::Error::last_os_error().to_string();
            return Err(KernelError::Allocation { bytes: bytes as u64, reason });
        }
        // Pages of a context lie scattered, and each would need an entry of its own in the TLB. A refusal is no error.
        #[cfg(target_os = "linux")]
        // SAFETY: advice about the mapping that was just made.
        unsafe {
            libc::madvise(pointer, bytes, libc::MADV_HUGEPAGE);
        }
        let reached = vec![0; (bytes / HUGE_PAGE + 2).div_ceil(64)];
        Ok(Self { pointer: pointer.cast(), bytes, reached, fresh: Vec::new() })
    }

    pub(crate) fn pointer(&self) -> *mut u8 {
        self.pointer
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this long, initialised to zeros, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }

    /// Notes that these bytes, which are some, will be written.
    pub(super) fn reach(&mut self, bytes: Range<usize>) {
        let offset = self.pointer as usize % HUGE_PAGE;
        for page in (offset + bytes.start) / HUGE_PAGE..=(offset + bytes.end - 1) / HUGE_PAGE {
            let (word, bit) = (&mut self.reached[page / 64], 1 << (page % 64));
            if *word & bit == 0 {
                *word |= bit;
                self.fresh.push(page);
            }
        }
    }

    /// Gets the huge pages that were reached, by all threads. Where the system does not do that, writing will.
    pub(super) fn populate(&mut self, pool: &Pool) {
        #[cfg(target_os = "linux")]
        if !self.fresh.is_empty() {
            let (begin, end) = (self.pointer as usize, self.pointer as usize + self.bytes);
            let first = begin / HUGE_PAGE;
            pool.for_each(self.fresh.len(), |_, index| {
                let page = (first + self.fresh[index]) * HUGE_PAGE;
                let (from, to) = (page.max(begin), (page + HUGE_PAGE).min(end));
                // SAFETY: a part of the mapping that begins on a page's boundary; its bytes stay as they are.
                unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_POPULATE_WRITE) };
            });
        }
        #[cfg(not(target_os = "linux"))]
        let _ = pool;
        self.fresh.clear();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nobody refers to any more.
        unsafe { libc::munmap(self.pointer.cast(), self.bytes) };
    }
}
