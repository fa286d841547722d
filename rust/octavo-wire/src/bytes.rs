//! Little-endian numbers and counted sequences in a byte buffer: the writer appends, the reader checks every bound.

use crate::frame::FrameError;

/// Appends to a buffer which its owner keeps, so that a warm buffer costs no allocation.
pub(crate) struct Writer<'a> {
    pub buffer: &'a mut Vec<u8>,
}

impl Writer<'_> {
    pub fn u8(&mut self, value: u8) {
        self.buffer.push(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub fn u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub fn f32(&mut self, value: f32) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.buffer.extend_from_slice(&value.to_le_bytes());
    }

    /// Counts past `u32::MAX` cannot stand in a frame; the length check at the frame's end refuses them.
    pub fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub fn text(&mut self, text: &str) {
        self.count(text.len());
        self.buffer.extend_from_slice(text.as_bytes());
    }

    pub fn u32s(&mut self, values: &[u32]) {
        self.count(values.len());
        self.buffer.reserve(values.len() * 4);
        for value in values {
            self.u32(*value);
        }
    }

    pub fn f32s(&mut self, values: &[f32]) {
        self.count(values.len());
        self.buffer.reserve(values.len() * 4);
        for value in values {
            self.f32(*value);
        }
    }

    pub fn pairs(&mut self, pairs: &[(u32, f32)]) {
        self.count(pairs.len());
        for (token, value) in pairs {
            self.u32(*token);
            self.f32(*value);
        }
    }
}

/// Reads a payload from front to back. A count is believed only if the rest of the payload can hold that many
/// elements, so no input allocates more than a small multiple of its own length.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn bool(&mut self) -> Result<bool, FrameError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError::Value("flag")),
        }
    }

    pub fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, FrameError> {
        self.array().map(i32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, FrameError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn f32(&mut self) -> Result<f32, FrameError> {
        self.array().map(f32::from_le_bytes)
    }

    pub fn f64(&mut self) -> Result<f64, FrameError> {
        self.array().map(f64::from_le_bytes)
    }

    /// A number of elements of at least `element_bytes` each.
    pub fn count(&mut self, element_bytes: usize) -> Result<usize, FrameError> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / element_bytes {
            return Err(FrameError::Truncated);
        }
        Ok(count)
    }

    pub fn text(&mut self) -> Result<String, FrameError> {
        let length = self.count(1)?;
        let text = str::from_utf8(self.take(length)?).map_err(|_| FrameError::Value("text"))?;
        Ok(text.to_owned())
    }

    pub fn u32s(&mut self) -> Result<Vec<u32>, FrameError> {
        let count = self.count(4)?;
        let bytes = self.take(count * 4)?;
        Ok(bytes.chunks_exact(4).map(|chunk| u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect())
    }

    pub fn f32s(&mut self) -> Result<Vec<f32>, FrameError> {
        let count = self.count(4)?;
        let bytes = self.take(count * 4)?;
        Ok(bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect())
    }

    pub fn pairs(&mut self) -> Result<Vec<(u32, f32)>, FrameError> {
        let count = self.count(8)?;
        (0..count).map(|_| Ok((self.u32()?, self.f32()?))).collect()
    }

    /// A payload must be read to its end: bytes left over mean that the two sides disagree.
    pub fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FrameError::Surplus) }
    }
}
