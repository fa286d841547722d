//! The tokenizer, for whoever needs tokens outside a request.

use std::sync::Arc;

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffers::Access;
use crate::errors::{detached, invalid};

#[pyclass(frozen, module = "octavo._core")]
pub struct StringList(octavo_text::StringList);

#[pymethods]
impl StringList {
    #[new]
    fn new(file: &Bound<'_, PyAny>, start: usize, count: usize) -> PyResult<Self> {
        let file = Access::default().read::<u8>("file", file)?;
        let list = octavo_text::StringList::read(file.slice(), start, count);
        Ok(Self(list.ok_or_else(|| invalid("the file ends inside a list of strings"))?))
    }

    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __getitem__(&self, index: usize) -> PyResult<&str> {
        let text = self.0.get(index).ok_or_else(|| PyIndexError::new_err("no such string"))?;
        text.map_err(invalid)
    }
}

#[pyclass(frozen, module = "octavo._core")]
pub struct Tokenizer(pub Arc<octavo_text::Tokenizer>);

#[pymethods]
impl Tokenizer {
    #[staticmethod]
    fn from_json(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let tokenizer = detached(py, || octavo_text::Tokenizer::from_json(data))?.map_err(invalid)?;
        Ok(Self(Arc::new(tokenizer)))
    }

    #[staticmethod]
    #[pyo3(signature = (document, tokens, merges = None))]
    fn from_lists(py: Python<'_>, document: &[u8], tokens: &StringList, merges: Option<&StringList>) -> PyResult<Self> {
        let open = || octavo_text::Tokenizer::from_lists(document, &tokens.0, merges.map(|list| &list.0));
        Ok(Self(Arc::new(detached(py, open)?.map_err(invalid)?)))
    }

    fn to_json(&self, py: Python<'_>) -> PyResult<String> {
        detached(py, || self.0.to_json())?.map_err(invalid)
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
