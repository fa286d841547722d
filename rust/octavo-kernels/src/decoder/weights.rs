//! The parameters as layers.

use super::config::DecoderConfig;
use crate::KernelError;
use crate::linear::Linear;
use crate::loading::Loading;
use crate::pooling::Pooler;

/// All parameters of a decoder.
pub(super) struct Weights {
    pub(super) embedding: Linear,
    pub(super) layers: Vec<Layer>,
    pub(super) final_norm: Vec<f32>,
    /// None: the embedding.
    head: Option<Linear>,
    pub(super) pooler: Option<Pooler>,
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
    /// Errors: names a parameter that is missing.
    pub(super) fn finish(loading: &mut Loading, config: &DecoderConfig) -> Result<Self, KernelError> {
        loading.finish(config)?;
        let layers =
            (0..config.num_layers).map(|layer| Layer::take(loading, config, layer)).collect::<Result<_, _>>()?;
        Ok(Weights {
            embedding: loading.take_matrix("embedding"),
            layers,
            final_norm: loading.take_vector("final_norm"),
            head: (!config.tied_head).then(|| loading.take_matrix("head")),
            pooler: config.pooler.as_ref().map(|pooler| Pooler::finish(loading, pooler)).transpose()?,
        })
    }

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
            + self.pooler.as_ref().map_or(0, Pooler::bytes)
    }
}

impl Layer {
    fn take(loading: &mut Loading, config: &DecoderConfig, layer: usize) -> Result<Self, KernelError> {
        let name = |kind: &str| format!("layers.{layer}.{kind}");
        let (mut gate, mut up) = (loading.take_matrix(&name("gate")), loading.take_matrix(&name("up")));
        if let Some(bias) = loading.take_optional(&name("gate_up.bias")) {
            gate.set_bias(&bias[..config.intermediate_size])?;
            up.set_bias(&bias[config.intermediate_size..])?;
        }
        Ok(Layer {
            attention_norm: loading.take_vector(&name("attention_norm")),
            qkv: loading.take_biased(&name("qkv"))?,
            query_norm: config.qk_norm.then(|| loading.take_vector(&name("query_norm"))),
            key_norm: config.qk_norm.then(|| loading.take_vector(&name("key_norm"))),
            output: loading.take_biased(&name("output"))?,
            mlp_norm: loading.take_vector(&name("mlp_norm")),
            gate,
            up,
            down: loading.take_biased(&name("down"))?,
        })
    }
}
