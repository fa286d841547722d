//! Products of float weights at the edges of tiles and blocks, where `linear` has no shapes.

use octavo_kernels::{CpuKernels, Encoding, Format, Isa, Linear, Stored};

use crate::common::{Random, all_kernels};

const FORMATS: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];

/// Tokens of a block of input, and columns of a block of weights (twice as many of bfloat16 pairs): see `linear::float`.
const TOKENS: usize = 128;
const COLUMNS: usize = 256;

fn pack(kernels: &CpuKernels, weights: &[f32], columns: usize, format: Format) -> Linear {
    let bytes: Vec<u8> = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
    let rows = weights.len() / columns;
    let part = Stored { bytes: &bytes, rows, encoding: Encoding::F32, interleaved_head: 0 };
    Linear::pack(kernels, columns, &[part], Some(format)).expect("packs")
}

fn product(kernels: &CpuKernels, linear: &Linear, input: &[f32]) -> Vec<f32> {
    let rows = input.len() / linear.columns();
    let mut out = vec![f32::NAN; rows * linear.rows()];
    linear.product(kernels, input, rows, &mut out).expect("the lengths fit");
    out
}

fn round(format: Format, x: f32) -> f64 {
    match format {
        Format::F16 => half::f16::from_f32(x).to_f64(),
        Format::Bf16 => half::bf16::from_f32(x).to_f64(),
        _ => f64::from(x),
    }
}

/// Every element of input · weightsᵀ, and the sum of its terms' magnitudes.
fn definition(input: &[f64], weights: &[f64], columns: usize) -> Vec<[f64; 2]> {
    let dot = |a: &[f64], b: &[f64]| {
        a.iter().zip(b).map(|(a, b)| a * b).fold([0.0, 0.0], |[sum, size], x| [sum + x, size + x.abs()])
    };
    input.chunks(columns).flat_map(|x| weights.chunks(columns).map(move |w| dot(x, w))).collect()
}

#[test]
fn blocks_of_tokens_and_columns_follow_the_definition() {
    let mut random = Random(21);
    for (rows, columns, tokens) in [
        (1, 1, 2),
        (17, COLUMNS + 1, 13),
        (150, 2 * COLUMNS, TOKENS + 1),
        (37, 4 * COLUMNS + 7, 2 * TOKENS + 5),
        (20, 11_001, 6),
    ] {
        let (input, weights) = (random.normals(tokens * columns), random.normals(rows * columns));
        for format in FORMATS {
            let rounded: Vec<f64> = weights.iter().map(|&x| round(format, x)).collect();
            for kernels in all_kernels(2) {
                let rounds = format == Format::Bf16 && kernels.isa().rounds_bf16_input();
                let seen = input.iter().map(|&x| round(if rounds { Format::Bf16 } else { Format::F32 }, x));
                let expected = definition(&seen.collect::<Vec<f64>>(), &rounded, columns);
                let actual = product(&kernels, &pack(&kernels, &weights, columns, format), &input);
                for (index, (actual, [expected, size])) in actual.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*actual) - expected).abs();
                    let context = format!("{format} [{rows}, {columns}] by {tokens} on {}", kernels.isa());
                    assert!(error <= 1e-6 * size, "{context}: [{index}] is {actual}, expected {expected}");
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_block() {
    let mut random = Random(22);
    let (rows, columns, tokens) = (150, 2 * COLUMNS + 90, 2 * TOKENS + 30);
    let (input, weights) = (random.normals(tokens * columns), random.normals(rows * columns));
    for format in FORMATS {
        for (alone, together) in all_kernels(1).iter().zip(&all_kernels(3)) {
            let linear = pack(together, &weights, columns, format);
            let all = product(together, &linear, &input);
            let mut begin = 0;
            for count in [1, 2, 3, 5, 6, 7, 12, 13, TOKENS, 1, TOKENS - 20] {
                let some = product(alone, &linear, &input[begin * columns..(begin + count) * columns]);
                assert_eq!(
                    some,
                    all[begin * rows..(begin + count) * rows],
                    "{count} rows on {}: {format}",
                    alone.isa()
                );
                begin += count;
            }
            assert_eq!(begin, tokens);
        }
    }
}

#[test]
fn instruction_sets_agree() {
    let mut random = Random(23);
    let (rows, columns, tokens) = (48, 3 * COLUMNS, 20);
    let (input, weights) = (random.normals(tokens * columns), random.normals(rows * columns));
    let plain = CpuKernels::new(1, Some(Isa::Portable)).expect("everywhere");
    for format in FORMATS {
        let expected = product(&plain, &pack(&plain, &weights, columns, format), &input);
        let exact: Vec<f64> = input.iter().copied().map(f64::from).collect();
        let rounded: Vec<f64> = weights.iter().map(|&x| round(format, x)).collect();
        let sizes = definition(&exact, &rounded, columns);
        for kernels in all_kernels(2) {
            let rounds = format == Format::Bf16 && kernels.isa().rounds_bf16_input();
            // To round a term's input to the 8 bits of bfloat16 moves it by at most one part in 512.
            let bound = if rounds { 1.0 / 512.0 } else { 0.0 } + 2e-6;
            let actual = product(&kernels, &pack(&kernels, &weights, columns, format), &input);
            for ((actual, expected), [_, size]) in actual.iter().zip(&expected).zip(&sizes) {
                let error = (f64::from(*actual) - f64::from(*expected)).abs();
                assert!(error <= bound * size, "{format} on {}: {actual}, portable {expected}", kernels.isa());
            }
        }
    }
}

#[test]
fn infinities_and_nans_stay_in_their_rows() {
    let mut random = Random(24);
    let (rows, columns, tokens) = (33, COLUMNS + 3, 15);
    let weights = random.normals(rows * columns);
    for format in FORMATS {
        for kernels in all_kernels(1) {
            let linear = pack(&kernels, &weights, columns, format);
            let clean = random.normals(tokens * columns);
            let mut input = clean.clone();
            input[4 * columns + 2] = f32::NAN;
            input[9 * columns + columns - 1] = f32::INFINITY;
            let (clean, odd) = (product(&kernels, &linear, &clean), product(&kernels, &linear, &input));
            for (token, (clean, odd)) in clean.chunks(rows).zip(odd.chunks(rows)).enumerate() {
                match token {
                    4 => assert!(odd.iter().all(|x| x.is_nan())),
                    9 => assert!(odd.iter().all(|x| !x.is_finite())),
                    _ => assert_eq!(clean, odd),
                }
            }
        }
    }
}
