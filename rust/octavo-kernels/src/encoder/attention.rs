//! Attention of every token over all tokens of its own sequence.
//!
//! The work is cut into items: some queries of one head of one sequence. An item brings keys and values together in
//! scratch memory, and makes two products around the softmax. Each sum runs over dimensions, or over positions, in
//! order, so a token's bits depend on its sequence alone.

use std::ops::Range;

use crate::simd::{Kernel, LANES, Simd, load_slice, store_slice};

/// Queries of an item: enough for the keys to be worth bringing together.
const QUERIES: usize = 128;

/// Queries whose scores are kept at a time: with 512 positions, 32 KiB.
const ROWS: usize = 16;

/// Some queries of a head of a sequence; ranges of the step's tokens.
pub(super) struct Item {
    sequence: Range<usize>,
    queries: Range<usize>,
    head: usize,
}

/// The items of a step.
pub(super) fn items(query_start: &[i32], num_heads: usize) -> Vec<Item> {
    let mut items = Vec::new();
    for ends in query_start.windows(2) {
        let sequence = ends[0] as usize..ends[1] as usize;
        for begin in sequence.clone().step_by(QUERIES) {
            let queries = begin..sequence.end.min(begin + QUERIES);
            let of_head = |head| Item { sequence: sequence.clone(), queries: queries.clone(), head };
            items.extend((0..num_heads).map(of_head));
        }
    }
    items
}

/// One item.
pub(super) struct Attend<'a> {
    item: &'a Item,
    /// [tokens, stride]: queries, keys and values of all heads.
    qkv: *const f32,
    qkv_stride: usize,
    /// [tokens, stride]
    out: *mut f32,
    out_stride: usize,
    num_heads: usize,
    head_dim: usize,
    scratch: &'a mut Vec<f32>,
}

impl<'a> Attend<'a> {
    /// `qkv` and `out`: the first row, and floats from a row to the next.
    ///
    /// # Safety
    /// Until the kernel has run nobody writes `qkv`, which has the step's tokens with 3 · num_heads · head_dim floats,
    /// and nobody else has the item's place in `out`, which has num_heads · head_dim.
    pub(super) unsafe fn new(
        item: &'a Item,
        (qkv, qkv_stride): (*const f32, usize),
        (out, out_stride): (*mut f32, usize),
        (num_heads, head_dim): (usize, usize),
        scratch: &'a mut Vec<f32>,
    ) -> Self {
        assert!(qkv_stride >= 3 * num_heads * head_dim && out_stride >= num_heads * head_dim);
        Self { item, qkv, qkv_stride, out, out_stride, num_heads, head_dim, scratch }
    }

    /// Part 0, 1 or 2 of a token: its query, key or value in the item's head.
    fn part(&self, part: usize, token: usize) -> &'a [f32] {
        let column = (part * self.num_heads + self.item.head) * self.head_dim;
        // SAFETY: inside `qkv`, by the promise of `new`'s caller.
        unsafe { std::slice::from_raw_parts(self.qkv.add(token * self.qkv_stride + column), self.head_dim) }
    }
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (head_dim, width) = (self.head_dim, self.head_dim.next_multiple_of(LANES));
        let positions = self.item.sequence.len();
        let padded = positions.next_multiple_of(LANES);
        let mut memory = std::mem::take(self.scratch);
        memory.clear();
        memory.resize(head_dim * padded + positions * width + ROWS * (padded + width), 0.0);
        let (keys, rest) = memory.split_at_mut(head_dim * padded);
        let (values, rest) = rest.split_at_mut(positions * width);
        let (scores, sums) = rest.split_at_mut(ROWS * padded);
        for (position, token) in self.item.sequence.clone().enumerate() {
            for (dimension, &key) in self.part(1, token).iter().enumerate() {
                keys[dimension * padded + position] = key;
            }
            values[position * width..][..head_dim].copy_from_slice(self.part(2, token));
        }
        let scale = simd.splat(1.0 / (head_dim as f32).sqrt());
        for begin in self.item.queries.clone().step_by(ROWS) {
            let rows = self.item.queries.end.min(begin + ROWS) - begin;
            let query = Left { pointer: self.part(0, begin).as_ptr(), stride: self.qkv_stride, rows, depth: head_dim };
            product(simd, &query, keys, padded, scores);
            let mut inverse = [0.0; ROWS];
            for (row, inverse) in scores.chunks_exact_mut(padded).zip(&mut inverse).take(rows) {
                row[positions..].fill(f32::NEG_INFINITY);
                *inverse = 1.0 / softmax(simd, row, scale);
            }
            let weights = Left { pointer: scores.as_ptr(), stride: padded, rows, depth: positions };
            product(simd, &weights, values, width, sums);
            for (row, sums) in sums.chunks_exact(width).enumerate().take(rows) {
                let at = (begin + row) * self.out_stride + self.item.head * head_dim;
                // SAFETY: inside `out`, and this item's alone, by the promise of `new`'s caller.
                let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(at), head_dim) };
                for column in (0..head_dim).step_by(LANES) {
                    let sum = simd.mul(load_slice(simd, sums, column), simd.splat(inverse[row]));
                    store_slice(simd, out, column, sum);
                }
            }
        }
        *self.scratch = memory;
    }
}

/// A row of scores becomes weights, e to the (scaled score - largest); returns their sum.
#[inline(always)]
fn softmax<S: Simd>(simd: S, row: &mut [f32], scale: S::Vector) -> f32 {
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for at in (0..row.len()).step_by(LANES) {
        let score = simd.mul(load_slice(simd, row, at), scale);
        largest = simd.max(largest, score);
        store_slice(simd, row, at, score);
    }
    let largest = simd.splat(simd.largest(largest));
    let mut sum = simd.splat(0.0);
    for at in (0..row.len()).step_by(LANES) {
        let weight = simd.exp(simd.sub(load_slice(simd, row, at), largest));
        sum = simd.add(sum, weight);
        store_slice(simd, row, at, weight);
    }
    simd.sum(sum)
}

/// The left side of a product: `rows` rows of `depth` floats, `stride` from one to the next.
struct Left {
    pointer: *const f32,
    stride: usize,
    rows: usize,
    depth: usize,
}

/// out[rows, columns] = left · right for right [depth, columns]; columns a multiple of 16.
#[inline(always)]
fn product<S: Simd>(simd: S, left: &Left, right: &[f32], columns: usize, out: &mut [f32]) {
    assert!(columns.is_multiple_of(LANES) && right.len() >= left.depth * columns && out.len() >= left.rows * columns);
    let mut row = 0;
    while row < left.rows {
        match left.rows - row {
            4.. => row += strip::<S, 4>(simd, left, row, right, columns, out),
            2.. => row += strip::<S, 2>(simd, left, row, right, columns, out),
            _ => row += strip::<S, 1>(simd, left, row, right, columns, out),
        }
    }
}

/// R rows of a product; returns R.
#[inline(always)]
fn strip<S: Simd, const R: usize>(
    simd: S,
    left: &Left,
    row: usize,
    right: &[f32],
    columns: usize,
    out: &mut [f32],
) -> usize {
    let mut column = 0;
    while column < columns {
        let vectors = (columns - column) / LANES;
        if vectors >= 4 && S::ACCUMULATORS >= 4 * R {
            tile::<S, R, 4>(simd, left, row, right, (column, columns), out);
            column += 4 * LANES;
        } else if vectors >= 2 && S::ACCUMULATORS >= 2 * R {
            tile::<S, R, 2>(simd, left, row, right, (column, columns), out);
            column += 2 * LANES;
        } else {
            tile::<S, R, 1>(simd, left, row, right, (column, columns), out);
            column += LANES;
        }
    }
    R
}

#[expect(clippy::needless_range_loop, reason = "constant bounds on arrays that become registers")]
#[inline(always)]
fn tile<S: Simd, const R: usize, const N: usize>(
    simd: S,
    left: &Left,
    row: usize,
    right: &[f32],
    (column, columns): (usize, usize),
    out: &mut [f32],
) {
    let mut sums = [[simd.splat(0.0); N]; R];
    for index in 0..left.depth {
        let mut vectors = [simd.splat(0.0); N];
        for n in 0..N {
            // SAFETY: `product` checked the length.
            vectors[n] = unsafe { simd.load(right.as_ptr().add(index * columns + column + n * LANES)) };
        }
        for r in 0..R {
            // SAFETY: `left` has these rows.
            let x = simd.splat(unsafe { *left.pointer.add((row + r) * left.stride + index) });
            for n in 0..N {
                sums[r][n] = simd.mul_add(x, vectors[n], sums[r][n]);
            }
        }
    }
    for r in 0..R {
        for n in 0..N {
            // SAFETY: `product` checked the length.
            unsafe { simd.store(out.as_mut_ptr().add((row + r) * columns + column + n * LANES), sums[r][n]) };
        }
    }
}
