//! Counters, and the clock.

use octavo_wire::Stats;

/// Seconds of CLOCK_MONOTONIC, which all processes of a machine share.
pub(crate) fn now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec to a valid place; this clock exists on every system.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Counts since the engine's start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub prefix_queries: u64,
    pub prefix_hits: u64,
    pub prompt_tokens: u64,
    pub generation_tokens: u64,
    pub num_preemptions: u64,
    pub num_rejected: u64,
    pub num_steps: u64,
    /// Of the last step.
    pub step_tokens: u32,
}

impl Counters {
    /// The counters' part of the state.
    pub fn stats(&self) -> Stats {
        Stats {
            time: now(),
            prefix_queries: self.prefix_queries,
            prefix_hits: self.prefix_hits,
            prompt_tokens: self.prompt_tokens,
            generation_tokens: self.generation_tokens,
            num_preemptions: self.num_preemptions,
            num_rejected: self.num_rejected,
            num_steps: self.num_steps,
            step_tokens: self.step_tokens,
            ..Stats::default()
        }
    }
}
