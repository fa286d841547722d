//! The tokenizer, for whoever needs tokens outside a request.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{detached, invalid};

#[pyclass(frozen, module = "octavo._core")]
pub struct Tokenizer(pub Arc<octavo_text::Tokenizer>);

#[pymethods]
impl Tokenizer {
    #[staticmethod]
    fn from_json(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let tokenizer = detached(py, || octavo_text::Tokenizer::from_json(data))?.map_err(invalid)?;
        Ok(Self(Arc::new(tokenizer)))
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    #[pyo3(signature = (text, add_special_tokens = true))]
    fn encode(&self, py: Python<'_>, text: &str, add_special_tokens: bool) -> PyResult<Vec<u32>> {
        detached(py, || self.0.encode(text, add_special_tokens))?.map_err(invalid)
    }

    #[pyo3(signature = (token_ids, skip_special_tokens = true))]
    fn decode(&self, py: Python<'_>, token_ids: Vec<u32>, skip_special_tokens: bool) -> PyResult<String> {
        detached(py, || self.0.decode(&token_ids, skip_special_tokens))?.map_err(invalid)
    }

    fn token(&self, token_id: u32) -> Option<String> {
        self.0.token(token_id)
    }

    fn token_id(&self, token: &str) -> Option<u32> {
        self.0.token_id(token)
    }

    fn token_bytes<'py>(&self, py: Python<'py>, token_id: u32) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.0.token_bytes(token_id).map_err(invalid)?))
    }
}
