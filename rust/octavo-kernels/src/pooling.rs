//! From hidden states to what a request asked for: one vector of a sequence, one of each token, or labels.
//!
//! `Pooler` belongs to a model, `PoolTask` to a request. A sequence is pooled by itself, so its numbers do not depend on
//! the others of a step.

use std::ops::Range;

use crate::linear::{Activations, Linear};
use crate::loading::{Loading, Shape};
use crate::{CpuKernels, KernelError};

/// Which of a sequence's tokens make its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    /// The first.
    First,
    Last,
    Mean,
    /// The largest of each element.
    Max,
}

/// How a model's numbers for labels become what is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelActivation {
    Identity,
    Sigmoid,
    Softmax,
}

/// How a model pools; parameters: "pooler" and "classifier", with their biases.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolerConfig {
    pub kind: PoolKind,
    /// Vectors of length one, unless a request says otherwise.
    pub normalize: bool,
    pub activation: LabelActivation,
    /// A product and a tanh before the classifier (BERT's pooler).
    pub dense: bool,
    /// 0: there is no classifier.
    pub num_labels: usize,
}

/// What is wanted of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolTask {
    /// Numbers for labels, instead of vectors.
    pub labels: bool,
    /// For each token, instead of for all of them.
    pub each_token: bool,
    /// Leading elements of a vector to keep.
    pub dimensions: Option<usize>,
    /// Vectors of length one, or labels activated; None: as the model does.
    pub normalize: Option<bool>,
}

/// Rows of hidden states that a step has made, and the pooler of their model.
#[derive(Clone, Copy)]
pub struct Hidden<'a> {
    rows: &'a Activations,
    count: usize,
    pooler: &'a Pooler,
}

impl<'a> Hidden<'a> {
    /// The rows are floats, and nobody writes them while this lives.
    pub(crate) fn new(rows: &'a Activations, count: usize, pooler: &'a Pooler) -> Self {
        assert!(count <= rows.max_rows() && rows.contents().has_floats());
        Self { rows, count, pooler }
    }

    /// Pools some rows, which are the tokens of one sequence. Returns the sizes of the result, and its numbers.
    ///
    /// Errors: `Config` when the model has no labels.
    ///
    /// # Panics
    /// Without rows.
    pub fn pool(
        &self,
        kernels: &CpuKernels,
        rows: Range<usize>,
        task: PoolTask,
    ) -> Result<(Vec<u32>, Vec<f32>), KernelError> {
        let tokens: Vec<&[f32]> = rows.map(|row| self.row(row)).collect();
        self.pooler.pool(kernels, &tokens, task)
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A token's hidden state.
    pub fn row(&self, index: usize) -> &'a [f32] {
        assert!(index < self.count);
        // SAFETY: inside the memory, which `new`'s caller keeps from being written.
        unsafe { std::slice::from_raw_parts(self.rows.row(index), self.rows.columns()) }
    }
}

/// A model's pooler, with its parameters.
pub(crate) struct Pooler {
    config: PoolerConfig,
    dense: Option<Linear>,
    classifier: Option<Linear>,
}

impl PoolerConfig {
    pub(crate) fn shape(&self, name: &str, hidden: usize) -> Option<Shape> {
        match name {
            "pooler" if self.dense => Some(Shape::Matrix(hidden, hidden)),
            "pooler.bias" if self.dense => Some(Shape::Vector(hidden)),
            "classifier" if self.num_labels > 0 => Some(Shape::Matrix(self.num_labels, hidden)),
            "classifier.bias" if self.num_labels > 0 => Some(Shape::Vector(self.num_labels)),
            _ => None,
        }
    }

    pub(crate) fn required(&self) -> Vec<String> {
        let names = [(self.dense, "pooler"), (self.num_labels > 0, "classifier")];
        names.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_owned()).collect()
    }
}

impl Pooler {
    /// After `Loading::finish`.
    pub(crate) fn finish(loading: &mut Loading, config: &PoolerConfig) -> Result<Self, KernelError> {
        let mut take = |has: bool, name: &str| has.then(|| loading.take_biased(name)).transpose();
        let (dense, classifier) = (take(config.dense, "pooler")?, take(config.num_labels > 0, "classifier")?);
        Ok(Self { config: config.clone(), dense, classifier })
    }

    pub(crate) fn bytes(&self) -> usize {
        [&self.dense, &self.classifier].into_iter().flatten().map(Linear::bytes).sum()
    }

    fn pool(
        &self,
        kernels: &CpuKernels,
        tokens: &[&[f32]],
        task: PoolTask,
    ) -> Result<(Vec<u32>, Vec<f32>), KernelError> {
        let mut rows: Vec<Vec<f32>> = match task.each_token {
            true => tokens.iter().map(|token| token.to_vec()).collect(),
            false => vec![self.combine(tokens)],
        };
        for row in &mut rows {
            if task.labels {
                *row = self.label(kernels, row)?;
                if task.normalize.unwrap_or(true) {
                    activate(row, self.config.activation);
                }
            } else {
                row.truncate(task.dimensions.unwrap_or(row.len()));
                if task.normalize.unwrap_or(self.config.normalize) {
                    normalise(row);
                }
            }
        }
        let width = rows[0].len() as u32;
        let shape = if task.each_token { vec![rows.len() as u32, width] } else { vec![width] };
        Ok((shape, rows.concat()))
    }

    fn combine(&self, tokens: &[&[f32]]) -> Vec<f32> {
        let (first, rest) = tokens.split_first().expect("a sequence has tokens");
        match self.config.kind {
            PoolKind::First => first.to_vec(),
            PoolKind::Last => rest.last().unwrap_or(first).to_vec(),
            PoolKind::Max => rest.iter().fold(first.to_vec(), |mut largest, token| {
                largest.iter_mut().zip(*token).for_each(|(largest, &x)| *largest = largest.max(x));
                largest
            }),
            PoolKind::Mean => {
                let mut sum = rest.iter().fold(first.to_vec(), |mut sum, token| {
                    sum.iter_mut().zip(*token).for_each(|(sum, &x)| *sum += x);
                    sum
                });
                let count = tokens.len() as f32;
                sum.iter_mut().for_each(|sum| *sum /= count);
                sum
            }
        }
    }

    fn label(&self, kernels: &CpuKernels, row: &[f32]) -> Result<Vec<f32>, KernelError> {
        let Some(classifier) = &self.classifier else {
            return Err(KernelError::Config("the model has no labels".to_owned()));
        };
        let mut pooled = Vec::new();
        let mut input = row;
        if let Some(dense) = &self.dense {
            pooled.resize(dense.rows(), 0.0);
            dense.product(kernels, row, 1, &mut pooled)?;
            pooled.iter_mut().for_each(|x| *x = x.tanh());
            input = &pooled;
        }
        let mut labels = vec![0.0; classifier.rows()];
        classifier.product(kernels, input, 1, &mut labels)?;
        Ok(labels)
    }
}

/// To length one. The norm is summed in float64: a vector has hundreds of elements or more.
fn normalise(row: &mut [f32]) {
    let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    // As torch does: a row of zeros stays one.
    let factor = (1.0 / norm.max(1e-12)) as f32;
    row.iter_mut().for_each(|x| *x *= factor);
}

fn activate(row: &mut [f32], activation: LabelActivation) {
    match activation {
        LabelActivation::Identity => {}
        LabelActivation::Sigmoid => row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
        LabelActivation::Softmax => {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            row.iter_mut().for_each(|x| *x = (*x - largest).exp());
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum);
        }
    }
}
