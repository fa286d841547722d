//! The life of a request: queue, prefix hashes, blocks, scheduler, plan and commit.
//!
//! The modules stand in the order in which a request meets them:
//!
//! - `config`: the limits, checked once
//! - `vocabulary`, `turn`, `nesting`, `workers`, `grammar`: structures of the output, compiled and matched beside the
//!   steps; `constraint`: what a sequence is held to
//! - `request`: a request, and its sequences, one for each choice
//! - `queue`: what the I/O thread brings, and the sequences that wait to run
//! - `hash`, `prefix`, `blocks`: full blocks of tokens get a chained hash, are found again by it, and are counted
//! - `scheduler`: which sequences run in a step, and how many tokens of each
//! - `arena`, `plan`: the step as columns, in memory that the backend owns
//! - `attention_work`, `history`: for a GPU, which of its blocks takes which keys, and which tokens its rows have had
//! - `pooling`: prompts that become vectors instead of answers
//! - `beam`: the sequences of a beam search, ranked and derived from each other after each step
//! - `commit`: what the backend sampled goes to the sequences and, as one frame, to the front end
//! - `engine`: the public face: plan, run, commit
//! - `stats`: counters and the clock
//!
//! There is no prefill phase and no decode phase: a sequence has computed tokens, which catch up with all its tokens.
//! Nothing here is `unsafe` for foreign memory: the caller lends its arenas as byte slices, call by call.

mod config;

mod vocabulary;

mod turn;

mod nesting;

mod workers;

mod grammar;

mod constraint;

mod request;

mod queue;

mod hash;

mod prefix;

mod blocks;

mod scheduler;

mod arena;

mod plan;

mod attention_work;

mod history;

mod pooling;

mod beam;

mod commit;

mod engine;

mod stats;

pub use arena::{ArenaLayout, Arenas, Column, Element, HeapArenas};
pub use commit::ReportSink;
pub use config::{DeviceWork, EngineConfig, Policy};
pub use constraint::Mask;
pub use engine::{Engine, EngineError};
pub use hash::BlockHasher;
pub use plan::{LogprobList, Plan, SampleRow};
pub use pooling::{PoolRow, PoolingLimits};
pub use queue::Inbox;
pub use turn::Turn;
pub use vocabulary::{OpenVocabulary, Vocabulary};
