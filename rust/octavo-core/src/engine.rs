//! The public face of the core. One step is plan, run, commit.

use std::time::Duration;

use octavo_wire::{Report, Stats};
use thiserror::Error;

use crate::arena::{ArenaLayout, Arenas};
use crate::config::EngineConfig;
use crate::plan::{Plan, SampleRow};

/// Why a call to the engine did nothing.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error("{0}")]
    Config(String),
    #[error("epoch {epoch} is not the oldest step in flight")]
    StaleEpoch { epoch: u64 },
    #[error("every arena holds a step that is not committed")]
    NoFreeArena,
    #[error("an arena needs {expected} bytes aligned to 8, this one has {actual}")]
    Arena { expected: usize, actual: usize },
    #[error("the system gave no random bytes: {0}")]
    Random(String),
    #[error("{0}")]
    Integrity(String),
}

/// Where reports go: the wire's `Sender`, or a test.
pub trait ReportSink: Send {
    fn send(&mut self, report: &Report) -> Result<(), SinkClosed>;
}

/// The front end has gone.
#[derive(Debug, Error)]
#[error("the front end has gone")]
pub struct SinkClosed;

/// The life of every request. All methods are to be called by one thread at a time; arrivals come in beside them.
pub struct Engine {
    layout: ArenaLayout,
    config: EngineConfig,
}

impl Engine {
    /// An engine that speaks through `endpoint`; starts the thread that reads it.
    pub fn connect(_config: EngineConfig /* , endpoint: octavo_wire::Endpoint */) -> Result<Engine, EngineError> {
        unimplemented!()
    }
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }
    pub fn arena_layout(&self) -> &ArenaLayout {
        &self.layout
    }
    pub fn num_arenas(&self) -> usize {
        crate::arena::NUM_ARENAS
    }
    /// Tells the front end that the engine serves.
    pub fn ready(&mut self, _info: String) {
        unimplemented!()
    }
    /// Drains arrivals and aborts, schedules, and fills an arena. Waits at most `timeout` for work.
    pub fn plan(&mut self, _timeout: Duration, _arenas: &mut dyn Arenas) -> Result<Option<Plan>, EngineError> {
        unimplemented!()
    }
    /// What the sampler needs, one item for each sample of the step, in order.
    pub fn sampling(&self, _epoch: u64) -> Result<impl ExactSizeIterator<Item = SampleRow<'_>>, EngineError> {
        Ok(std::iter::empty())
    }
    /// The plan of a step in flight.
    pub fn step(&self, _epoch: u64) -> Result<Plan, EngineError> {
        unimplemented!()
    }
    /// Takes the output columns of the oldest step in flight.
    pub fn commit(&mut self, _epoch: u64, _arenas: &mut dyn Arenas) -> Result<(), EngineError> {
        unimplemented!()
    }
    /// The oldest step in flight could not run: its requests fail with `message`, the others go on.
    pub fn fail(&mut self, _epoch: u64, _message: &str) -> Result<(), EngineError> {
        unimplemented!()
    }
    /// The front end has gone, or draining is done.
    pub fn closed(&self) -> bool {
        unimplemented!()
    }
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// `EngineError::Integrity` when a block is lost or counted twice, or a table disagrees with its request.
    pub fn check_integrity(&self) -> Result<(), EngineError> {
        unimplemented!()
    }
}
