//! A fixed set of threads which enter one closure together (SPMD).
//!
//! `Pool::run` calls the closure once on each thread, the caller's included, and returns when all are done. Work is
//! shared out dynamically: `for_each` hands out indices by an atomic counter; `Rows` lets each thread
//! write its own rows of a slice. `Pool::team` is for work in many phases, like a whole forward pass: its threads enter
//! once, and wait for the end of each phase.
//! Waits spin for some microseconds, since most are short, then block.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// About the pause between two entries of a layer; longer spins take the cores from whoever runs between them.
const SPIN: Duration = Duration::from_micros(20);

/// Within a job the cores are ours, and to be woken takes longer than the end of most phases.
const TEAM_SPIN: Duration = Duration::from_micros(100);

type Job<'a> = dyn Fn(usize) + Sync + 'a;
type Panic = Box<dyn Any + Send>;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// See the module's text. Calls from several threads take turns.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the thread that runs a job.
    entry: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts the jobs; a change is the signal to start.
    job_number: AtomicU64,
    start: Gate,
    /// Workers that have not finished the job.
    unfinished: AtomicUsize,
    finish: Gate,
    stopping: AtomicBool,
    job: UnsafeCell<Option<*const Job<'static>>>,
    panic: Mutex<Option<Panic>>,
    phases: Phases,
}

/// The phases of a team's job.
#[derive(Default)]
struct Phases {
    /// The phase in the upper half, the next index of its work in the lower: a thread that was away takes nothing of a
    /// phase which it does not know to be over.
    ticket: AtomicU64,
    /// Indices of this phase that are done.
    done: AtomicUsize,
    /// A thread has panicked, and what it had taken will not be done.
    broken: AtomicBool,
    gate: Gate,
}

const INDEX_BITS: u32 = 32;

/// One thread of a job whose threads work through the same phases. Every thread makes the same calls.
///
/// A phase is over when its work is done, not when every thread has come: whoever the system keeps from running holds
/// up nobody unless it has taken an index, and finds the phases over that it has missed.
pub struct Team<'a> {
    thread: usize,
    threads: usize,
    phase: Cell<u64>,
    phases: &'a Phases,
}

/// The panic of a thread whose team has lost another one.
struct Abandoned;

// SAFETY: `job` is written by the caller that holds `entry`, only while every worker waits at `start`, and read by the
// workers only after the change of `job_number`, whose release and acquire order the two. The rest is Sync by itself.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` refers to a Sync closure, and is used only while `Pool::run` keeps that closure alive.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, one of which is whoever calls `run`.
    ///
    /// # Panics
    /// When `threads` is 0 or the system refuses a thread.
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "a pool has at least one thread");
        let shared = Arc::new(Shared {
            job_number: AtomicU64::new(0),
            start: Gate::default(),
            unfinished: AtomicUsize::new(0),
            finish: Gate::default(),
            stopping: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            phases: Phases::default(),
        });
        let workers = (1..threads)
            .map(|thread| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("octavo-cpu-{thread}"))
                    .spawn(move || shared.work(thread))
                    .expect("the system starts a thread")
            })
            .collect();
        Self { shared, entry: Mutex::new(()), workers }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(thread)` once for each thread number below `threads()`, and returns when all calls have.
    ///
    /// # Panics
    /// With the first panic of the job, after every thread has left it; and when called from inside a job.
    pub fn run(&self, job: impl Fn(usize) + Sync) {
        assert!(!INSIDE.get(), "a job must not enter a pool");
        let _entry = lock(&self.entry);
        let shared = &*self.shared;
        shared.phases.reset();
        let job: &Job<'_> = &job;
        // SAFETY: only the lifetime changes. No worker uses the pointer after `unfinished` has come to 0, and this
        // function waits for that before it returns or unwinds, so the closure outlives every use.
        let pointer = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(std::ptr::from_ref(job)) };
        // SAFETY: `entry` is held and no job runs, so every worker waits at `start` and none reads `job`.
        unsafe { *shared.job.get() = Some(pointer) };
        shared.unfinished.store(self.workers.len(), Ordering::Relaxed);
        shared.job_number.fetch_add(1, Ordering::SeqCst);
        shared.start.wake();
        shared.enter(|| job(0));
        shared.finish.wait_until(SPIN, || shared.unfinished.load(Ordering::SeqCst) == 0);
        let panic = lock(&shared.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// `run` for work in phases: see `Team`. A panic of one thread ends the job on all.
    pub fn team(&self, job: impl Fn(&Team<'_>) + Sync) {
        let threads = self.threads();
        self.run(|thread| {
            let team = Team { thread, threads, phase: Cell::new(0), phases: &self.shared.phases };
            let _guard = BreakOnPanic(team.phases);
            job(&team);
        });
    }

    /// Calls `body(thread, index)` once for each index below `count`, in whatever order threads become free. A single
    /// index runs on the calling thread.
    pub fn for_each(&self, count: usize, body: impl Fn(usize, usize) + Sync) {
        if count == 1 {
            return body(0, 0);
        }
        let next = AtomicUsize::new(0);
        self.run(|thread| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                body(thread, index);
            }
        });
    }

    /// Shares out `0..count` in ranges of `grain`; one range runs on the calling thread and wakes nobody.
    pub(crate) fn for_each_range(&self, count: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
        let grain = grain.max(1);
        if count <= grain {
            return body(0..count);
        }
        self.for_each(count.div_ceil(grain), |_, index| {
            let begin = index * grain;
            body(begin..count.min(begin + grain));
        });
    }
}

impl Phases {
    /// Only between jobs.
    fn reset(&self) {
        self.ticket.store(0, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
    }

    /// The next index of `phase`, or None when there is none left or the phase is over.
    fn take(&self, phase: u64, count: usize) -> Option<usize> {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        loop {
            let index = (ticket & ((1 << INDEX_BITS) - 1)) as usize;
            if ticket >> INDEX_BITS != phase || index >= count {
                return None;
            }
            match self.ticket.compare_exchange_weak(ticket, ticket + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(newer) => ticket = newer,
            }
        }
    }

    /// Counts an index of `phase`; the last one begins the next phase.
    fn finish(&self, phase: u64, count: usize) {
        if self.done.fetch_add(1, Ordering::AcqRel) + 1 == count {
            self.done.store(0, Ordering::Relaxed);
            self.ticket.store((phase + 1) << INDEX_BITS, Ordering::SeqCst);
            self.gate.wake();
        }
    }

    /// Unwinds when another thread has.
    fn wait_for_end(&self, phase: u64) {
        let is_over = || self.ticket.load(Ordering::SeqCst) >> INDEX_BITS != phase;
        let is_broken = || self.broken.load(Ordering::SeqCst);
        self.gate.wait_until(TEAM_SPIN, || is_over() || is_broken());
        if is_broken() {
            resume_unwind(Box::new(Abandoned));
        }
    }
}

impl Team<'_> {
    /// This thread's number, below `threads()`.
    pub fn thread(&self) -> usize {
        self.thread
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// A phase: each index below `count` goes to whichever thread is free. Returns when all are done; what was written
    /// in the phase is visible to all then.
    ///
    /// What a thread reads outside of `body` may be of a later phase: only a body's reads are in step with the writes.
    pub fn each(&self, count: usize, mut body: impl FnMut(usize)) {
        assert!(count < 1 << INDEX_BITS, "the indices of a phase have 32 bits");
        if count == 0 {
            return;
        }
        let phase = self.phase.get();
        self.phase.set(phase + 1);
        while let Some(index) = self.phases.take(phase, count) {
            body(index);
            self.phases.finish(phase, count);
        }
        self.phases.wait_for_end(phase);
    }

    /// `each` by ranges of at most `grain`.
    pub fn each_range(&self, count: usize, grain: usize, mut body: impl FnMut(Range<usize>)) {
        let grain = grain.max(1);
        self.each(count.div_ceil(grain), |index| body(index * grain..count.min((index + 1) * grain)));
    }
}

/// Sends the others home when a thread unwinds, as the phase will not end.
struct BreakOnPanic<'a>(&'a Phases);

impl Drop for BreakOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::SeqCst);
            self.0.gate.wake();
        }
    }
}

/// A slice cut into rows, which several threads write without meeting.
pub(crate) struct Rows<'a, T> {
    pointer: *mut T,
    count: usize,
    row_len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: `row` is the only access, and its callers keep the rows apart.
unsafe impl<T: Send> Sync for Rows<'_, T> {}

impl<'a, T> Rows<'a, T> {
    pub(crate) fn new(slice: &'a mut [T], row_len: usize) -> Self {
        let count = slice.len().checked_div(row_len).unwrap_or(0);
        Self { pointer: slice.as_mut_ptr(), count, row_len, slice: PhantomData }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// # Safety
    /// Nobody else holds this row.
    #[expect(clippy::mut_from_ref, reason = "the point of the type: disjoint rows from one shared handle")]
    pub(crate) unsafe fn row(&self, index: usize) -> &mut [T] {
        assert!(index < self.count);
        // SAFETY: row `index` lies inside the slice that this value borrows mutably, and is the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(index * self.row_len), self.row_len) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.job_number.fetch_add(1, Ordering::SeqCst);
        self.shared.start.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its jobs, so there is no result to look at.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            self.start.wait_until(SPIN, || self.job_number.load(Ordering::SeqCst) != seen);
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            seen += 1;
            // SAFETY: `Pool::run` stored the pointer before it raised `job_number`, and keeps the closure alive until
            // `unfinished` is 0, which waits for this thread's decrement below.
            let job = unsafe { &*(*self.job.get()).expect("a job was stored before its number was raised") };
            self.enter(|| job(thread));
            if self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.finish.wake();
            }
        }
    }

    /// Runs one thread's share of a job and keeps its panic.
    fn enter(&self, share: impl FnOnce()) {
        INSIDE.set(true);
        let result = catch_unwind(AssertUnwindSafe(share));
        INSIDE.set(false);
        if let Err(panic) = result {
            let mut first = lock(&self.panic);
            if first.as_ref().is_none_or(|first| first.is::<Abandoned>()) {
                *first = Some(panic);
            }
        }
    }
}

/// Where threads wait for a condition on atomics: spinning first, then asleep.
///
/// A sleeper counts itself before it looks at the condition again; a waker changes the condition before it looks at the
/// count. With sequentially consistent operations on both sides, one of the two sees the other.
#[derive(Default)]
struct Gate {
    sleepers: AtomicUsize,
    mutex: Mutex<()>,
    condvar: Condvar,
}

impl Gate {
    fn wait_until(&self, spin: Duration, open: impl Fn() -> bool) {
        let begin = Instant::now();
        loop {
            for _ in 0..64 {
                if open() {
                    return;
                }
                std::hint::spin_loop();
            }
            if begin.elapsed() > spin {
                break;
            }
        }
        let mut guard = lock(&self.mutex);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !open() {
            guard = self.condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // The lock makes this wait until a thread that has just counted itself really sleeps.
            drop(lock(&self.mutex));
            self.condvar.notify_all();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
