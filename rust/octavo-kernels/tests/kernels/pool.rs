//! The pool under stress: every index once, panics handed on, joined on drop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use octavo_kernels::Pool;

#[test]
fn run_enters_each_thread_once() {
    for threads in 1..6 {
        let pool = Pool::new(threads);
        for _ in 0..500 {
            let entered: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            pool.run(|thread| {
                entered[thread].fetch_add(1, Ordering::Relaxed);
            });
            assert!(entered.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn for_each_gives_each_index_once() {
    let pool = Pool::new(3);
    for count in [0, 1, 2, 3, 100, 1000] {
        let given: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        pool.for_each(count, |_, index| {
            given[index].fetch_add(1, Ordering::Relaxed);
        });
        assert!(given.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = Arc::new(Pool::new(3));
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    pool.for_each(7, |_, index| {
                        total.fetch_add(index, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 4 * 300 * 21);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_stays_usable() {
    let pool = Pool::new(3);
    for culprit in 0..3 {
        let left = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(|thread| {
                if thread == culprit {
                    panic!("thread {thread} fails");
                }
                left.fetch_add(1, Ordering::Relaxed);
            });
        }));
        let message = result.expect_err("the panic").downcast::<String>().expect("its message");
        assert_eq!(*message, format!("thread {culprit} fails"));
        assert_eq!(left.load(Ordering::Relaxed), 2, "the others have finished");
        pool.run(|_| {});
    }
}

#[test]
fn entering_a_pool_from_a_job_is_a_panic_and_no_deadlock() {
    let pool = Pool::new(2);
    let result = catch_unwind(AssertUnwindSafe(|| pool.run(|_| pool.run(|_| {}))));
    assert!(result.is_err());
    pool.run(|_| {});
}

#[test]
fn sleeping_workers_wake() {
    let pool = Pool::new(4);
    for _ in 0..20 {
        // Busy for longer than the spin, so that the workers have gone to sleep.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(1) {}
        let count = AtomicUsize::new(0);
        pool.run(|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 4);
    }
}

#[test]
fn a_team_ends_each_phase_together() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads);
        let cells: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        pool.team(|team| {
            for phase in 0..500 {
                team.each(cells.len(), |index| {
                    // Neighbours may be one phase ahead, and none may be behind.
                    assert_eq!(cells[index].fetch_add(1, Ordering::Relaxed), phase);
                });
                team.each_range(cells.len(), 7, |range| {
                    for index in range {
                        assert_eq!(cells[cells.len() - 1 - index].load(Ordering::Relaxed), phase + 1);
                    }
                });
            }
        });
        assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 500));
    }
}

#[test]
fn a_panic_in_a_team_sends_everyone_home() {
    let pool = Pool::new(3);
    for culprit in 0..3 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.team(|team| {
                team.each(30, |_| {});
                team.each(30, |index| assert!(index != culprit, "index {culprit} fails"));
                unreachable!("the phase has no end");
            });
        }));
        let message = result.expect_err("the panic").downcast::<String>().expect("its message");
        assert_eq!(*message, format!("index {culprit} fails"));
        let done = AtomicUsize::new(0);
        pool.team(|team| {
            team.each(10, |_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(done.load(Ordering::Relaxed), 10);
    }
}

#[test]
fn a_thread_that_is_kept_away_holds_up_no_phase() {
    let pool = Pool::new(2);
    let all_done = AtomicUsize::new(0);
    pool.team(|team| {
        if team.thread() == 1 {
            // The first phases end without this thread, or this would not.
            while all_done.load(Ordering::Acquire) < 10 {
                std::hint::spin_loop();
            }
        }
        for phase in 0..20 {
            team.each(if phase < 10 { 3 } else { 50 }, |index| {
                assert!(team.thread() == 0 || phase >= 10);
                if index == 0 {
                    all_done.fetch_add(1, Ordering::Release);
                }
            });
        }
    });
    assert_eq!(all_done.load(Ordering::Relaxed), 20);
}
