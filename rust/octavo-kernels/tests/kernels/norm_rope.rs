//! Norms, rotary embedding and SiLU against their definitions.

use octavo_kernels::KernelError;

use crate::common::{Random, all_kernels};

const EPS: f32 = 1e-5;

fn assert_close(actual: &[f32], expected: &[f64], context: &str) {
    assert_eq!(actual.len(), expected.len());
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        assert!(error <= 1e-6 + 1e-6 * expected.abs(), "{context}: [{index}] is {actual}, expected {expected}");
    }
}

fn expected_norm(x: &[f32], weight: &[f32]) -> Vec<f64> {
    let norm = |row: &[f32]| -> Vec<f64> {
        let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / row.len() as f64;
        let factor = 1.0 / (mean + f64::from(EPS)).sqrt();
        row.iter().zip(weight).map(|(&x, &w)| f64::from(x) * factor * f64::from(w)).collect()
    };
    x.chunks(weight.len()).flat_map(norm).collect()
}

#[test]
fn rms_norm_follows_its_definition() {
    for kernels in all_kernels(3) {
        for (rows, width) in [(1, 8), (3, 16), (2, 24), (1, 576), (100, 576), (7, 2049), (5, 65)] {
            let mut random = Random(width as u64);
            let (x, weight) = (random.normals(rows * width), random.normals(width));
            let context = format!("{rows} rows of {width} on {}", kernels.isa());
            let mut out = vec![0.0; x.len()];
            kernels.rms_norm(&x, &weight, &mut out, EPS).expect("lengths fit");
            assert_close(&out, &expected_norm(&x, &weight), &context);
            let mut in_place = x.clone();
            kernels.rms_norm_in_place(&mut in_place, &weight, EPS).expect("lengths fit");
            assert_eq!(in_place, out);

            let residual = random.normals(x.len());
            let sum: Vec<f32> = x.iter().zip(&residual).map(|(a, b)| a + b).collect();
            let mut new_residual = residual.clone();
            kernels.add_rms_norm(&x, &mut new_residual, &weight, &mut out, EPS).expect("lengths fit");
            assert_eq!(new_residual, sum);
            assert_close(&out, &expected_norm(&sum, &weight), &context);
            let (mut in_place, mut new_residual) = (x.clone(), residual.clone());
            kernels.add_rms_norm_in_place(&mut in_place, &mut new_residual, &weight, EPS).expect("lengths fit");
            assert_eq!((in_place, new_residual), (out, sum));
        }
    }
}

#[test]
fn rope_follows_its_definition() {
    for kernels in all_kernels(3) {
        for (tokens, heads, head_dim, rotary_dim) in [
            (1, 3, 64, 64),
            (300, 9, 64, 64),
            (5, 2, 80, 32),
            (4, 2, 16, 16),
            (3, 1, 96, 96),
            (3, 2, 24, 24),
            (2, 1, 8, 2),
        ] {
            let mut random = Random(head_dim as u64);
            let table: Vec<f32> = random.normals(50 * rotary_dim);
            let positions: Vec<i32> = (0..tokens).map(|_| random.below(50) as i32).collect();
            let x = random.normals(tokens * heads * head_dim);
            let mut expected: Vec<f64> = x.iter().copied().map(f64::from).collect();
            for (head, rotated) in expected.chunks_mut(head_dim).enumerate() {
                let angles = &table[positions[head / heads] as usize * rotary_dim..][..rotary_dim];
                let half = rotary_dim / 2;
                for i in 0..half {
                    let (cosine, sine) = (f64::from(angles[i]), f64::from(angles[half + i]));
                    let (a, b) = (rotated[i], rotated[half + i]);
                    (rotated[i], rotated[half + i]) = (a * cosine - b * sine, b * cosine + a * sine);
                }
            }
            let mut out = x;
            kernels.rope(&mut out, &positions, &table, rotary_dim, head_dim).expect("lengths fit");
            assert_close(&out, &expected, &format!("head_dim {head_dim} on {}", kernels.isa()));
        }
    }
}

#[test]
fn silu_mul_follows_its_definition() {
    for kernels in all_kernels(3) {
        for (rows, width) in [(1, 8), (2, 1536), (300, 100), (3, 17)] {
            let mut gate_up: Vec<f32> =
                Random(width as u64).normals(rows * width * 2).iter().map(|x| 8.0 * x).collect();
            (gate_up[0], gate_up[1], gate_up[2]) = (-200.0, 200.0, -88.0);
            let expected: Vec<f64> = gate_up
                .chunks(2 * width)
                .flat_map(|row| (0..width).map(|i| (f64::from(row[i]), f64::from(row[width + i]))).collect::<Vec<_>>())
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            let mut out = vec![f32::NAN; rows * width];
            kernels.silu_mul(&gate_up, &mut out, width).expect("lengths fit");
            assert_close(&out, &expected, &format!("width {width} on {}", kernels.isa()));
        }
    }
}

#[test]
fn a_row_does_not_feel_its_batch() {
    for (alone, together) in all_kernels(1).iter().zip(&all_kernels(3)) {
        let (rows, width) = (200, 576);
        let mut random = Random(4);
        let (x, weight) = (random.normals(rows * width), random.normals(width));
        let mut all = vec![0.0; x.len()];
        together.rms_norm(&x, &weight, &mut all, EPS).expect("lengths fit");
        for row in [0, 77, rows - 1] {
            let mut one = vec![0.0; width];
            alone.rms_norm(&x[row * width..][..width], &weight, &mut one, EPS).expect("lengths fit");
            assert_eq!(one, all[row * width..][..width]);
        }
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let kernels = &all_kernels(1)[0];
    assert!(kernels.rms_norm(&[0.0; 7], &[1.0; 4], &mut [0.0; 7], EPS).is_err());
    assert!(kernels.rms_norm(&[0.0; 8], &[1.0; 4], &mut [0.0; 4], EPS).is_err());
    assert!(kernels.rms_norm(&[0.0; 8], &[], &mut [0.0; 8], EPS).is_err());
    assert!(kernels.rms_norm(&[], &[1.0; 4], &mut [], EPS).is_ok());
    assert!(kernels.silu_mul(&[0.0; 6], &mut [0.0; 4], 2).is_err());
    let mut x = [0.0; 32];
    let position = kernels.rope(&mut x, &[1, 3], &[0.0; 24], 8, 16);
    assert_eq!(position, Err(KernelError::Index { name: "positions", at: 1, value: 3, limit: 3 }));
    assert!(kernels.rope(&mut x, &[-1, 0], &[0.0; 24], 8, 16).is_err());
    assert!(kernels.rope(&mut x, &[0, 0], &[0.0; 24], 7, 16).is_err());
    assert!(kernels.rope(&mut x, &[0, 0], &[0.0; 36], 18, 16).is_err());
    assert!(kernels.rope(&mut x, &[0, 0, 0], &[0.0; 24], 8, 16).is_err());
    assert!(kernels.rope(&mut [], &[], &[0.0; 24], 8, 16).is_ok());
}
