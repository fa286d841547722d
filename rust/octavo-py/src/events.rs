//! What `Frontend.drain` returns, and the engine's statistics.

use pyo3::prelude::*;

/// The engine's state after its newest step.
#[pyclass(frozen, get_all, module = "octavo._core")]
pub struct Stats {
    time: f64,
    num_running: u32,
    num_waiting: u32,
    num_blocks: u32,
    num_used_blocks: u32,
    num_wasted_slots: u32,
    prefix_queries: u64,
    prefix_hits: u64,
    prompt_tokens: u64,
    generation_tokens: u64,
    num_preemptions: u64,
    num_rejected: u64,
    num_steps: u64,
    step_tokens: u32,
}

impl From<octavo_wire::Stats> for Stats {
    fn from(stats: octavo_wire::Stats) -> Self {
        Self {
            time: stats.time,
            num_running: stats.num_running,
            num_waiting: stats.num_waiting,
            num_blocks: stats.num_blocks,
            num_used_blocks: stats.num_used_blocks,
            num_wasted_slots: stats.num_wasted_slots,
            prefix_queries: stats.prefix_queries,
            prefix_hits: stats.prefix_hits,
            prompt_tokens: stats.prompt_tokens,
            generation_tokens: stats.generation_tokens,
            num_preemptions: stats.num_preemptions,
            num_rejected: stats.num_rejected,
            num_steps: stats.num_steps,
            step_tokens: stats.step_tokens,
        }
    }
}
