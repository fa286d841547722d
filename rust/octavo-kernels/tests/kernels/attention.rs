//! Attention against its definition in float64, and to the bit against itself in other batches and chunks.

use crate::common::{Player, Random, Request, Shape, all_kernels, bits, largest_difference, reference};
use octavo_kernels::{AttentionOptions, KvType};
use proptest::prelude::*;

fn shape(head_dim: usize, group: usize, block_size: usize, dtype: KvType) -> Shape {
    let options = AttentionOptions { scale: 1.0 / (head_dim as f32).sqrt(), sliding_window: 0, softcap: 0.0 };
    Shape { block_size, num_kv_heads: 2, group, head_dim, dtype, options }
}

/// A ragged batch on every instruction set: prompts whole and in part, then single tokens.
fn check_against_reference(shape: Shape, lens: &[usize], seed: u64) {
    for kernels in all_kernels(3) {
        let mut random = Random(seed);
        let requests: Vec<Request> = lens.iter().map(|&len| Request::random(&shape, len, &mut random)).collect();
        let mut player = Player::new(&kernels, shape, lens, &mut random);
        let mut outputs = vec![vec![]; lens.len()];
        loop {
            let mut parts = vec![];
            for (index, &len) in lens.iter().enumerate() {
                let left = len - player.done[index];
                if left > 0 {
                    let count = if player.done[index] == 0 { len - len / 4 } else { 1 + random.below(left.min(3)) };
                    parts.push((index, count));
                }
            }
            if parts.is_empty() {
                break;
            }
            for (&(index, _), out) in parts.iter().zip(player.step(&requests, &parts)) {
                outputs[index].extend(out);
            }
        }
        for (request, output) in requests.iter().zip(&outputs) {
            let difference = largest_difference(output, &reference(&shape, request));
            assert!(difference < 3e-6, "{shape:?} on {}: off by {difference}", kernels.isa());
        }
    }
}

#[test]
fn agrees_with_the_definition_for_every_head_dim() {
    for head_dim in [8, 16, 24, 40, 64, 80, 96, 128, 256] {
        check_against_reference(shape(head_dim, 3, 16, KvType::F32), &[37, 1, 5, 90], 1);
    }
}

#[test]
fn agrees_with_the_definition_for_every_group_and_block_size() {
    for group in [1, 3, 4, 8] {
        for block_size in [1, 5, 16, 32, 128] {
            for dtype in [KvType::F32, KvType::Bf16, KvType::F16, KvType::Int8] {
                check_against_reference(shape(16, group, block_size, dtype), &[70, 3, 33], 2);
            }
        }
    }
}

#[test]
fn agrees_with_the_definition_with_windows_and_soft_caps() {
    for block_size in [4, 16] {
        for sliding_window in [1, 7, 16, 65, 300, 1000] {
            for softcap in [0.0, 1.5] {
                let mut shape = shape(32, 2, block_size, KvType::F32);
                shape.options.sliding_window = sliding_window;
                shape.options.softcap = softcap;
                check_against_reference(shape, &[400, 64, 130], 3);
            }
        }
    }
}

#[test]
fn agrees_with_the_definition_over_several_splits() {
    check_against_reference(shape(64, 3, 16, KvType::Bf16), &[700, 256, 257], 4);
    check_against_reference(shape(64, 3, 16, KvType::F32), &[1030], 5);
    check_against_reference(shape(80, 2, 32, KvType::Int8), &[700, 513], 6);
}

/// Rounding to a code moves an element by half a scale, which is the largest element / 127, at most.
#[test]
fn int8_stays_within_the_bound_of_its_rounding() {
    let shape = Shape { num_kv_heads: 1, ..shape(64, 2, 16, KvType::Int8) };
    let exact = Shape { dtype: KvType::F32, ..shape };
    let largest = |values: &[f32]| values.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
    for kernels in all_kernels(2) {
        let mut random = Random(9);
        let request = Request::random(&shape, 400, &mut random);
        let output =
            Player::new(&kernels, shape, &[400], &mut random).play(std::slice::from_ref(&request), 0, &[390, 1, 9]);
        let expected = reference(&exact, &request);
        let (key, value) = (largest(&request.key), largest(&request.value));
        for ((query, output), expected) in request.query.chunks(64).zip(output.chunks(64)).zip(expected.chunks(64)) {
            let size: f64 = query.iter().map(|x| f64::from(x.abs())).sum();
            let score = f64::from(shape.options.scale) * size * key / 254.0;
            let bound = value / 254.0 + ((2.0 * score).exp() - 1.0) * value + 1e-5;
            let difference = largest_difference(output, expected);
            assert!(difference <= bound, "{}: {difference}, bound {bound}", kernels.isa());
        }
        let difference = largest_difference(&output, &expected);
        assert!(difference < 0.03, "{}: {difference}", kernels.isa());
    }
}

#[test]
fn vector_instruction_sets_give_the_same_bits() {
    for dtype in [KvType::F32, KvType::Bf16, KvType::F16, KvType::Int8] {
        for (head_dim, group) in [(80, 3), (64, 1), (128, 7)] {
            let shape = shape(head_dim, group, 16, dtype);
            let mut results = vec![];
            for kernels in all_kernels(2).iter().filter(|kernels| kernels.isa().name() != "portable") {
                let mut random = Random(6);
                let requests = [Request::random(&shape, 300, &mut random)];
                results.push(Player::new(kernels, shape, &[300], &mut random).play(&requests, 0, &[290, 10]));
            }
            for result in &results {
                assert!(bits(result) == bits(&results[0]), "{shape:?}");
            }
        }
    }
}

#[test]
fn a_neighbours_nan_and_a_later_nan_stay_where_they_are() {
    for kernels in all_kernels(2) {
        for dtype in [KvType::F32, KvType::Bf16, KvType::Int8] {
            let shape = shape(16, 2, 16, dtype);
            let mut random = Random(7);
            let mut requests = vec![Request::random(&shape, 40, &mut random), Request::random(&shape, 40, &mut random)];
            let clean = Player::new(&kernels, shape, &[40, 40], &mut Random(8)).play(&requests, 0, &[40]);
            requests[1].value.fill(f32::NAN);
            for from in [20 * shape.kv_len(), 39 * shape.kv_len()] {
                let mut spoilt = requests.clone();
                spoilt[0].value[from..].fill(f32::NAN);
                spoilt[0].key[from..].fill(f32::INFINITY);
                let mut player = Player::new(&kernels, shape, &[40, 40], &mut Random(8));
                let outputs = player.step(&spoilt, &[(1, 40), (0, 40)]);
                let unharmed = from / shape.kv_len() * shape.query_len();
                assert!(bits(&outputs[1][..unharmed]) == bits(&clean[..unharmed]), "{} {dtype:?}", kernels.isa());
                assert!(outputs[1][unharmed..].iter().all(|x| x.is_nan()));
            }
        }
    }
}

/// Cuts `len` tokens into chunks by a list of preferences.
fn cut(len: usize, sizes: &[usize]) -> Vec<usize> {
    let mut left = len;
    let mut chunks = vec![];
    for size in sizes.iter().cycle() {
        if left == 0 {
            break;
        }
        chunks.push((*size).min(left));
        left -= chunks[chunks.len() - 1];
    }
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A request alone and whole, against the same request in chunks, among others, on another number of threads and
    /// with other blocks: the same bits.
    #[test]
    fn a_request_does_not_feel_its_batch(
        head_dim in prop::sample::select(vec![8_usize, 16, 64, 80, 128]),
        group in prop::sample::select(vec![1_usize, 3, 4, 8]),
        block_size in prop::sample::select(vec![1_usize, 3, 16, 32]),
        dtype in prop::sample::select(vec![KvType::F32, KvType::Bf16, KvType::F16, KvType::Int8]),
        sliding_window in prop::sample::select(vec![0_usize, 5, 100]),
        softcap in prop::sample::select(vec![0.0_f32, 2.0]),
        lens in prop::collection::vec(1_usize..600, 1..4),
        sizes in prop::collection::vec(prop::sample::select(vec![1_usize, 2, 7, 16, 17, 64, 250]), 1..5),
        threads in 1_usize..4,
        seed in any::<u64>(),
    ) {
        let mut shape = shape(head_dim, group, block_size, dtype);
        shape.options.sliding_window = sliding_window;
        shape.options.softcap = softcap;
        let mut random = Random(seed);
        let requests: Vec<Request> = lens.iter().map(|&len| Request::random(&shape, len, &mut random)).collect();
        for (alone, together) in all_kernels(1).iter().zip(&all_kernels(threads)) {
            let whole = Player::new(alone, shape, &lens, &mut random).play(&requests, 0, &[lens[0]]);
            let mut player = Player::new(together, shape, &lens, &mut random);
            let mut chunks: Vec<Vec<usize>> = lens.iter().map(|&len| cut(len, &sizes)).collect();
            chunks.iter_mut().for_each(|chunks| chunks.reverse());
            let mut chunked = vec![];
            while !chunks[0].is_empty() {
                let mut parts = vec![];
                for (index, chunks) in chunks.iter_mut().enumerate() {
                    if index == 0 || random.below(3) > 0 {
                        parts.extend(chunks.pop().map(|count| (index, count)));
                    }
                }
                random.shuffle(&mut parts);
                let own = parts.iter().position(|&(index, _)| index == 0).expect("request 0 is in every step");
                chunked.extend(player.step(&requests, &parts).swap_remove(own));
            }
            prop_assert!(bits(&whole) == bits(&chunked), "{:?} on {}", shape, alone.isa());
        }
    }
}
