//! `Encoder`: a whole bidirectional model (BERT), and a whole step of it in one entry into the pool.
//!
//! - `config`: the sizes, and the shape of every parameter by its name;
//! - `weights`: the parameters as layers, and the rows that a step writes;
//! - `step`: the phases of a step;
//! - `attention`: of every token over its own sequence;
//! - `rows`: the row-wise kernels, layer norm and GELU.
//!
//! A step's sequences lie one behind the other, without padding. What comes out of a sequence depends on that sequence
//! alone, to the bit.

mod attention;
mod config;
mod rows;
mod step;
mod weights;

use std::sync::Arc;

pub use config::EncoderConfig;

use crate::decoder::check_indices;
use crate::error::check_length;
use crate::linear::{Format, Stored};
use crate::loading::Loading;
use crate::pooling::Hidden;
use crate::{CpuKernels, KernelError};
use step::Step;
use weights::{Weights, Workspace};

/// An encoder: word, position and type embeddings, added and normed; for each layer attention, added and normed, and a
/// GELU MLP, added and normed. Parameters are loaded by name, then `finish`, then steps.
pub struct Encoder {
    kernels: Arc<CpuKernels>,
    config: EncoderConfig,
    loading: Loading,
    loaded: Option<(Weights, Workspace)>,
}

impl Encoder {
    /// An encoder without parameters. Errors: `Config` for sizes that do not fit each other.
    pub fn new(kernels: Arc<CpuKernels>, config: EncoderConfig) -> Result<Self, KernelError> {
        config.check()?;
        let loading = Loading::new(&config);
        Ok(Self { kernels, config, loading, loaded: None })
    }

    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    pub fn kernels(&self) -> &Arc<CpuKernels> {
        &self.kernels
    }

    /// Packs the matrix `name` from its parts, one below the other. `format` None: each part as it is stored.
    ///
    /// Names and shapes: `config`. Errors: an unknown name, another shape, what `Linear::pack` refuses.
    pub fn load_matrix(&mut self, name: &str, parts: &[Stored<'_>], format: Option<Format>) -> Result<(), KernelError> {
        self.loading.matrix(&self.kernels, &self.config, name, parts, format)
    }

    /// Keeps the norm weights or the bias `name`. Errors as `load_matrix`.
    pub fn load_vector(&mut self, name: &str, values: &[f32]) -> Result<(), KernelError> {
        self.loading.vector(&self.config, name, values)
    }

    /// Ends the loading. Errors: names a parameter that is missing.
    pub fn finish(&mut self) -> Result<(), KernelError> {
        let weights = Weights::finish(&self.kernels, &mut self.loading, &self.config)?;
        let workspace = Workspace::new(&self.config, &weights, self.kernels.threads());
        self.loaded = Some((weights, workspace));
        Ok(())
    }

    /// Bytes of all parameters; 0 before `finish`.
    pub fn weights_bytes(&self) -> usize {
        self.loaded.as_ref().map_or(0, |(weights, _)| weights.bytes())
    }

    /// Bytes that the rows of the largest step take, for the memory plan.
    pub fn workspace_bytes(hidden_size: usize, intermediate_size: usize, max_num_tokens: usize) -> usize {
        Workspace::bytes(hidden_size, intermediate_size, max_num_tokens)
    }

    /// The hidden states of every token, until the next call.
    ///
    /// Sequence i has the tokens query_start[i] to query_start[i + 1], whole; `types` has 0 for the first text of a
    /// pair and 1 for the second. Errors: an index out of range, lengths that do not fit.
    pub fn forward(
        &mut self,
        input_ids: &[i32],
        positions: &[i32],
        types: &[i32],
        query_start: &[i32],
    ) -> Result<Hidden<'_>, KernelError> {
        let config = &self.config;
        let tokens = input_ids.len();
        if tokens > config.max_num_tokens || query_start.is_empty() {
            let text = format!("a step of {tokens} tokens is larger than {}", config.max_num_tokens);
            return Err(KernelError::Config(text));
        }
        check_length("positions", positions.len(), tokens)?;
        check_length("types", types.len(), tokens)?;
        check_indices("input_ids", input_ids, config.vocab_size)?;
        check_indices("positions", positions, config.max_positions)?;
        check_indices("types", types, config.num_types.max(1))?;
        check_indices("query_start", query_start, tokens + 1)?;
        let starts = || query_start.iter().map(|&start| start as usize);
        if !starts().is_sorted() || starts().next() != Some(0) || starts().next_back() != Some(tokens) {
            return Err(KernelError::Config("query_start must rise from 0 to the number of tokens".to_owned()));
        }
        let Some((weights, workspace)) = &mut self.loaded else {
            return Err(KernelError::Config("a parameter may be missing: finish was not called".to_owned()));
        };
        let items = attention::items(query_start, config.num_heads);
        let step =
            Step { kernels: &self.kernels, config, weights, workspace, input_ids, positions, types, items: &items };
        self.kernels.pool.team(|team| step.run(team));
        Ok(Hidden::new(&workspace.residual, tokens, &weights.pooler))
    }
}
