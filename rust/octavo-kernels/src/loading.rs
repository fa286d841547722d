//! A model's parameters, by name while they are loaded.

use std::collections::HashMap;

use crate::linear::{Format, Linear, Stored};
use crate::{CpuKernels, KernelError};

/// The shape of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// rows, columns
    Matrix(usize, usize),
    Vector(usize),
}

/// A model's sizes, as far as loading asks for them.
pub(crate) trait Shapes {
    /// What the model is called in errors.
    const KIND: &'static str;

    /// The shape of the parameter `name`; None when this model has no such parameter.
    fn shape(&self, name: &str) -> Option<Shape>;

    /// The names of all parameters that it cannot lack.
    fn required(&self) -> Vec<String>;
}

/// What has been loaded so far, by name; gate and up, which come as one, by names of their own.
pub(crate) struct Loading {
    missing: Vec<String>,
    matrices: HashMap<String, Linear>,
    vectors: HashMap<String, Vec<f32>>,
}

impl Loading {
    pub(crate) fn new(config: &impl Shapes) -> Self {
        Self { missing: config.required(), matrices: HashMap::new(), vectors: HashMap::new() }
    }

    pub(crate) fn matrix<C: Shapes>(
        &mut self,
        kernels: &CpuKernels,
        config: &C,
        name: &str,
        parts: &[Stored<'_>],
        format: Option<Format>,
    ) -> Result<(), KernelError> {
        let Some(Shape::Matrix(rows, columns)) = config.shape(name) else {
            return Err(KernelError::Config(format!("the {} has no matrix {name:?}", C::KIND)));
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

    pub(crate) fn vector<C: Shapes>(&mut self, config: &C, name: &str, values: &[f32]) -> Result<(), KernelError> {
        match config.shape(name) {
            Some(Shape::Vector(length)) if length == values.len() => {}
            Some(Shape::Vector(length)) => {
                let text = format!("{name} has {} elements, expected {length}", values.len());
                return Err(KernelError::Config(text));
            }
            _ => return Err(KernelError::Config(format!("the {} has no vector {name:?}", C::KIND))),
        }
        self.vectors.insert(name.to_owned(), values.to_vec());
        self.arrived(name);
        Ok(())
    }

    fn arrived(&mut self, name: &str) {
        self.missing.retain(|missing| missing != name);
    }

    /// Ends the loading, so that all that is required can be taken. Errors: names a parameter that is missing.
    pub(crate) fn finish<C: Shapes>(&mut self, config: &C) -> Result<(), KernelError> {
        if let Some(first) = self.missing.first() {
            let others = match self.missing.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            return Err(KernelError::Config(format!("the {} lacks {first}{others}", C::KIND)));
        }
        // From here on nothing is there to be finished once more.
        self.missing = config.required();
        Ok(())
    }

    pub(crate) fn take_matrix(&mut self, name: &str) -> Linear {
        self.matrices.remove(name).expect("nothing that is required is missing")
    }

    pub(crate) fn take_vector(&mut self, name: &str) -> Vec<f32> {
        self.vectors.remove(name).expect("nothing that is required is missing")
    }

    /// A vector that may be missing.
    pub(crate) fn take_optional(&mut self, name: &str) -> Option<Vec<f32>> {
        self.vectors.remove(name)
    }

    /// A matrix with its bias, if it has one.
    pub(crate) fn take_biased(&mut self, name: &str) -> Result<Linear, KernelError> {
        let mut matrix = self.take_matrix(name);
        if let Some(bias) = self.take_optional(&format!("{name}.bias")) {
            matrix.set_bias(&bias)?;
        }
        Ok(matrix)
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
