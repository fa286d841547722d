//! The Python boundary: translates, and holds no logic of its own. `python/octavo/_core.pyi` is its contract.
//!
//! - `errors`: Rust's failures as exceptions; calls without the GIL
//! - `buffers`: memory that Python owns, as checked slices; all `unsafe` of the crate
//! - `text`: Tokenizer, Sampling
//! - `endpoint`, `frontend`, `events`: the clients' side
//! - `engine`: Engine, Plan
//! - `kernels`: CpuKernels, PagedKvCache

mod buffers;
mod endpoint;
mod engine;
mod errors;
mod events;
mod kernels;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::endpoint::Endpoint;
    #[pymodule_export]
    use crate::engine::{Engine, Plan};
    #[pymodule_export]
    use crate::events::Stats;
    #[pymodule_export]
    use crate::kernels::{CpuKernels, PagedKvCache};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
