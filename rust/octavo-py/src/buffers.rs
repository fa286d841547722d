//! Memory that Python owns, as checked slices. All of this crate's `unsafe` is here.
//!
//! [`Access`] collects the buffers of one call and refuses two that overlap when one of them is written. What it cannot
//! see is another Python thread that touches the memory during the call; the stub forbids that.

use std::ops::Range;
use std::ptr::NonNull;

use pyo3::buffer::{Element, PyBuffer, PyUntypedBuffer};
use pyo3::prelude::*;

use crate::errors::invalid;

/// The buffers of one call.
#[derive(Default)]
pub struct Access {
    taken: Vec<(Range<usize>, bool)>,
}

/// A C-contiguous buffer to be read.
pub struct Read<T: Element> {
    memory: NonNull<[T]>,
    _buffer: PyBuffer<T>,
}

/// A C-contiguous, writable buffer.
pub struct Write<T: Element> {
    memory: NonNull<[T]>,
    _buffer: PyBuffer<T>,
}

// SAFETY: `PyBuffer` is Send, and the memory it keeps in place may be reached from any thread.
unsafe impl<T: Element + Send> Send for Write<T> {}

impl Access {
    /// ValueError when `object` is no C-contiguous buffer of `T`, or overlaps one that this call writes.
    pub fn read<T: Element>(&mut self, name: &str, object: &Bound<'_, PyAny>) -> PyResult<Read<T>> {
        let (buffer, memory) = view::<T>(name, object)?;
        self.take(name, memory, false)?;
        Ok(Read { memory, _buffer: buffer })
    }

    /// As [`Access::read`]; also when it is read-only or overlaps any other buffer of this call.
    pub fn write<T: Element>(&mut self, name: &str, object: &Bound<'_, PyAny>) -> PyResult<Write<T>> {
        let (buffer, memory) = view::<T>(name, object)?;
        if buffer.readonly() {
            return Err(invalid(format!("{name}: the buffer is read-only")));
        }
        self.take(name, memory, true)?;
        Ok(Write { memory, _buffer: buffer })
    }

    fn take<T>(&mut self, name: &str, memory: NonNull<[T]>, writes: bool) -> PyResult<()> {
        let start = memory.cast::<u8>().as_ptr().addr();
        let range = start..start + memory.len() * size_of::<T>();
        let clash = |(other, written): &(Range<usize>, bool)| {
            (writes || *written) && range.start < other.end && other.start < range.end
        };
        if self.taken.iter().any(clash) {
            return Err(invalid(format!("{name}: overlaps another buffer of the call, and one of them is written")));
        }
        self.taken.push((range, writes));
        Ok(())
    }
}

impl<T: Element> Read<T> {
    pub fn slice(&self) -> &[T] {
        // SAFETY: `view` checked element type, alignment and contiguity; the buffer keeps the memory alive and in place
        // as long as `self`; `Access` refused a written view that overlaps it.
        unsafe { self.memory.as_ref() }
    }
}

impl<T: Element> Write<T> {
    pub fn slice(&mut self) -> &mut [T] {
        // SAFETY: as in `Read::slice`; the buffer is writable, and `Access` refused every other view that overlaps it.
        unsafe { self.memory.as_mut() }
    }
}

fn view<T: Element>(name: &str, object: &Bound<'_, PyAny>) -> PyResult<(PyBuffer<T>, NonNull<[T]>)> {
    let buffer = PyBuffer::<T>::get(object).map_err(|error| invalid(format!("{name}: {error}")))?;
    if buffer.item_count() == 0 {
        // NumPy may give any address for no elements; a slice needs an aligned one.
        return Ok((buffer, NonNull::slice_from_raw_parts(NonNull::dangling(), 0)));
    }
    let memory = buffer.as_slice_ptr().ok_or_else(|| invalid(format!("{name}: the buffer is not C-contiguous")))?;
    Ok((buffer, memory))
}

/// Whether both are one and the same piece of memory: an operation in place. False for what is no buffer, which
/// `Access` then refuses by name.
pub fn same_memory(one: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> bool {
    if one.is(other) {
        return true;
    }
    match (PyUntypedBuffer::get(one), PyUntypedBuffer::get(other)) {
        (Ok(one), Ok(other)) => one.buf_ptr() == other.buf_ptr() && one.len_bytes() == other.len_bytes(),
        _ => false,
    }
}
