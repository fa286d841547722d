//! The parameters: by name while they are loaded, then as layers.

use std::collections::HashMap;

use super::config::{DecoderConfig, Shape};
use crate::linear::{Format, Linear, Stored};
use crate::{CpuKernels, KernelError};

/// All parameters of a decoder.
pub(super) struct Weights {
    pub(super) embedding: Linear,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Vec<f32>,
    /// None: the embedding.
    head: Option<Linear>,
}

pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) qkv: Linear,
    /// [head_dim]
    pub(super) query_norm: Option<Vec<f32>>,
    pub(super) key_norm: Option<Vec<f32>>,
    pub(super) output: Linear,
    pub(super) mlp_norm: Vec<f32>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Weights {
    pub(super) fn head(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    pub(super) fn bytes(&self) -> usize {
        let layer_bytes = |layer: &Layer| {
            let matrices = [&layer.qkv, &layer.output, &layer.gate, &layer.up, &layer.down];
            let norms = [
                Some(&layer.attention_norm),
                layer.query_norm.as_ref(),
                layer.key_norm.as_ref(),
                Some(&layer.mlp_norm),
            ];
            matrices.map(Linear::bytes).iter().sum::<usize>()
                + norms.into_iter().flatten().map(|norm| size_of_val(&**norm)).sum::<usize>()
        };
        self.embedding.bytes()
            + self.layers.iter().map(layer_bytes).sum::<usize>()
            + size_of_val(&*self.final_norm)
            + self.head.as_ref().map_or(0, Linear::bytes)
    }
}

/// What has been loaded so far, by name; gate and up, which come as one, by names of their own.
pub(super) struct Loading {
    missing: Vec<String>,
    matrices: HashMap<String, Linear>,
    vectors: HashMap<String, Vec<f32>>,
}

impl Loading {
    pub(super) fn new(config: &DecoderConfig) -> Self {
        Self { missing: config.required(), matrices: HashMap::new(), vectors: HashMap::new() }
    }

    pub(super) fn matrix(
        &mut self,
        kernels: &CpuKernels,
        config: &DecoderConfig,
        name: &str,
        parts: &[Stored<'_>],
        format: Option<Format>,
    ) -> Result<(), KernelError> {
        let Some(Shape::Matrix(rows, columns)) = config.shape(name) else {
            return Err(KernelError::Config(format!("the decoder has no matrix {name:?}")));
        };
        let given: usize = parts.iter().map(|part| part.rows).sum();
        if given != rows {
            return Err(KernelError::Config(format!("{name} has {given} rows, expected {rows}")));
        }
        if let Some(layer) = name.strip_suffix("gate_up") {
            let [gate, up] = parts else {
                return Err(KernelError::Config(format!("{name} has {} parts, expected gate and up", parts.len())));
            };
            if gate.rows != up.rows {
                return Err(KernelError::Config(format!("{name}: gate has {} rows and up {}", gate.rows, up.rows)));
            }
            for (kind, part) in [("gate", gate), ("up", up)] {
                let packed = pack(kernels, name, columns, &[*part], format)?;
                self.matrices.insert(format!("{layer}{kind}"), packed);
            }
        } else {
            self.matrices.insert(name.to_owned(), pack(kernels, name, columns, parts, format)?);
        }
        self.arrived(name);
        Ok(())
    }

    pub(super) fn vector(&mut self, config: &DecoderConfig, name: &str, values: &[f32]) -> Result<(), KernelError> {
        match config.shape(name) {
            Some(Shape::Vector(length)) if length == values.len() => {}
            Some(Shape::Vector(length)) => {
                let text = format!("{name} has {} elements, expected {length}", values.len());
                return Err(KernelError::Config(text));
            }
            _ => return Err(KernelError::Config(format!("the decoder has no vector {name:?}"))),
        }
        self.vectors.insert(name.to_owned(), values.to_vec());
        self.arrived(name);
        Ok(())
    }

    fn arrived(&mut self, name: &str) {
        self.missing.retain(|missing| missing != name);
    }

    pub(super) fn finish(&mut self, config: &DecoderConfig) -> Result<Weights, KernelError> {
        if let Some(first) = self.missing.first() {
            let others = match self.missing.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            return Err(KernelError::Config(format!("the decoder lacks {first}{others}")));
        }
        // From here on nothing is there to be finished once more.
        self.missing = config.required();
        let layers = (0..config.num_layers).map(|layer| self.layer(config, layer)).collect::<Result<_, _>>()?;
        Ok(Weights {
            embedding: self.take_matrix("embedding"),
            layers,
            final_norm: self.take_vector("final_norm"),
            head: (!config.tied_head).then(|| self.take_matrix("head")),
        })
    }

    fn layer(&mut self, config: &DecoderConfig, layer: usize) -> Result<Layer, KernelError> {
        let name = |kind: &str| format!("layers.{layer}.{kind}");
        let with_bias = |loading: &mut Self, kind: &str| {
            let mut matrix = loading.take_matrix(&name(kind));
            if let Some(bias) = loading.vectors.remove(&name(&format!("{kind}.bias"))) {
                matrix.set_bias(&bias)?;
            }
            Ok(matrix)
        };
        let (mut gate, mut up) = (self.take_matrix(&name("gate")), self.take_matrix(&name("up")));
        if let Some(bias) = self.vectors.remove(&name("gate_up.bias")) {
            gate.set_bias(&bias[..config.intermediate_size])?;
            up.set_bias(&bias[config.intermediate_size..])?;
        }
        Ok(Layer {
            attention_norm: self.take_vector(&name("attention_norm")),
            qkv: with_bias(self, "qkv")?,
            query_norm: config.qk_norm.then(|| self.take_vector(&name("query_norm"))),
            key_norm: config.qk_norm.then(|| self.take_vector(&name("key_norm"))),
            output: with_bias(self, "output")?,
            mlp_norm: self.take_vector(&name("mlp_norm")),
            gate,
            up,
            down: with_bias(self, "down")?,
        })
    }

    fn take_matrix(&mut self, name: &str) -> Linear {
        self.matrices.remove(name).expect("nothing that is required is missing")
    }

    fn take_vector(&mut self, name: &str) -> Vec<f32> {
        self.vectors.remove(name).expect("nothing that is required is missing")
    }
}

fn pack(
    kernels: &CpuKernels,
    name: &str,
    columns: usize,
    parts: &[Stored<'_>],
    format: Option<Format>,
) -> Result<Linear, KernelError> {
    Linear::pack(kernels, columns, parts, format).map_err(|error| match error {
        KernelError::Config(text) => KernelError::Config(format!("{name}: {text}")),
        error => error,
    })
}
