//! The cache's edge: what it refuses, block copies, and sizes.

use std::sync::Arc;

use octavo_kernels::{AttentionOptions, CpuKernels, KernelError, KvCache, KvCacheConfig, KvType, StepMeta};

use crate::common::{NUM_LAYERS, Player, Random, Request, Shape, all_kernels};

const CONFIG: KvCacheConfig = KvCacheConfig {
    num_layers: 2,
    num_blocks: 10,
    block_size: 4,
    num_kv_heads: 1,
    head_dim: 8,
    max_num_seqs: 3,
    max_blocks_per_seq: 5,
    dtype: KvType::F32,
};
const OPTIONS: AttentionOptions = AttentionOptions { scale: 1.0, sliding_window: 0, softcap: 0.0 };

fn kernels() -> Arc<CpuKernels> {
    Arc::new(CpuKernels::new(2, None).expect("two threads"))
}

fn cache() -> KvCache {
    KvCache::new(kernels(), CONFIG).expect("a small cache")
}

/// A valid step: two requests with 3 and 1 tokens.
const VALID: StepMeta<'static> = StepMeta {
    row: &[2, 0],
    query_start: &[0, 3, 4],
    seq_len: &[3, 8],
    slot_mapping: &[4, 5, 6, 39],
    delta_row: &[2],
    delta_column: &[4],
    delta_block: &[9],
    copy_source: &[1],
    copy_target: &[2],
};

#[test]
fn every_index_is_checked_and_named() {
    assert_eq!(cache().begin_step(VALID), Ok(()));
    assert_eq!(cache().begin_step(StepMeta { query_start: &[0], ..StepMeta::default() }), Ok(()));
    let wrong: [(&str, StepMeta<'_>); 19] = [
        ("row[1] is 3,", StepMeta { row: &[2, 3], ..VALID }),
        ("row[0] is -1,", StepMeta { row: &[-1, 0], ..VALID }),
        ("slot_mapping[3] is 40,", StepMeta { slot_mapping: &[4, 5, 6, 40], ..VALID }),
        ("slot_mapping[0] is -1,", StepMeta { slot_mapping: &[-1, 5, 6, 39], ..VALID }),
        ("delta_row[0] is 3,", StepMeta { delta_row: &[3], ..VALID }),
        ("delta_column[0] is 5,", StepMeta { delta_column: &[5], ..VALID }),
        ("delta_block[0] is 10,", StepMeta { delta_block: &[10], ..VALID }),
        ("delta_block[0] is -2147483648,", StepMeta { delta_block: &[i32::MIN], ..VALID }),
        ("copy_source[0] is 10,", StepMeta { copy_source: &[10], ..VALID }),
        ("copy_target[0] is -5,", StepMeta { copy_target: &[-5], ..VALID }),
        ("query_start[0] is 1,", StepMeta { query_start: &[1, 3, 4], ..VALID }),
        ("query_start[2] is 2:", StepMeta { query_start: &[0, 3, 2], ..VALID }),
        ("query_start[1] is -3:", StepMeta { query_start: &[0, -3, 4], ..VALID }),
        ("query_start[2] is 5:", StepMeta { query_start: &[0, 3, 5], ..VALID }),
        ("seq_len[1] is 21,", StepMeta { seq_len: &[3, 21], ..VALID }),
        ("seq_len[0] is 2,", StepMeta { seq_len: &[2, 8], ..VALID }),
        ("query_start has 2 elements", StepMeta { query_start: &[0, 4], ..VALID }),
        ("slot_mapping has 4 elements", StepMeta { query_start: &[0, 3, 3], ..VALID }),
        ("delta_block has 0 elements", StepMeta { delta_block: &[], ..VALID }),
    ];
    for (message, meta) in wrong {
        let error = cache().begin_step(meta).expect_err(message).to_string();
        assert!(error.starts_with(message), "{error:?} does not begin with {message:?}");
    }
}

#[test]
fn attention_checks_its_slices() {
    let mut cache = cache();
    cache.begin_step(VALID).expect("valid");
    let (q, kv) = ([0.0; 4 * 16], [0.0; 4 * 8]);
    let mut attend = |layer: usize, q: &[f32], k: &[f32], v: &[f32], out: usize| {
        cache.attention(layer, q, k, v, &mut vec![0.0; out], OPTIONS)
    };
    assert_eq!(attend(1, &q, &kv, &kv, 64), Ok(()));
    assert!(attend(2, &q, &kv, &kv, 64).is_err());
    assert!(attend(0, &q[..63], &kv, &kv, 63).is_err());
    assert!(attend(0, &q[..8], &kv, &kv, 8).is_err());
    assert!(attend(0, &q, &kv[..8], &kv, 64).is_err());
    assert!(attend(0, &q, &kv, &kv[..31], 64).is_err());
    assert!(attend(0, &q, &kv, &kv, 32).is_err());
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    let refused = |config: KvCacheConfig| KvCache::new(kernels(), config).err().expect("refused");
    for config in [
        KvCacheConfig { head_dim: 12, ..CONFIG },
        KvCacheConfig { head_dim: 264, ..CONFIG },
        KvCacheConfig { head_dim: 0, ..CONFIG },
        KvCacheConfig { num_blocks: 0, ..CONFIG },
        KvCacheConfig { block_size: 0, ..CONFIG },
        KvCacheConfig { num_kv_heads: 0, ..CONFIG },
        KvCacheConfig { max_num_seqs: 1 << 40, ..CONFIG },
    ] {
        assert!(matches!(refused(config), KernelError::Config(_)), "{config:?}");
    }
    for (num_blocks, block_size) in [(1 << 30, 1 << 20), (i32::MAX as usize, i32::MAX as usize)] {
        let config = KvCacheConfig { num_blocks, block_size, num_layers: 100, ..CONFIG };
        assert!(matches!(refused(config), KernelError::Allocation { .. }), "{config:?}");
    }
}

#[test]
fn memory_is_committed_as_it_is_written() {
    // 6 GiB of address space, of which one page of K and V may be touched.
    let config = KvCacheConfig { num_blocks: 1 << 24, num_layers: 1, ..CONFIG };
    let mut cache = KvCache::new(kernels(), config).expect("address space");
    let meta = StepMeta { row: &[0], query_start: &[0, 1], seq_len: &[1], slot_mapping: &[0], ..StepMeta::default() };
    cache.begin_step(meta).expect("valid");
}

#[test]
fn block_bytes_count_keys_values_and_padding() {
    assert_eq!(CONFIG.block_bytes(), 2 * 4 * (8 + 16) * 4);
    let smollm2 =
        KvCacheConfig { num_layers: 30, block_size: 16, num_kv_heads: 3, head_dim: 64, dtype: KvType::Bf16, ..CONFIG };
    assert_eq!(smollm2.block_bytes(), 30 * 16 * 3 * 64 * 2 * 2);
    let with_scales = KvCacheConfig { dtype: KvType::Int8, ..smollm2 };
    assert_eq!(with_scales.block_bytes(), 30 * 16 * 3 * (64 + 4) * 2);
}

/// Single tokens are stored by who attends to them, unless another request sees the same block.
#[test]
fn a_token_is_seen_in_its_step_by_who_shares_its_block() {
    for kernels in all_kernels(1) {
        let shape =
            Shape { block_size: 16, num_kv_heads: 2, group: 2, head_dim: 24, dtype: KvType::F16, options: OPTIONS };
        let requests = [0, 1].map(|seed| Request::random(&shape, 18, &mut Random(seed)));
        let play = |steps: &[&[(usize, usize)]]| {
            let mut player = Player::new(&kernels, shape, &[18, 18], &mut Random(3));
            player.play(&requests, 0, &[17]);
            player.blocks[1][0] = player.blocks[0][1];
            player.done[1] = 16;
            steps.iter().flat_map(|parts| player.step(&requests, parts)).collect::<Vec<_>>()
        };
        let (together, apart) = (play(&[&[(1, 1), (0, 1)]]), play(&[&[(0, 1)], &[(1, 1)]]));
        assert!(together[0] == apart[1] && together[1] == apart[0], "{}", kernels.isa());
    }
}

#[test]
fn copied_blocks_serve_in_every_layer() {
    for kernels in all_kernels(2) {
        for dtype in [KvType::F32, KvType::F16, KvType::Int8] {
            let shape = Shape { block_size: 16, num_kv_heads: 2, group: 2, head_dim: 24, dtype, options: OPTIONS };
            for layer in 0..NUM_LAYERS {
                let mut random = Random(3);
                let requests = [Request::random(&shape, 40, &mut random)];
                let mut player = Player::new(&kernels, shape, &[40], &mut random);
                player.layer = layer;
                let expected = player.play(&requests, 0, &[39, 1])[39 * shape.query_len()..].to_vec();
                // The request goes on in a copy of its last block, and the old one is spoilt.
                let mut player = Player::new(&kernels, shape, &[40], &mut Random(3));
                player.layer = layer;
                player.play(&requests, 0, &[39]);
                let old = player.blocks[0][2] as i32;
                let new = (0..6).find(|block| !player.blocks[0].contains(&(*block as usize))).expect("a free block");
                let row = player.rows[0] as i32;
                let copy = StepMeta {
                    query_start: &[0],
                    delta_row: &[row],
                    delta_column: &[2],
                    delta_block: &[new],
                    copy_source: &[old],
                    copy_target: &[new],
                    ..StepMeta::default()
                };
                player.cache.begin_step(copy).expect("valid");
                let other = player.cache.config().num_blocks as i32 - 1;
                let spoil = (0..=other).find(|block| *block != new && !player.blocks[0].contains(&(*block as usize)));
                let spoil = StepMeta {
                    query_start: &[0],
                    copy_source: &[spoil.expect("an empty block")],
                    copy_target: &[old],
                    ..StepMeta::default()
                };
                player.cache.begin_step(spoil).expect("valid");
                player.blocks[0][2] = new as usize;
                assert_eq!(player.play(&requests, 0, &[1]), expected);
            }
        }
    }
}
