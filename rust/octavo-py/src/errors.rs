//! Rust's failures as Python's exceptions: a panic becomes a RuntimeError, never the end of the process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::marker::Ungil;
use pyo3::prelude::*;

/// `PyErr` for a value that the caller got wrong.
pub fn invalid(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// The guard, or RuntimeError when an earlier call panicked and what the lock protects may be half changed.
pub fn lock<T>(mutex: &Mutex<T>) -> PyResult<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| PyRuntimeError::new_err("an earlier call broke off inside; this object cannot go on"))
}

/// Runs `work` without the GIL. A panic becomes a RuntimeError: PyO3's own PanicException is no `Exception`, so that
/// one broken step would end the whole engine.
pub fn detached<T: Ungil + Send>(py: Python<'_>, work: impl Ungil + Send + FnOnce() -> T) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(work))).map_err(|panic| PyRuntimeError::new_err(message(&*panic)))
}

/// As [`detached`], with the GIL held.
pub fn attached<T>(work: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| PyRuntimeError::new_err(message(&*panic)))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("internal error: {}", text.unwrap_or("a panic without a message"))
}
