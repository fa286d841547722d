//! Zeroed bytes on the alignment that vectors and huge pages want.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::KernelError;

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

/// A block of memory on a cache line, in huge pages where it is large and the system gives them.
pub(super) struct Memory {
    pointer: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its bytes, and only `&mut self` and unsafe code write them.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn zeroed(bytes: usize) -> Result<Self, KernelError> {
        let alignment = if bytes >= 2 * HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
        let failed = KernelError::OutOfMemory { bytes };
        let Ok(layout) = Layout::from_size_align(bytes.max(CACHE_LINE), alignment) else { return Err(failed) };
        // SAFETY: the size is not zero.
        let Some(pointer) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { return Err(failed) };
        Ok(Self { pointer, layout })
    }

    pub(super) fn bytes(&self) -> usize {
        self.layout.size()
    }

    /// Where the bytes begin. Threads may write different ones through it.
    pub(super) fn pointer(&self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    pub(super) fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes are this value's, initialised by `zeroed`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.bytes()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `zeroed` allocated it with this layout.
        unsafe { dealloc(self.pointer(), self.layout) };
    }
}
