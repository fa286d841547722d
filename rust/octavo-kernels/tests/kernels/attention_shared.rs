//! Sequences that share blocks: each has the bits that it has alone, whoever reads the same keys and values beside it.

use crate::common::{Player, Random, Request, Shape, all_kernels, bits};
use octavo_kernels::{AttentionOptions, KvType};
use proptest::prelude::*;

/// A request that begins like an earlier one.
#[derive(Debug, Clone)]
struct Branch {
    /// The earlier one, counted from the first again where there are fewer.
    parent: usize,
    /// Tokens that they share, at most: whole blocks of those that the parent has.
    shared: usize,
    /// Tokens of its own, the last of which come one by one.
    own: usize,
}

/// The requests, and for each its parent and the blocks that it takes from it.
fn grow(shape: &Shape, branches: &[Branch], random: &mut Random) -> (Vec<Request>, Vec<(usize, usize)>) {
    let (mut requests, mut inherited): (Vec<Request>, Vec<(usize, usize)>) = (vec![], vec![]);
    for (index, branch) in branches.iter().enumerate() {
        let parent = branch.parent.checked_rem(index).unwrap_or(0);
        let parent_len = requests.get(parent).map_or(0, |request| request.key.len() / shape.kv_len());
        let blocks = branch.shared.min(parent_len) / shape.block_size;
        let shared = blocks * shape.block_size;
        let mut request = Request::random(shape, shared + branch.own, random);
        if shared > 0 {
            let elements = shared * shape.kv_len();
            request.key[..elements].copy_from_slice(&requests[parent].key[..elements]);
            request.value[..elements].copy_from_slice(&requests[parent].value[..elements]);
        }
        requests.push(request);
        inherited.push((parent, blocks));
    }
    (requests, inherited)
}

/// Plays all of them together token by token from `last` tokens before their ends, and compares with each one alone.
fn check(shape: Shape, branches: &[Branch], last: usize, threads: usize, seed: u64) {
    let mut random = Random(seed);
    let (requests, inherited) = grow(&shape, branches, &mut random);
    let lens: Vec<usize> = requests.iter().map(|request| request.key.len() / shape.kv_len()).collect();
    for (alone, together) in all_kernels(1).iter().zip(&all_kernels(threads)) {
        let mut player = Player::new(together, shape, &lens, &mut random);
        let mut begins = vec![];
        for (index, &(parent, blocks)) in inherited.iter().enumerate() {
            let parents = player.blocks[parent][..blocks].to_vec();
            player.blocks[index][..blocks].copy_from_slice(&parents);
            player.done[index] = blocks * shape.block_size;
            // A parent must have what its children share.
            let before = lens[index] - last.min(branches[index].own);
            let needed = inherited.iter().enumerate().filter(|(child, it)| *child > index && it.0 == index);
            let needed = needed.map(|(_, it)| it.1 * shape.block_size).max().unwrap_or(0);
            let begin = before.max(needed);
            if begin > player.done[index] {
                player.step(&requests, &[(index, begin - player.done[index])]);
            }
            begins.push(begin);
        }
        let mut outputs = vec![vec![]; lens.len()];
        loop {
            let mut parts = vec![];
            for (index, &len) in lens.iter().enumerate() {
                let left = len - player.done[index];
                if left > 0 && random.below(8) > 0 {
                    parts.push((index, if random.below(6) == 0 { left.min(3) } else { 1 }));
                }
            }
            random.shuffle(&mut parts);
            for (&(index, _), out) in parts.iter().zip(player.step(&requests, &parts)) {
                outputs[index].extend(out);
            }
            if player.done == lens {
                break;
            }
        }
        for (index, output) in outputs.iter().enumerate() {
            let whole = Player::new(alone, shape, &lens, &mut random).play(&requests, index, &[lens[index]]);
            let expected = &whole[begins[index] * shape.query_len()..];
            assert!(bits(output) == bits(expected), "{shape:?} on {}: request {index} of {branches:?}", alone.isa());
        }
    }
}

fn shape(head_dim: usize, group: usize, block_size: usize, dtype: KvType) -> Shape {
    let options = AttentionOptions { scale: 1.0 / (head_dim as f32).sqrt(), sliding_window: 0, softcap: 0.0 };
    Shape { block_size, num_kv_heads: 2, group, head_dim, dtype, options }
}

/// Many requests behind one prefix, which takes several passes.
#[test]
fn a_long_prefix_of_many() {
    for dtype in [KvType::F16, KvType::Int8] {
        let mut branches = vec![Branch { parent: 0, shared: 0, own: 560 }];
        branches.extend((0..45).map(|index| Branch { parent: 0, shared: 544, own: 1 + index % 9 }));
        check(shape(64, 3, 16, dtype), &branches, 4, 2, 1);
    }
}

#[test]
fn prefixes_that_end_within_a_split() {
    for shared in [16, 32, 48, 240, 255, 256, 272, 500] {
        let mut branches = vec![Branch { parent: 0, shared: 0, own: 520 }];
        branches.extend((0..5).map(|index| Branch { parent: index, shared: shared - index, own: 1 + 60 * index }));
        check(shape(16, 4, 16, KvType::Bf16), &branches, 3, 2, 2);
    }
}

#[test]
fn windows_that_end_within_what_is_shared() {
    for sliding_window in [1, 20, 130, 300, 513, 600] {
        let mut shape = shape(32, 2, 32, KvType::F32);
        shape.options.sliding_window = sliding_window;
        let mut branches = vec![Branch { parent: 0, shared: 0, own: 560 }];
        branches.extend((0..4).map(|index| Branch { parent: 0, shared: 544, own: 5 + 40 * index }));
        check(shape, &branches, 5, 3, 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_tree_of_prefixes(
        head_dim in prop::sample::select(vec![8_usize, 64, 80]),
        group in prop::sample::select(vec![1_usize, 3, 8, 16]),
        block_size in prop::sample::select(vec![3_usize, 16, 32, 48, 128, 512]),
        dtype in prop::sample::select(vec![KvType::F32, KvType::Bf16, KvType::F16, KvType::Int8]),
        sliding_window in prop::sample::select(vec![0_usize, 0, 5, 100, 400]),
        softcap in prop::sample::select(vec![0.0_f32, 2.0]),
        branches in prop::collection::vec(
            (0_usize..9, 0_usize..560, 1_usize..150).prop_map(|(parent, shared, own)| Branch { parent, shared, own }),
            2..8,
        ),
        first in 100_usize..560,
        last in 1_usize..12,
        threads in 1_usize..4,
        seed in any::<u64>(),
    ) {
        let mut shape = shape(head_dim, group, block_size, dtype);
        shape.options.sliding_window = sliding_window;
        shape.options.softcap = softcap;
        let mut branches = branches;
        branches[0].own = first;
        check(shape, &branches, last, threads, seed);
    }
}
