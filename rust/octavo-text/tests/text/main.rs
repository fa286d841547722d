//! The crate from outside, in one binary: it links the tokenizers library once.

mod answers;
mod detokenize;
mod frontend;
mod tokenizers;
