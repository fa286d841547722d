//! What the parts of a step take. Runs on one thread, and only when asked to.

use std::time::{Duration, Instant};

/// Kinds of phases. A phase ends for all threads together, so one thread's clock tells the step's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepPart {
    /// Embedding lookup, norms, quantised activations.
    Norm,
    Qkv,
    /// Rotation, K and V into the cache.
    Store,
    Attention,
    Output,
    /// Gate, up, and what joins them.
    GateUp,
    Down,
    /// The head, with its norm.
    Head,
}

impl StepPart {
    pub const ALL: [StepPart; 8] = [
        StepPart::Norm,
        StepPart::Qkv,
        StepPart::Store,
        StepPart::Attention,
        StepPart::Output,
        StepPart::GateUp,
        StepPart::Down,
        StepPart::Head,
    ];

    pub fn name(self) -> &'static str {
        match self {
            StepPart::Norm => "norm",
            StepPart::Qkv => "qkv",
            StepPart::Store => "store",
            StepPart::Attention => "attention",
            StepPart::Output => "output",
            StepPart::GateUp => "gate_up",
            StepPart::Down => "down",
            StepPart::Head => "head",
        }
    }
}

/// Times by `StepPart`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PartTimes([Duration; StepPart::ALL.len()]);

impl PartTimes {
    pub fn of(&self, part: StepPart) -> Duration {
        self.0[part as usize]
    }

    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}

pub(super) struct Clock(Option<(Instant, PartTimes)>);

impl Clock {
    pub(super) fn new(runs: bool) -> Self {
        Self(runs.then(|| (Instant::now(), PartTimes::default())))
    }

    /// `part` ends here; it began where the one before ended.
    #[inline]
    pub(super) fn ends(&mut self, part: StepPart) {
        if let Some((last, times)) = &mut self.0 {
            let now = Instant::now();
            times.0[part as usize] += now - *last;
            *last = now;
        }
    }

    pub(super) fn stop(self) -> Option<PartTimes> {
        self.0.map(|(_, times)| times)
    }
}
