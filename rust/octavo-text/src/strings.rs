//! A list of strings as GGUF files store it: each behind its length, 8 bytes, the least significant first.

use crate::tokenize::TokenizerError;

const LENGTH_BYTES: usize = 8;

/// A copy of the list, and where its strings end. They are decoded when they are asked for.
pub struct StringList {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl StringList {
    /// The `count` strings that begin at `start` of `file`; `None` when the file ends before them.
    pub fn read(file: &[u8], start: usize, count: usize) -> Option<Self> {
        let file = file.get(start..)?;
        let mut ends = Vec::with_capacity(count.min(file.len() / LENGTH_BYTES));
        let mut position = 0;
        for _ in 0..count {
            let length = u64::from_le_bytes(*file[position..].first_chunk::<LENGTH_BYTES>()?);
            position = (position + LENGTH_BYTES).checked_add(usize::try_from(length).ok()?)?;
            if position > file.len() {
                return None;
            }
            ends.push(position);
        }
        Some(Self { bytes: file[..position].to_vec(), ends })
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes in the file, lengths included.
    pub fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// `None` for an index past the end; an error for a string that is not UTF-8.
    pub fn get(&self, index: usize) -> Option<Result<&str, TokenizerError>> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let text = std::str::from_utf8(&self.bytes[start + LENGTH_BYTES..end]);
        Some(text.map_err(|_| TokenizerError::File(format!("string {index} of a list is not UTF-8"))))
    }

    pub fn iter(&self) -> impl Iterator<Item = Result<&str, TokenizerError>> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}
