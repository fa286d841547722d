//! One end of a connection, as a thing that Python can hand over once.

use std::sync::Mutex;

use pyo3::prelude::*;

use crate::errors::{invalid, lock};

#[pyclass(frozen, module = "octavo._core")]
pub struct Endpoint(Mutex<Option<octavo_wire::Endpoint>>);

#[pymethods]
impl Endpoint {
    #[staticmethod]
    fn pair() -> (Self, Self) {
        let (front, back) = octavo_wire::Endpoint::pair();
        (Self(Mutex::new(Some(front))), Self(Mutex::new(Some(back))))
    }

    #[staticmethod]
    fn from_fd(fd: i32) -> PyResult<Self> {
        Ok(Self(Mutex::new(Some(octavo_wire::Endpoint::from_fd(fd)?))))
    }
}

impl Endpoint {
    /// The end itself. ValueError when a Frontend or an Engine has it already.
    pub fn take(&self) -> PyResult<octavo_wire::Endpoint> {
        lock(&self.0)?.take().ok_or_else(|| invalid("this endpoint has been given away already"))
    }
}
