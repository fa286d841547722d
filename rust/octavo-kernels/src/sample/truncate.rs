//! Choosing among the best tokens without sorting the vocabulary.
//!
//! The lane maxima of scan.rs bound the k-th largest logit from below, so that one vector pass collects little more
//! than k candidates; exact selection then works on those. The nucleus of top-p is cut by a selection which halves the
//! candidates and follows the half where the mass is reached.

use std::cmp::Ordering;

use super::scan::Collect;
use crate::CpuKernels;

/// (token, logit)
pub(super) type Candidate = (u32, f32);

/// Best first: by falling logit, then by rising token.
pub(super) fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// A value that at least `count` logits reach, and few more.
pub(super) fn bound_of_best(maxima: &[f32], count: usize, buffer: &mut Vec<f32>) -> f32 {
    if count == 0 || count > maxima.len() {
        return f32::NEG_INFINITY;
    }
    buffer.clear();
    buffer.extend_from_slice(maxima);
    *buffer.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
}

/// Keeps the candidates that are at least as large as the k-th largest: more than k where logits are equal.
pub(super) fn keep_top_k(candidates: &mut Vec<Candidate>, k: usize, buffer: &mut Vec<f32>) {
    if candidates.len() <= k {
        return;
    }
    buffer.clear();
    buffer.extend(candidates.iter().map(|candidate| candidate.1));
    let kth = *buffer.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
    candidates.retain(|candidate| candidate.1 >= kth);
}

/// Keeps the shortest run of the best candidates whose weight reaches `mass`, at least one; by rising token as before.
pub(super) fn keep_nucleus(
    candidates: &mut Vec<Candidate>,
    mass: f64,
    weight: impl Fn(f32) -> f64,
    buffer: &mut Vec<Candidate>,
) {
    const SORT_BELOW: usize = 32;
    buffer.clear();
    buffer.extend_from_slice(candidates);
    let (mut range, mut missing) = (&mut buffer[..], mass);
    while range.len() > SORT_BELOW {
        let middle = range.len() / 2;
        range.select_nth_unstable_by(middle, best_first);
        let (better, worse) = range.split_at_mut(middle);
        let weight_of_better: f64 = better.iter().map(|candidate| weight(candidate.1)).sum();
        if weight_of_better >= missing {
            range = better;
        } else {
            missing -= weight_of_better;
            range = worse;
        }
    }
    range.sort_unstable_by(best_first);
    let mut last = range.len().saturating_sub(1);
    for (index, candidate) in range.iter().enumerate() {
        missing -= weight(candidate.1);
        if missing <= 0.0 {
            last = index;
            break;
        }
    }
    if let Some(last) = range.get(last) {
        candidates.retain(|candidate| best_first(candidate, last).is_le());
    }
}

/// Leaves the `count` best tokens in `candidates`, best first; fewer where fewer are above minus infinity.
pub(super) fn best_tokens(
    kernels: &CpuKernels,
    logits: &[f32],
    maxima: &[f32],
    count: usize,
    candidates: &mut Vec<Candidate>,
    buffer: &mut Vec<f32>,
) {
    candidates.clear();
    if count == 0 {
        return;
    }
    kernels.run(Collect { logits, threshold: bound_of_best(maxima, count, buffer), found: candidates });
    if candidates.len() > count {
        candidates.select_nth_unstable_by(count - 1, best_first);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(best_first);
}
