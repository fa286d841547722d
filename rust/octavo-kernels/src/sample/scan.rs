//! Passes over a whole row of logits. NaN counts as minus infinity in all of them.

use crate::simd::{Kernel, LANES, Simd, load_slice};

/// Logits whose sum of exponentials is kept apart, and whose lanes have one maximum each.
pub(super) const CHUNK: usize = 64 * LANES;

/// Lane-wise maxima of each CHUNK: 16 a chunk, each the maximum of up to 64 logits that no other one covers.
pub(super) struct Maxima<'a> {
    pub(super) logits: &'a [f32],
    pub(super) maxima: &'a mut Vec<f32>,
}

impl Kernel for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.maxima.clear();
        for chunk in self.logits.chunks(CHUNK) {
            // Two maxima hide the latency; a shorter last vector would bring zeros, so it is scanned apart.
            let mut largest = [simd.splat(f32::NEG_INFINITY); 2];
            let vectors = chunk.len() / LANES;
            for index in 0..vectors {
                let x = load_slice(simd, chunk, index * LANES);
                largest[index % 2] = simd.max(x, largest[index % 2]);
            }
            let mut lanes = [0.0; LANES];
            // SAFETY: `lanes` has 16 floats.
            unsafe { simd.store(lanes.as_mut_ptr(), simd.max(largest[0], largest[1])) };
            for (lane, &x) in lanes.iter_mut().zip(&chunk[vectors * LANES..]) {
                if x > *lane {
                    *lane = x;
                }
            }
            self.maxima.extend_from_slice(&lanes);
        }
    }
}

/// The lowest token that has the largest logit, and that logit; None when none is greater than `above`.
pub(super) fn best(logits: &[f32], maxima: &[f32], above: f32) -> Option<(usize, f32)> {
    let mut best = (0, above);
    for (index, &x) in maxima.iter().enumerate() {
        if x > best.1 {
            best = (index / LANES, x);
        }
    }
    let (chunk, largest) = best;
    // Lanes of one chunk are out of order, but chunks are in order, so the first chunk has the lowest token.
    let begin = chunk * CHUNK;
    if largest <= above {
        return None;
    }
    let token = logits[begin..].iter().position(|&x| x == largest)?;
    Some((begin + token, largest))
}

/// Appends (token, logit) of each logit that is at least `threshold` and above minus infinity, by rising token.
pub(super) struct Collect<'a> {
    pub(super) logits: &'a [f32],
    pub(super) threshold: f32,
    pub(super) found: &'a mut Vec<(u32, f32)>,
}

impl Kernel for Collect<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let threshold = simd.splat(self.threshold.max(f32::MIN));
        for at in (0..self.logits.len()).step_by(LANES) {
            let mut bits = simd.at_least(load_slice(simd, self.logits, at), threshold);
            while bits != 0 {
                let token = at + bits.trailing_zeros() as usize;
                // The last vector may have lanes beyond the row.
                if let Some(&logit) = self.logits.get(token) {
                    self.found.push((token as u32, logit));
                }
                bits &= bits - 1;
            }
        }
    }
}

/// exp((logit - largest) · factor), summed for each CHUNK.
pub(super) struct SumExp<'a> {
    pub(super) logits: &'a [f32],
    pub(super) largest: f32,
    pub(super) factor: f32,
    pub(super) sums: &'a mut Vec<f64>,
}

impl Kernel for SumExp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.sums.clear();
        let (largest, factor) = (simd.splat(self.largest), simd.splat(self.factor));
        for chunk in self.logits.chunks(CHUNK) {
            let mut sums = [simd.splat(0.0); 2];
            let vectors = chunk.len() / LANES;
            for index in 0..vectors {
                let weight = weight(simd, load_slice(simd, chunk, index * LANES), largest, factor);
                sums[index % 2] = simd.add(sums[index % 2], weight);
            }
            let mut sum = f64::from(simd.sum(simd.add(sums[0], sums[1])));
            let rest = &chunk[vectors * LANES..];
            if !rest.is_empty() {
                let mut weights = [0.0; LANES];
                // SAFETY: `weights` has 16 floats.
                unsafe { simd.store(weights.as_mut_ptr(), weight(simd, load_slice(simd, rest, 0), largest, factor)) };
                sum += weights[..rest.len()].iter().copied().map(f64::from).sum::<f64>();
            }
            self.sums.push(sum);
        }
    }
}

/// The terms of one of `SumExp`'s sums.
pub(super) struct Weights<'a> {
    /// At most CHUNK.
    pub(super) logits: &'a [f32],
    pub(super) largest: f32,
    pub(super) factor: f32,
}

impl Kernel for Weights<'_> {
    type Output = [f32; CHUNK];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; CHUNK] {
        let mut weights = [0.0; CHUNK];
        let (largest, factor) = (simd.splat(self.largest), simd.splat(self.factor));
        for at in (0..self.logits.len()).step_by(LANES) {
            let lanes = weight(simd, load_slice(simd, self.logits, at), largest, factor);
            // SAFETY: `at` is a multiple of 16 below CHUNK, which is one too.
            unsafe { simd.store(weights[at..].as_mut_ptr(), lanes) };
        }
        weights
    }
}

#[inline(always)]
fn weight<S: Simd>(simd: S, logits: S::Vector, largest: S::Vector, factor: S::Vector) -> S::Vector {
    // `max` gives its second argument for NaN.
    let logits = simd.max(logits, simd.splat(f32::MIN));
    simd.exp(simd.mul(simd.sub(logits, largest), factor))
}

/// How many logits are above `value`.
pub(super) struct CountAbove<'a> {
    pub(super) logits: &'a [f32],
    pub(super) value: f32,
}

impl Kernel for CountAbove<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        let value = simd.splat(self.value);
        let vectors = self.logits.len() / LANES;
        let mut count = 0;
        for index in 0..vectors {
            count += simd.greater(load_slice(simd, self.logits, index * LANES), value).count_ones() as usize;
        }
        count + self.logits[vectors * LANES..].iter().filter(|&&x| x > self.value).count()
    }
}
