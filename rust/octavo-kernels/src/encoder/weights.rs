//! The parameters as layers, and the rows that a step writes.

use std::sync::Mutex;

use super::config::EncoderConfig;
use super::step::SLICE;
use crate::linear::{Activations, Contents, Linear};
use crate::loading::Loading;
use crate::pooling::Pooler;
use crate::{CpuKernels, KernelError};

pub(super) struct Weights {
    pub(super) embedding: Linear,
    /// [max_positions, hidden]
    pub(super) positions: Vec<f32>,
    /// [num_types, hidden], or nothing.
    pub(super) types: Vec<f32>,
    pub(super) embedding_norm: Norm,
    pub(super) layers: Vec<Layer>,
    pub(super) pooler: Pooler,
}

pub(super) struct Layer {
    pub(super) qkv: Linear,
    pub(super) output: Linear,
    pub(super) attention_norm: Norm,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) mlp_norm: Norm,
}

pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl Weights {
    /// Errors: names a parameter that is missing.
    pub(super) fn finish(
        kernels: &CpuKernels,
        loading: &mut Loading,
        config: &EncoderConfig,
    ) -> Result<Self, KernelError> {
        loading.finish(config)?;
        let positions = floats(kernels, &loading.take_matrix("positions"));
        let types = if config.num_types > 0 { floats(kernels, &loading.take_matrix("types")) } else { Vec::new() };
        Ok(Weights {
            embedding: loading.take_matrix("embedding"),
            positions,
            types,
            embedding_norm: Norm::take(loading, "embedding_norm"),
            layers: (0..config.num_layers).map(|layer| Layer::take(loading, layer)).collect::<Result<_, _>>()?,
            pooler: Pooler::finish(loading, &config.pooler)?,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let layer_bytes = |layer: &Layer| {
            [&layer.qkv, &layer.output, &layer.up, &layer.down].map(Linear::bytes).iter().sum::<usize>()
                + layer.attention_norm.bytes()
                + layer.mlp_norm.bytes()
        };
        self.embedding.bytes()
            + size_of_val(&*self.positions)
            + size_of_val(&*self.types)
            + self.embedding_norm.bytes()
            + self.layers.iter().map(layer_bytes).sum::<usize>()
            + self.pooler.bytes()
    }
}

impl Layer {
    fn take(loading: &mut Loading, layer: usize) -> Result<Self, KernelError> {
        let name = |kind: &str| format!("layers.{layer}.{kind}");
        Ok(Layer {
            qkv: loading.take_biased(&name("qkv"))?,
            output: loading.take_biased(&name("output"))?,
            attention_norm: Norm::take(loading, &name("attention_norm")),
            up: loading.take_biased(&name("up"))?,
            down: loading.take_biased(&name("down"))?,
            mlp_norm: Norm::take(loading, &name("mlp_norm")),
        })
    }
}

impl Norm {
    fn take(loading: &mut Loading, name: &str) -> Self {
        Norm { weight: loading.take_vector(name), bias: loading.take_vector(&format!("{name}.bias")) }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.weight) + size_of_val(&*self.bias)
    }
}

/// A table of rows that are looked up and added.
fn floats(kernels: &CpuKernels, matrix: &Linear) -> Vec<f32> {
    let mut rows = vec![0.0; matrix.rows() * matrix.columns()];
    for (index, row) in rows.chunks_exact_mut(matrix.columns()).enumerate() {
        matrix.read_row(kernels, index, row);
    }
    rows
}

pub(super) struct Workspace {
    /// [tokens, hidden]: the stream that every block adds to and norms.
    pub(super) residual: Activations,
    /// [tokens, query, key and value heads]
    pub(super) qkv: Activations,
    /// [tokens, hidden]
    pub(super) attended: Activations,
    /// [slice, intermediate]
    pub(super) activated: Activations,
    /// By thread: keys, values and scores of an item of attention.
    pub(super) scratch: Vec<Mutex<Vec<f32>>>,
}

impl Workspace {
    pub(super) fn new(config: &EncoderConfig, weights: &Weights, threads: usize) -> Self {
        let layers = &weights.layers;
        let (tokens, hidden) = (config.max_num_tokens, config.hidden_size);
        // All are written as floats first.
        let readers = |matrices: Vec<&Linear>| match Contents::for_readers(matrices) {
            Contents::Floats => Contents::Floats,
            Contents::Codes | Contents::Both => Contents::Both,
        };
        Self {
            residual: Activations::new(
                tokens,
                hidden,
                readers(layers.iter().flat_map(|layer| [&layer.qkv, &layer.up]).collect()),
            ),
            qkv: Activations::new(tokens, 3 * hidden, Contents::Floats),
            attended: Activations::new(tokens, hidden, readers(layers.iter().map(|layer| &layer.output).collect())),
            activated: Activations::new(
                SLICE.min(tokens),
                config.intermediate_size,
                readers(layers.iter().map(|layer| &layer.down).collect()),
            ),
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    /// Bytes of all rows, in float32 and int8 whatever the weights want.
    pub(super) fn bytes(hidden: usize, intermediate: usize, tokens: usize) -> usize {
        2 * Activations::bytes(tokens, hidden, Contents::Both)
            + Activations::bytes(tokens, 3 * hidden, Contents::Floats)
            + Activations::bytes(SLICE.min(tokens), intermediate, Contents::Both)
    }
}
