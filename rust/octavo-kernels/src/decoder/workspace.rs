//! The rows that a step writes. The system gives their pages as steps first reach them.

use super::config::DecoderConfig;
use super::weights::{Layer, Weights};
use crate::linear::{Activations, Linear};

pub(super) struct Workspace {
    /// [tokens, hidden]: the stream that every block adds to.
    pub(super) residual: Activations,
    /// [tokens, hidden]: its norm, what the products read.
    pub(super) normed: Activations,
    /// [tokens, query, key and value heads]
    pub(super) qkv: Activations,
    /// [tokens, query heads]
    pub(super) attended: Activations,
    /// [tokens, intermediate]
    pub(super) activated: Activations,
    /// [samples, hidden]
    pub(super) sampled: Activations,
    /// [samples, vocab]
    pub(super) logits: Vec<f32>,
    /// The tokens whose logits are computed: each one once.
    pub(super) sampled_tokens: Vec<usize>,
    /// For each sample the row of its token in `sampled_tokens`.
    sample_rows: Vec<usize>,
}

impl Workspace {
    pub(super) fn new(config: &DecoderConfig, weights: &Weights) -> Self {
        let any = |wants: &dyn Fn(&Layer) -> bool| weights.layers.iter().any(wants);
        let normed = any(&|layer| [&layer.qkv, &layer.gate, &layer.up].into_iter().any(Linear::is_quantised));
        let sampled = weights.head().is_quantised();
        let (tokens, hidden) = (config.max_num_tokens, config.hidden_size);
        Self {
            residual: Activations::new(tokens, hidden, false),
            normed: Activations::new(tokens, hidden, normed),
            qkv: Activations::new(tokens, config.qkv_size(), false),
            attended: Activations::new(tokens, config.query_size(), any(&|layer| layer.output.is_quantised())),
            activated: Activations::new(tokens, config.intermediate_size, any(&|layer| layer.down.is_quantised())),
            sampled: Activations::new(config.max_num_seqs, hidden, sampled),
            logits: vec![0.0; config.max_num_seqs * config.vocab_size],
            sampled_tokens: Vec::with_capacity(config.max_num_seqs),
            sample_rows: Vec::with_capacity(config.max_num_seqs),
        }
    }

    /// Bytes of all rows, quantised ones included whether or not the weights want them.
    pub(super) fn bytes(config: &DecoderConfig) -> usize {
        let (tokens, hidden) = (config.max_num_tokens, config.hidden_size);
        Activations::bytes(tokens, hidden, false)
            + Activations::bytes(tokens, hidden, true)
            + Activations::bytes(tokens, config.qkv_size(), false)
            + Activations::bytes(tokens, config.query_size(), true)
            + Activations::bytes(tokens, config.intermediate_size, true)
            + Activations::bytes(config.max_num_seqs, hidden, true)
            + config.max_num_seqs * config.vocab_size * size_of::<f32>()
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

    /// Gives every sample a row of its own. From the last: a sample's row never lies behind the sample.
    pub(super) fn repeat(&mut self, vocab_size: usize, samples: usize) {
        if self.sampled_tokens.len() < samples {
            for (sample, &row) in self.sample_rows.iter().enumerate().rev() {
                self.logits.copy_within(row * vocab_size..(row + 1) * vocab_size, sample * vocab_size);
            }
        }
    }
}
