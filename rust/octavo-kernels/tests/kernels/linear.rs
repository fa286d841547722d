//! Packed weights and their products against the definitions of the formats.

use octavo_kernels::{CpuKernels, Encoding, Format, Isa, Linear, Stored};

use crate::common::{Random, all_kernels};

const FLOATS: [Encoding; 3] = [Encoding::F32, Encoding::F16, Encoding::Bf16];
const BLOCKS: [Encoding; 8] = [
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Q5_0,
    Encoding::Q5_1,
    Encoding::Q8_0,
    Encoding::Q4K,
    Encoding::Q5K,
    Encoding::Q6K,
];

/// Random rows, as a file has them.
fn random_rows(encoding: Encoding, rows: usize, columns: usize, random: &mut Random) -> Vec<u8> {
    let (values, bytes) = encoding.unit();
    let mut out = Vec::new();
    for _ in 0..rows * columns / values {
        match encoding {
            Encoding::F32 => out.extend(random.normal().to_le_bytes()),
            Encoding::F16 => out.extend(half::f16::from_f32(random.normal()).to_le_bytes()),
            Encoding::Bf16 => out.extend(half::bf16::from_f32(random.normal()).to_le_bytes()),
            _ => {
                let begin = out.len();
                out.extend((0..bytes).map(|_| random.next() as u8));
                // The scale and, where there is one, the minimum: small numbers instead of any bits.
                let scale_at = if encoding == Encoding::Q6K { vec![208] } else { vec![0, 2] };
                let count = match encoding {
                    Encoding::Q4_0 | Encoding::Q5_0 | Encoding::Q8_0 => 1,
                    _ => scale_at.len(),
                };
                for at in &scale_at[..count] {
                    let value = half::f16::from_f32(random.normal() * 0.01);
                    out[begin + at..begin + at + 2].copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
    out
}

fn half_at(bytes: &[u8], at: usize) -> f64 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f64()
}

/// The values of stored numbers, one by one, as GGML defines them.
fn values(encoding: Encoding, bytes: &[u8]) -> Vec<f64> {
    let (per_unit, unit_bytes) = encoding.unit();
    let value = |unit: &[u8], i: usize| -> f64 {
        let nibble = |bytes: &[u8]| f64::from(bytes[i % 16] >> (i / 16 * 4) & 15);
        let fifth = |bytes: &[u8]| f64::from(bytes[i / 8] >> (i % 8) & 1) * 16.0;
        match encoding {
            Encoding::F32 => f64::from(f32::from_le_bytes(unit.try_into().expect("four bytes"))),
            Encoding::F16 => half_at(unit, 0),
            Encoding::Bf16 => half::bf16::from_le_bytes([unit[0], unit[1]]).to_f64(),
            Encoding::Q4_0 => half_at(unit, 0) * (nibble(&unit[2..]) - 8.0),
            Encoding::Q4_1 => half_at(unit, 0) * nibble(&unit[4..]) + half_at(unit, 2),
            Encoding::Q5_0 => half_at(unit, 0) * (nibble(&unit[6..]) + fifth(&unit[2..]) - 16.0),
            Encoding::Q5_1 => half_at(unit, 0) * (nibble(&unit[8..]) + fifth(&unit[4..])) + half_at(unit, 2),
            Encoding::Q8_0 => half_at(unit, 0) * f64::from(unit[2 + i] as i8),
            Encoding::Q4K | Encoding::Q5K => {
                let (part, within, steps) = (i / 32, i % 32, &unit[4..16]);
                let (step, minimum) = match part {
                    0..4 => (steps[part] & 63, steps[part + 4] & 63),
                    _ => {
                        (steps[part + 4] & 15 | steps[part - 4] >> 6 << 4, steps[part + 4] >> 4 | steps[part] >> 6 << 4)
                    }
                };
                let nibbles = if encoding == Encoding::Q4K { &unit[16..] } else { &unit[48..] };
                let mut code = nibbles[part / 2 * 32 + within] >> (part % 2 * 4) & 15;
                if encoding == Encoding::Q5K {
                    code += (unit[16 + within] >> part & 1) * 16;
                }
                half_at(unit, 0) * f64::from(step) * f64::from(code) - half_at(unit, 2) * f64::from(minimum)
            }
            Encoding::Q6K => {
                let (upper, quarter, within) = (i / 128, i / 32 % 4, i % 32);
                let low = unit[upper * 64 + quarter % 2 * 32 + within] >> (quarter / 2 * 4) & 15;
                let high = unit[128 + upper * 32 + within] >> (quarter * 2) & 3;
                let step = unit[192 + i / 16] as i8;
                half_at(unit, 208) * f64::from(step) * (f64::from(low + high * 16) - 32.0)
            }
        }
    };
    bytes.chunks(unit_bytes).flat_map(|unit| (0..per_unit).map(move |i| value(unit, i))).collect()
}

/// The input as int8 products see it: whole multiples of a 127th of the largest of each 32.
fn rounded(input: &[f32], columns: usize) -> Vec<f64> {
    let block = |block: &[f32]| -> Vec<f64> {
        let largest = block.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        block.iter().map(|x| f64::from((x * (127.0 / largest)).round_ties_even() * (largest / 127.0))).collect()
    };
    input.chunks(columns).flat_map(|row| row.chunks(32).flat_map(block).collect::<Vec<_>>()).collect()
}

/// Each element, and the sum of its terms' magnitudes.
fn expected_product(input: &[f64], weights: &[f64], columns: usize) -> Vec<[f64; 2]> {
    let dot = |a: &[f64], b: &[f64]| {
        a.iter().zip(b).map(|(a, b)| a * b).fold([0.0, 0.0], |[sum, size], x| [sum + x, size + x.abs()])
    };
    input.chunks(columns).flat_map(|x| weights.chunks(columns).map(move |w| dot(x, w))).collect()
}

fn assert_close(actual: &[f32], expected: &[[f64; 2]], tolerance: f64, context: &str) {
    assert_eq!(actual.len(), expected.len());
    for (index, (&actual, &[expected, size])) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        assert!(error <= tolerance * size, "{context}: [{index}] is {actual}, expected {expected}");
    }
}

fn stored(bytes: &[u8], rows: usize, encoding: Encoding) -> Stored<'_> {
    Stored { bytes, rows, encoding, interleaved_head: 0 }
}

fn product(kernels: &CpuKernels, linear: &Linear, input: &[f32]) -> Vec<f32> {
    let rows = input.len() / linear.columns();
    let mut out = vec![f32::NAN; rows * linear.rows()];
    linear.product(kernels, input, rows, &mut out).expect("the lengths fit");
    out
}

#[test]
fn products_follow_the_definitions_of_the_encodings() {
    let mut random = Random(1);
    for encoding in FLOATS.into_iter().chain(BLOCKS) {
        let unit = encoding.unit().0;
        for (rows, units, tokens) in [(1, 1, 1), (16, 3, 3), (50, 5, 7), (96, 2, 21), (33, 9, 64)] {
            let columns = if unit == 1 { units * 13 } else { unit * units };
            let bytes = random_rows(encoding, rows, columns, &mut random);
            let input = random.normals(tokens * columns);
            let exact: Vec<f64> = input.iter().copied().map(f64::from).collect();
            for kernels in all_kernels(3) {
                let seen = match encoding {
                    Encoding::Bf16 if kernels.isa().rounds_bf16_input() => {
                        input.iter().map(|&x| half::bf16::from_f32(x).to_f64()).collect()
                    }
                    _ if FLOATS.contains(&encoding) => exact.clone(),
                    _ => rounded(&input, columns),
                };
                let expected = expected_product(&seen, &values(encoding, &bytes), columns);
                let linear = Linear::pack(&kernels, columns, &[stored(&bytes, rows, encoding)], None).expect("packs");
                assert_eq!((linear.rows(), linear.columns()), (rows, columns));
                assert!(linear.bytes() >= Linear::packed_bytes(rows, columns, encoding.format()));
                let context = format!("{encoding} [{rows}, {columns}] by {tokens} on {}", kernels.isa());
                assert_close(&product(&kernels, &linear, &input), &expected, 2e-6, &context);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_product() {
    let mut random = Random(2);
    let (rows, columns, tokens) = (70, 512, 61);
    let formats = [Format::Int8, Format::Int4 { group: 32 }, Format::Int4 { group: 128 }].map(Some);
    let cases = FLOATS.into_iter().chain(BLOCKS).map(|encoding| (encoding, None));
    for (encoding, format) in cases.chain(formats.map(|format| (Encoding::F32, format))) {
        let bytes = random_rows(encoding, rows, columns, &mut random);
        let input = random.normals(tokens * columns);
        let mut by_isa = Vec::new();
        for (alone, together) in all_kernels(1).iter().zip(&all_kernels(3)) {
            let linear = Linear::pack(together, columns, &[stored(&bytes, rows, encoding)], format).expect("packs");
            let all = product(together, &linear, &input);
            let mut begin = 0;
            for count in [1, 2, 3, 4, 5, 6, 7, 8, 9, 16] {
                let some = product(alone, &linear, &input[begin * columns..(begin + count) * columns]);
                assert_eq!(some, all[begin * rows..(begin + count) * rows], "{count} rows of {encoding}, {format:?}");
                begin += count;
            }
            by_isa.push((alone.isa(), all));
        }
        let fused: Vec<_> = by_isa
            .iter()
            .filter(|(isa, _)| *isa != Isa::Portable && !(isa.rounds_bf16_input() && encoding == Encoding::Bf16))
            .collect();
        for pair in fused.windows(2) {
            assert_eq!(pair[0].1, pair[1].1, "{} and {} on {encoding}, {format:?}", pair[0].0, pair[1].0);
        }
    }
}

#[test]
fn formats_made_at_load_stay_close() {
    let mut random = Random(3);
    let kernels = &all_kernels(2)[0];
    // 576 columns are four groups of 128 and a half.
    for (encoding, columns) in [(Encoding::F32, 576), (Encoding::Bf16, 100), (Encoding::Q8_0, 576)] {
        let (rows, tokens) = (40, 5);
        let bytes = random_rows(encoding, rows, columns, &mut random);
        let input = random.normals(tokens * columns);
        let exact: Vec<f64> = input.iter().copied().map(f64::from).collect();
        let expected = expected_product(&exact, &values(encoding, &bytes), columns);
        for (format, tolerance) in [
            (Format::F32, 1e-5),
            (Format::F16, 1e-3),
            (Format::Bf16, 1e-2),
            (Format::Int8, 0.02),
            (Format::Int4 { group: 32 }, 0.12),
            (Format::Int4 { group: 64 }, 0.14),
            (Format::Int4 { group: 128 }, 0.16),
        ] {
            let part = stored(&bytes, rows, encoding);
            let linear = Linear::pack(kernels, columns, &[part], Some(format)).expect("packs");
            let actual = product(kernels, &linear, &input);
            let (mut error, mut size) = (0.0, 0.0);
            for (actual, [expected, _]) in actual.iter().zip(&expected) {
                error += (f64::from(*actual) - expected).powi(2);
                size += expected.powi(2);
            }
            let error = (error / size).sqrt();
            assert!(error < tolerance, "{encoding} as {format}: {error} of the products' size");
        }
    }
}

#[test]
fn parts_and_a_bias_make_one_matrix() {
    let mut random = Random(4);
    let (columns, tokens) = (256, 9);
    let parts = [(Encoding::Q4_0, 48), (Encoding::Q4_0, 20), (Encoding::Q6K, 7), (Encoding::F16, 33)];
    let bytes: Vec<Vec<u8>> = parts.iter().map(|&(e, rows)| random_rows(e, rows, columns, &mut random)).collect();
    let bias = random.normals(parts.iter().map(|part| part.1).sum());
    let input = random.normals(tokens * columns);
    for kernels in all_kernels(3) {
        let pack = |parts: &[Stored<'_>]| Linear::pack(&kernels, columns, parts, None).expect("packs");
        let all: Vec<Stored<'_>> = parts.iter().zip(&bytes).map(|(&(e, rows), bytes)| stored(bytes, rows, e)).collect();
        let mut whole = pack(&all);
        whole.set_bias(&bias).expect("as long as the rows");
        let together = product(&kernels, &whole, &input);
        let mut first = 0;
        for part in &all {
            let alone = product(&kernels, &pack(&[*part]), &input);
            for (token, row) in alone.chunks(part.rows).enumerate() {
                let at = token * whole.rows() + first;
                let expected: Vec<f32> = row.iter().zip(&bias[first..]).map(|(a, b)| a + b).collect();
                assert_eq!(together[at..at + part.rows], expected);
            }
            first += part.rows;
        }
    }
}

#[test]
fn interleaved_heads_come_apart() {
    let mut random = Random(5);
    let (head, heads, columns) = (8, 5, 64);
    let kernels = &all_kernels(2)[0];
    for encoding in [Encoding::F32, Encoding::Q4_1] {
        let bytes = random_rows(encoding, head * heads, columns, &mut random);
        let input = random.normals(columns);
        let plain = Linear::pack(kernels, columns, &[stored(&bytes, head * heads, encoding)], None).expect("packs");
        let part = Stored { interleaved_head: head, ..stored(&bytes, head * heads, encoding) };
        let apart = Linear::pack(kernels, columns, &[part], None).expect("packs");
        let (plain, apart) = (product(kernels, &plain, &input), product(kernels, &apart, &input));
        for (plain, apart) in plain.chunks(head).zip(apart.chunks(head)) {
            for i in 0..head / 2 {
                assert_eq!((apart[i], apart[i + head / 2]), (plain[2 * i], plain[2 * i + 1]));
            }
        }
    }
}

#[test]
fn odd_inputs_come_through() {
    let mut random = Random(6);
    let (rows, columns) = (20, 96);
    for kernels in all_kernels(1) {
        let bytes = random_rows(Encoding::Q8_0, rows, columns, &mut random);
        let linear = Linear::pack(&kernels, columns, &[stored(&bytes, rows, Encoding::Q8_0)], None).expect("packs");
        assert!(product(&kernels, &linear, &vec![0.0; columns]).iter().all(|&x| x == 0.0));
        assert!(product(&kernels, &linear, &vec![1e-38; columns]).iter().all(|&x| x.abs() < 1e-30));
        for odd in [f32::NAN, f32::INFINITY] {
            let mut input = random.normals(columns);
            input[50] = odd;
            assert!(product(&kernels, &linear, &input).iter().all(|x| x.is_nan()), "{odd} on {}", kernels.isa());
        }
        assert!(product(&kernels, &linear, &[]).is_empty());
    }
}

#[test]
fn names_are_read_as_they_are_printed() {
    for encoding in FLOATS.into_iter().chain(BLOCKS) {
        assert_eq!(encoding.name().parse(), Ok(encoding));
        assert_eq!(encoding.format().to_string().parse(), Ok(encoding.format()));
    }
    for format in [Format::Int8, Format::Int4 { group: 32 }, Format::Int4 { group: 128 }] {
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    assert!("Q3_K".parse::<Encoding>().is_err());
    assert!("fp8".parse::<Format>().is_err());
}

#[test]
fn wrong_arguments_are_errors() {
    let kernels = &all_kernels(1)[0];
    let pack = |columns, part, format| Linear::pack(kernels, columns, &[part], format);
    let bytes = vec![0; 18 * 4];
    assert!(pack(64, stored(&bytes, 2, Encoding::Q4_0), None).is_ok());
    assert!(pack(64, stored(&bytes, 3, Encoding::Q4_0), None).is_err());
    assert!(pack(63, stored(&bytes, 2, Encoding::Q4_0), None).is_err());
    assert!(pack(0, stored(&[], 2, Encoding::Q4_0), None).is_err());
    assert!(pack(64, stored(&[], 0, Encoding::Q4_0), None).is_err());
    assert!(pack(64, stored(&bytes, 2, Encoding::Q4_0), Some(Format::Q4_1)).is_err());
    assert!(pack(64, stored(&bytes, 2, Encoding::Q4_0), Some(Format::Int4 { group: 48 })).is_err());
    assert!(pack(32, Stored { interleaved_head: 3, ..stored(&bytes, 4, Encoding::Q4_0) }, None).is_err());
    let mut linear = pack(64, stored(&bytes, 2, Encoding::Q4_0), None).expect("packs");
    assert!(linear.set_bias(&[0.0; 3]).is_err());
    assert!(linear.product(kernels, &[0.0; 63], 1, &mut [0.0; 2]).is_err());
    assert!(linear.product(kernels, &[0.0; 64], 1, &mut [0.0; 3]).is_err());
}
