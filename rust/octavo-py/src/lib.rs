//! The Python boundary: translates, and holds no logic of its own. `python/octavo/_core.pyi` is its contract.
//!
//! - `errors`: Rust's failures as exceptions; calls without the GIL
//! - `buffers`: memory that Python owns, as checked slices; all `unsafe` of the crate
//! - `tokenizer`, `sampling`, `pooling`, `endpoint`, `frontend`, `events`: the clients' side
//! - `engine`: the engine and its plans
//! - `kernels`: what runs on the CPU; `decoder`, `encoder`: whole models there

mod buffers;
mod decoder;
mod encoder;
mod endpoint;
mod engine;
mod errors;
mod events;
mod frontend;
mod kernels;
mod pooling;
mod sampling;
mod tokenizer;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::decoder::NativeDecoder;
    #[pymodule_export]
    use crate::encoder::NativeEncoder;
    #[pymodule_export]
    use crate::endpoint::Endpoint;
    #[pymodule_export]
    use crate::engine::{DeviceWork, Engine, Plan};
    #[pymodule_export]
    use crate::events::{Accepted, Delta, Failed, Stats, Timings, TokenLogprobs};
    #[pymodule_export]
    use crate::frontend::Frontend;
    #[pymodule_export]
    use crate::kernels::{CpuKernels, PagedKvCache};
    #[pymodule_export]
    use crate::pooling::{Pooled, PoolerOptions, Pooling, PoolingLimits};
    #[pymodule_export]
    use crate::sampling::Sampling;
    #[pymodule_export]
    use crate::tokenizer::{StringList, Tokenizer};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
