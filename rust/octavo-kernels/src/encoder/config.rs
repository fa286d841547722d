//! The sizes of an encoder, and the name and shape of every parameter.

use crate::KernelError;
use crate::loading::{Shape, Shapes};
use crate::pooling::PoolerConfig;

#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub intermediate_size: usize,
    /// Rows of the table of positions.
    pub max_positions: usize,
    /// Rows of the table of types; 0: there is none.
    pub num_types: usize,
    pub norm_eps: f32,
    pub pooler: PoolerConfig,
    /// Tokens of a step, at most.
    pub max_num_tokens: usize,
}

impl EncoderConfig {
    pub(super) fn check(&self) -> Result<(), KernelError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_layers", self.num_layers),
            ("num_heads", self.num_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_positions", self.max_positions),
            ("max_num_tokens", self.max_num_tokens),
        ];
        for (name, size) in sizes {
            // Products of three sizes must not overflow, and the index columns are 32 bits wide.
            if size == 0 || size > 1 << 28 {
                return Err(KernelError::Config(format!("{name} is {size}: it must be from 1 to 2^28")));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) {
            let text = format!("hidden_size {} is not a multiple of num_heads {}", self.hidden_size, self.num_heads);
            return Err(KernelError::Config(text));
        }
        Ok(())
    }

    pub(super) fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }
}

impl Shapes for EncoderConfig {
    const KIND: &'static str = "encoder";

    fn shape(&self, name: &str) -> Option<Shape> {
        use Shape::{Matrix, Vector};
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        if let Some(shape) = self.pooler.shape(name, hidden) {
            return Some(shape);
        }
        match name {
            "embedding" => return Some(Matrix(self.vocab_size, hidden)),
            "positions" => return Some(Matrix(self.max_positions, hidden)),
            "types" => return (self.num_types > 0).then_some(Matrix(self.num_types, hidden)),
            "embedding_norm" | "embedding_norm.bias" => return Some(Vector(hidden)),
            _ => {}
        }
        let (layer, kind) = name.strip_prefix("layers.")?.split_once('.')?;
        layer.parse().ok().filter(|&layer: &usize| layer < self.num_layers)?;
        Some(match kind {
            "attention_norm" | "attention_norm.bias" | "mlp_norm" | "mlp_norm.bias" => Vector(hidden),
            "qkv" => Matrix(3 * hidden, hidden),
            "qkv.bias" => Vector(3 * hidden),
            "output" => Matrix(hidden, hidden),
            "up" => Matrix(inner, hidden),
            "up.bias" => Vector(inner),
            "down" => Matrix(hidden, inner),
            "output.bias" | "down.bias" => Vector(hidden),
            _ => return None,
        })
    }

    /// All parameters but the biases of the products.
    fn required(&self) -> Vec<String> {
        let kinds =
            ["qkv", "output", "attention_norm", "attention_norm.bias", "up", "down", "mlp_norm", "mlp_norm.bias"];
        let layers = (0..self.num_layers).flat_map(|layer| kinds.map(move |kind| format!("layers.{layer}.{kind}")));
        let first = ["embedding", "positions", "embedding_norm", "embedding_norm.bias"].map(str::to_owned);
        let types = (self.num_types > 0).then(|| "types".to_owned());
        first.into_iter().chain(types).chain(layers).chain(self.pooler.required()).collect()
    }
}
