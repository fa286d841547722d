//! The sizes of a decoder, and the name and shape of every parameter.

use crate::KernelError;
use crate::loading::{Shape, Shapes};
use crate::pooling::PoolerConfig;

#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    /// A multiple of 8, at most 256.
    pub head_dim: usize,
    pub intermediate_size: usize,
    pub norm_eps: f32,
    /// RMS norm over each query and key head before the rotation.
    pub qk_norm: bool,
    /// For each layer, how many tokens back it sees, its own included; 0: all.
    pub windows: Vec<usize>,
    /// Factor of the attention scores.
    pub attention_scale: f32,
    /// The head is the embedding.
    pub tied_head: bool,
    /// Even, at most head_dim.
    pub rotary_dim: usize,
    /// Tokens of a step, at most.
    pub max_num_tokens: usize,
    /// Samples of a step, at most.
    pub max_num_seqs: usize,
    /// `Some`: hidden states are pooled, of any tokens of a step, and there are no logits.
    pub pooler: Option<PoolerConfig>,
}

impl DecoderConfig {
    pub(super) fn check(&self) -> Result<(), KernelError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
            ("num_kv_heads", self.num_kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate_size", self.intermediate_size),
            ("max_num_tokens", self.max_num_tokens),
            ("max_num_seqs", self.max_num_seqs),
        ];
        for (name, size) in sizes {
            // Products of three sizes must not overflow, and the index columns are 32 bits wide.
            if size == 0 || size > 1 << 28 {
                return Err(KernelError::Config(format!("{name} is {size}: it must be from 1 to 2^28")));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let text = format!("{} heads cannot share {} key-value heads evenly", self.num_heads, self.num_kv_heads);
            return Err(KernelError::Config(text));
        }
        if self.windows.len() != self.num_layers {
            let text = format!("windows has {} elements, one a layer is {}", self.windows.len(), self.num_layers);
            return Err(KernelError::Config(text));
        }
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            let text =
                format!("rotary_dim is {}: it must be even and at most head_dim, {}", self.rotary_dim, self.head_dim);
            return Err(KernelError::Config(text));
        }
        Ok(())
    }

    pub(super) fn query_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Tokens of a step that go through the last layer's MLP, at most.
    pub(super) fn max_sampled(&self) -> usize {
        if self.pooler.is_some() { self.max_num_tokens.max(self.max_num_seqs) } else { self.max_num_seqs }
    }

    /// Elements of the logits.
    pub(super) fn num_logits(&self) -> usize {
        if self.pooler.is_some() { 0 } else { self.max_num_seqs * self.vocab_size }
    }

    pub(super) fn qkv_size(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }
}

impl Shapes for DecoderConfig {
    const KIND: &'static str = "decoder";

    fn shape(&self, name: &str) -> Option<Shape> {
        use Shape::{Matrix, Vector};
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        if let Some(shape) = self.pooler.as_ref().and_then(|pooler| pooler.shape(name, hidden)) {
            return Some(shape);
        }
        match name {
            "embedding" => return Some(Matrix(self.vocab_size, hidden)),
            "final_norm" => return Some(Vector(hidden)),
            "head" => return (!self.tied_head).then_some(Matrix(self.vocab_size, hidden)),
            _ => {}
        }
        let (layer, kind) = name.strip_prefix("layers.")?.split_once('.')?;
        layer.parse().ok().filter(|&layer: &usize| layer < self.num_layers)?;
        Some(match kind {
            "attention_norm" | "mlp_norm" => Vector(hidden),
            "query_norm" | "key_norm" if self.qk_norm => Vector(self.head_dim),
            "qkv" => Matrix(self.qkv_size(), hidden),
            "qkv.bias" => Vector(self.qkv_size()),
            "output" => Matrix(hidden, self.query_size()),
            "gate_up" => Matrix(2 * inner, hidden),
            "gate_up.bias" => Vector(2 * inner),
            "down" => Matrix(hidden, inner),
            "output.bias" | "down.bias" => Vector(hidden),
            _ => return None,
        })
    }

    /// All parameters but the biases, which a model may lack.
    fn required(&self) -> Vec<String> {
        let mut kinds = vec!["attention_norm", "qkv", "output", "mlp_norm", "gate_up", "down"];
        if self.qk_norm {
            kinds.extend(["query_norm", "key_norm"]);
        }
        let layers =
            (0..self.num_layers).flat_map(|layer| kinds.iter().map(move |kind| format!("layers.{layer}.{kind}")));
        let mut names = vec!["embedding".to_owned()];
        names.extend(layers);
        names.push("final_norm".to_owned());
        if !self.tied_head {
            names.push("head".to_owned());
        }
        names.extend(self.pooler.iter().flat_map(PoolerConfig::required));
        names
    }
}
