//! The rows that a step writes. The system gives their pages as steps first reach them.

use super::config::DecoderConfig;
use super::greedy::Greedy;
use super::step::SLICE;
use super::weights::Weights;
use crate::attention::writes_whole_blocks;
use crate::linear::{Activations, Contents};

pub(super) struct Workspace {
    /// [tokens, hidden]: the stream that every block adds to.
    pub(super) residual: Activations,
    /// [slice, hidden]: the norm of some of its rows, what the products read.
    pub(super) normed: Activations,
    /// [tokens, query, key and value heads]
    pub(super) qkv: Activations,
    /// [tokens, query heads]
    pub(super) attended: Activations,
    /// [slice, intermediate]
    pub(super) activated: Activations,
    /// [samples, hidden]: the last layer's residual, of sampled tokens only.
    pub(super) sampled_residual: Activations,
    /// [samples, query heads]
    pub(super) sampled_attended: Activations,
    /// [samples, hidden]
    pub(super) sampled: Activations,
    /// [samples, vocab]
    pub(super) logits: Vec<f32>,
    /// Instead of the logits, when only most probable tokens are wanted.
    pub(super) greedy: Greedy,
    /// The tokens whose logits are computed: each one once.
    pub(super) sampled_tokens: Vec<usize>,
    /// For each sample the row of its token in `sampled_tokens`.
    sample_rows: Vec<usize>,
}

impl Workspace {
    pub(super) fn new(config: &DecoderConfig, weights: &Weights, threads: usize) -> Self {
        let layers = &weights.layers;
        let (tokens, hidden, samples) = (config.max_num_tokens, config.hidden_size, config.max_sampled());
        let slice = slice_rows(config);
        let normed = Contents::for_readers(layers.iter().flat_map(|layer| [&layer.qkv, &layer.gate, &layer.up]));
        let activated = Contents::for_readers(layers.iter().map(|layer| &layer.down));
        let attended = match Contents::for_readers(layers.iter().map(|layer| &layer.output)) {
            // The codes are made from floats.
            Contents::Codes if !writes_whole_blocks(config.head_dim) => Contents::Both,
            contents => contents,
        };
        let sampled = if weights.pooler.is_some() { Contents::Floats } else { weights.head().reads() };
        Self {
            residual: Activations::new(tokens, hidden, Contents::Floats),
            normed: Activations::new(slice, hidden, normed),
            qkv: Activations::new(tokens, config.qkv_size(), Contents::Floats),
            attended: Activations::new(tokens, config.query_size(), attended),
            activated: Activations::new(slice, config.intermediate_size, activated),
            sampled_residual: Activations::new(samples, hidden, Contents::Floats),
            sampled_attended: Activations::new(samples, config.query_size(), attended),
            sampled: Activations::new(samples, hidden, sampled),
            logits: vec![0.0; config.num_logits()],
            greedy: Greedy::new(threads),
            sampled_tokens: Vec::with_capacity(samples),
            sample_rows: Vec::with_capacity(samples),
        }
    }

    /// Bytes of all rows, in float32 and int8 whatever the weights want.
    pub(super) fn bytes(config: &DecoderConfig) -> usize {
        let (tokens, hidden, samples) = (config.max_num_tokens, config.hidden_size, config.max_sampled());
        let slice = slice_rows(config);
        Activations::bytes(tokens, hidden, Contents::Floats)
            + Activations::bytes(slice, hidden, Contents::Both)
            + Activations::bytes(tokens, config.qkv_size(), Contents::Floats)
            + Activations::bytes(tokens, config.query_size(), Contents::Both)
            + Activations::bytes(slice, config.intermediate_size, Contents::Both)
            + Activations::bytes(samples, hidden, Contents::Floats)
            + Activations::bytes(samples, config.query_size(), Contents::Both)
            + Activations::bytes(samples, hidden, Contents::Both)
            + config.num_logits() * size_of::<f32>()
    }

    /// Finds the tokens that are sampled, and which samples share one: the answers of a request with n > 1 do.
    pub(super) fn distinguish(&mut self, logits_index: &[i32]) {
        self.sampled_tokens.clear();
        self.sample_rows.clear();
        for &index in logits_index {
            let token = index as usize;
            // Samples of one request are neighbours.
            if self.sampled_tokens.last() != Some(&token) {
                self.sampled_tokens.push(token);
            }
            self.sample_rows.push(self.sampled_tokens.len() - 1);
        }
    }

    /// What `greedy` found for each sample.
    pub(super) fn greedy_tokens(&self) -> impl Iterator<Item = Option<usize>> {
        self.sample_rows.iter().map(|&row| self.greedy.token(row))
    }

    /// Gives every sample a row of its own. From the last: a sample's row never lies behind the sample.
    pub(super) fn repeat(&mut self, vocab_size: usize, samples: usize) {
        if self.sampled_tokens.len() < samples {
            for (sample, &row) in self.sample_rows.iter().enumerate().rev() {
                self.logits.copy_within(row * vocab_size..(row + 1) * vocab_size, sample * vocab_size);
            }
        }
    }
}

/// Rows that are between two products at a time.
fn slice_rows(config: &DecoderConfig) -> usize {
    SLICE.min(config.max_num_tokens.max(config.max_num_seqs))
}
