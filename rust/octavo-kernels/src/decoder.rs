//! `Decoder`: a whole model, and a whole step of it in one entry into the pool.
//!
//! - `config`: the sizes, and the shape of every parameter by its name;
//! - `weights`: the parameters as layers;
//! - `workspace`: the rows that a step writes;
//! - `step`: the phases of a step;
//! - `greedy`: the most probable tokens instead of logits;
//! - `clock`: what each kind of phase takes, for those who ask.

mod clock;
mod config;
mod greedy;
mod step;
mod weights;
mod workspace;

use std::sync::Arc;

pub use clock::{PartTimes, StepPart};
pub use config::DecoderConfig;

use crate::error::check_length;
use crate::linear::{Format, Stored};
use crate::loading::Loading;
use crate::pooling::Hidden;
use crate::{CpuKernels, KernelError, KvCache};
use clock::Clock;
use step::Step;
use weights::Weights;
use workspace::Workspace;

/// What a step ends with.
#[derive(Clone, Copy)]
enum Head {
    Logits,
    /// The most probable tokens.
    Greedy,
    /// Hidden states, normed.
    Hidden,
}

/// A decoder-only transformer: embedding; for each layer RMS norm, attention, RMS norm, gated SiLU MLP, each added to
/// the residual; a norm and the head. Parameters are loaded by name, then `finish`, then steps.
pub struct Decoder {
    kernels: Arc<CpuKernels>,
    config: DecoderConfig,
    /// [max_position, rotary_dim]: cosines in the first half of a row, sines in the second.
    cos_sin: Vec<f32>,
    loading: Loading,
    loaded: Option<(Weights, Workspace)>,
}

impl Decoder {
    /// A decoder without parameters. Errors: `Config` for sizes that do not fit each other.
    pub fn new(kernels: Arc<CpuKernels>, config: DecoderConfig, cos_sin: Vec<f32>) -> Result<Self, KernelError> {
        config.check()?;
        if !cos_sin.len().is_multiple_of(config.rotary_dim) {
            let text = format!("cos_sin has {} elements, not a multiple of {}", cos_sin.len(), config.rotary_dim);
            return Err(KernelError::Config(text));
        }
        let loading = Loading::new(&config);
        Ok(Self { kernels, config, cos_sin, loading, loaded: None })
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn kernels(&self) -> &Arc<CpuKernels> {
        &self.kernels
    }

    /// Packs the matrix `name` from its parts, one below the other. `format` None: each part as it is stored.
    ///
    /// Names and shapes: `config`. What was loaded under the name before is replaced. Errors: an unknown name, another
    /// shape, what `Linear::pack` refuses.
    pub fn load_matrix(&mut self, name: &str, parts: &[Stored<'_>], format: Option<Format>) -> Result<(), KernelError> {
        self.loading.matrix(&self.kernels, &self.config, name, parts, format)
    }

    /// Keeps the norm weights or the bias `name`. Errors as `load_matrix`.
    pub fn load_vector(&mut self, name: &str, values: &[f32]) -> Result<(), KernelError> {
        self.loading.vector(&self.config, name, values)
    }

    /// Ends the loading. Errors: names a parameter that is missing.
    pub fn finish(&mut self) -> Result<(), KernelError> {
        let weights = Weights::finish(&mut self.loading, &self.config)?;
        let workspace = Workspace::new(&self.config, &weights, self.kernels.threads());
        self.loaded = Some((weights, workspace));
        Ok(())
    }

    /// Bytes of all parameters; 0 before `finish`.
    pub fn weights_bytes(&self) -> usize {
        self.loaded.as_ref().map_or(0, |(weights, _)| weights.bytes())
    }

    /// Bytes that the rows of the largest step take, for the memory plan.
    pub fn workspace_bytes(config: &DecoderConfig) -> usize {
        Workspace::bytes(config)
    }

    /// The logits of the tokens logits_index[s]: [s, vocab_size], until the next call.
    ///
    /// `cache` has begun a step of as many tokens as input_ids and positions. Errors: an index out of range, lengths
    /// that do not fit, a cache of other sizes or of other kernels. The cache's content is unspecified after an error
    /// only for the tokens of this step.
    pub fn forward(
        &mut self,
        cache: &mut KvCache,
        input_ids: &[i32],
        positions: &[i32],
        logits_index: &[i32],
    ) -> Result<&mut [f32], KernelError> {
        self.run(cache, input_ids, positions, logits_index, Head::Logits, false)?;
        let vocab_size = self.config.vocab_size;
        let workspace = &mut self.loaded.as_mut().expect("a step has run").1;
        workspace.repeat(vocab_size, logits_index.len());
        Ok(&mut workspace.logits[..logits_index.len() * vocab_size])
    }

    /// `forward`, and the token that `CpuKernels::sample` takes for a row that `is_greedy`, of each sample. None: there
    /// is none. No logits are stored.
    pub fn forward_greedy(
        &mut self,
        cache: &mut KvCache,
        input_ids: &[i32],
        positions: &[i32],
        logits_index: &[i32],
    ) -> Result<impl Iterator<Item = Option<usize>>, KernelError> {
        self.run(cache, input_ids, positions, logits_index, Head::Greedy, false)?;
        Ok(self.loaded.as_ref().expect("a step has run").1.greedy_tokens())
    }

    /// The hidden states of the tokens index[i], normed, until the next call; of a decoder that pools. No index twice.
    pub fn forward_hidden(
        &mut self,
        cache: &mut KvCache,
        input_ids: &[i32],
        positions: &[i32],
        index: &[i32],
    ) -> Result<Hidden<'_>, KernelError> {
        self.run(cache, input_ids, positions, index, Head::Hidden, false)?;
        let (weights, workspace) = self.loaded.as_ref().expect("a step has run");
        let pooler = weights.pooler.as_ref().expect("check_step saw that it pools");
        Ok(Hidden::new(&workspace.sampled, index.len(), pooler))
    }

    /// What the parts of `forward_greedy` take.
    pub fn forward_timed(
        &mut self,
        cache: &mut KvCache,
        input_ids: &[i32],
        positions: &[i32],
        logits_index: &[i32],
    ) -> Result<PartTimes, KernelError> {
        self.run(cache, input_ids, positions, logits_index, Head::Greedy, true)
    }

    fn run(
        &mut self,
        cache: &mut KvCache,
        input_ids: &[i32],
        positions: &[i32],
        logits_index: &[i32],
        head: Head,
        timed: bool,
    ) -> Result<PartTimes, KernelError> {
        self.check_step(cache, input_ids, positions, logits_index, head)?;
        let config = &self.config;
        cache.prepare(config.num_heads / config.num_kv_heads);
        let Some((weights, workspace)) = &mut self.loaded else {
            return Err(KernelError::Config("a parameter may be missing: finish was not called".to_owned()));
        };
        workspace.distinguish(logits_index);
        let logits = match head {
            Head::Logits => Some(workspace.logits.as_mut_ptr()),
            Head::Greedy => {
                workspace.greedy.begin(workspace.sampled_tokens.len());
                None
            }
            Head::Hidden => None,
        };
        let step = Step {
            kernels: &self.kernels,
            config,
            weights,
            workspace,
            cache,
            input_ids,
            positions,
            cos_sin: &self.cos_sin,
            logits,
        };
        let times = std::sync::Mutex::new(PartTimes::default());
        self.kernels.pool.team(|team| {
            let mut clock = Clock::new(timed && team.thread() == 0);
            step.run(team, &mut clock);
            if let Some(parts) = clock.stop() {
                *crate::pool::lock(&times) = parts;
            }
        });
        Ok(times.into_inner().unwrap_or_default())
    }

    fn check_step(
        &self,
        cache: &KvCache,
        input_ids: &[i32],
        positions: &[i32],
        logits_index: &[i32],
        head: Head,
    ) -> Result<(), KernelError> {
        let config = &self.config;
        if matches!(head, Head::Hidden) != config.pooler.is_some() {
            return Err(KernelError::Config("a decoder that pools has hidden states, another one logits".to_owned()));
        }
        let tokens = input_ids.len();
        if tokens > config.max_num_tokens || logits_index.len() > config.max_sampled() {
            let text = format!(
                "a step of {tokens} tokens and {} samples is larger than {} and {}",
                logits_index.len(),
                config.max_num_tokens,
                config.max_sampled()
            );
            return Err(KernelError::Config(text));
        }
        check_length("positions", positions.len(), tokens)?;
        check_length("slot_mapping", cache.num_tokens, tokens)?;
        check_indices("input_ids", input_ids, config.vocab_size)?;
        check_indices("positions", positions, self.cos_sin.len() / config.rotary_dim)?;
        check_indices("logits_index", logits_index, tokens)?;
        let sizes = cache.config();
        if (sizes.num_layers, sizes.num_kv_heads, sizes.head_dim)
            != (config.num_layers, config.num_kv_heads, config.head_dim)
        {
            return Err(KernelError::Config("the KV cache was made for another model".to_owned()));
        }
        if !Arc::ptr_eq(&cache.kernels, &self.kernels) {
            return Err(KernelError::Config("decoder and KV cache must share their kernels".to_owned()));
        }
        Ok(())
    }
}

pub(crate) fn check_indices(name: &'static str, column: &[i32], limit: usize) -> Result<(), KernelError> {
    let wrong = column.iter().position(|&value| usize::try_from(value).map_or(true, |value| value >= limit));
    match wrong {
        None => Ok(()),
        Some(at) => {
            let (value, limit) = (i64::from(column[at]), limit as i64);
            Err(KernelError::Index { name, at, value, limit })
        }
    }
}
