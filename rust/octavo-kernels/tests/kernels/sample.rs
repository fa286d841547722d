//! Sampling against plain definitions: the tokens that may be drawn, their frequencies, the penalties, the
//! log-probabilities, and independence from the batch.

use crate::common::{Random, all_kernels};
use octavo_kernels::{CpuKernels, KernelError, SampleOutput, SampleRow};
use proptest::prelude::*;

const PLAIN: SampleRow<'static> = SampleRow {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    repetition_penalty: 1.0,
    prompt: &[],
    output: &[],
    seed: 0,
    choice: 0,
    step: 0,
    mask: &[],
    allowed: None,
    banned: &[],
    bad_words: &[],
    logit_bias: &[],
    num_logprobs: None,
    named: &[],
    given: None,
};
const GREEDY: SampleRow<'static> = SampleRow { temperature: 0.0, ..PLAIN };

#[derive(Debug, Clone, PartialEq)]
struct Columns {
    sampled: Vec<i32>,
    logprob: Vec<f32>,
    rank: Vec<i32>,
    top_ids: Vec<i32>,
    top_logprobs: Vec<f32>,
}

const MAX_LOGPROBS: usize = 6;

fn sample(
    kernels: &CpuKernels,
    logits: &[f32],
    vocab_size: usize,
    rows: &[SampleRow<'_>],
) -> (Columns, Result<(), KernelError>) {
    let count = rows.len();
    let mut columns = Columns {
        sampled: vec![-7; count],
        logprob: vec![-7.0; count],
        rank: vec![-7; count],
        top_ids: vec![-7; count * MAX_LOGPROBS],
        top_logprobs: vec![-7.0; count * MAX_LOGPROBS],
    };
    let out = SampleOutput {
        sampled: &mut columns.sampled,
        logprob: &mut columns.logprob,
        rank: &mut columns.rank,
        top_ids: &mut columns.top_ids,
        top_logprobs: &mut columns.top_logprobs,
        max_logprobs: MAX_LOGPROBS,
        lists: &mut [],
    };
    let result = kernels.sample(&mut logits.to_vec(), vocab_size, rows, out);
    (columns, result)
}

/// The most probable token of each row; -1: none.
pub fn sample_greedily(kernels: &CpuKernels, logits: &[f32], vocab_size: usize) -> Vec<i32> {
    sample(kernels, logits, vocab_size, &vec![GREEDY; logits.len() / vocab_size]).0.sampled
}

fn sample_one(kernels: &CpuKernels, logits: &[f32], row: SampleRow<'_>) -> usize {
    let (columns, result) = sample(kernels, logits, logits.len(), &[row]);
    result.expect("a token");
    columns.sampled[0] as usize
}

fn has_bit(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

/// Where the end of the output that could begin a bad word begins.
fn start_of(row: &SampleRow<'_>, word: &[u32]) -> usize {
    (row.output.len() + 1).saturating_sub(word.len())
}

/// Masks, bias, bans and penalties, token by token.
fn penalised(logits: &[f32], row: &SampleRow<'_>) -> Vec<f64> {
    (0..logits.len() as u32)
        .map(|token| {
            let mut logit = f64::from(logits[token as usize]);
            logit += row.logit_bias.iter().filter(|bias| bias.0 == token).map(|bias| f64::from(bias.1)).sum::<f64>();
            let forbidden = !row.mask.is_empty() && !has_bit(row.mask, token)
                || row.allowed.is_some_and(|allowed| !allowed.contains(&token))
                || row.banned.contains(&token)
                || row.bad_words.iter().any(|word| *word == [&row.output[start_of(row, word)..], &[token]].concat());
            if forbidden || logit.is_nan() {
                return f64::NEG_INFINITY;
            }
            if row.prompt.contains(&token) || row.output.contains(&token) {
                let penalty = f64::from(row.repetition_penalty);
                logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
            let count = row.output.iter().filter(|&&output| output == token).count() as f64;
            logit
                - f64::from(row.frequency_penalty) * count
                - if count > 0.0 { f64::from(row.presence_penalty) } else { 0.0 }
        })
        .collect()
}

/// The probability of each token, by sorting everything.
fn probabilities(logits: &[f32], row: &SampleRow<'_>) -> Vec<f64> {
    let logits = penalised(logits, row);
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<f64> =
        logits.iter().map(|logit| ((logit - largest) / f64::from(row.temperature)).exp()).collect();
    weights.iter_mut().filter(|weight| **weight < f64::from(row.min_p)).for_each(|weight| *weight = 0.0);
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
    if row.top_k > 0 && (row.top_k as usize) < weights.len() {
        let kth = weights[order[row.top_k as usize - 1]];
        weights.iter_mut().filter(|weight| **weight < kth).for_each(|weight| *weight = 0.0);
    }
    let total: f64 = weights.iter().sum();
    let mut before = 0.0;
    for &token in &order {
        let weight = weights[token];
        if row.top_p < 1.0 && before >= f64::from(row.top_p) * total {
            weights[token] = 0.0;
        }
        before += weight;
    }
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Draws often, and compares the frequencies with the probabilities by chi-square; rare tokens share a bin.
fn check_frequencies(kernels: &CpuKernels, logits: &[f32], row: SampleRow<'_>, draws: usize) {
    let expected = probabilities(logits, &row);
    let rows: Vec<SampleRow<'_>> = (0..64).map(|choice| SampleRow { choice, ..row }).collect();
    let repeated: Vec<f32> = logits.iter().copied().cycle().take(64 * logits.len()).collect();
    let mut seen = vec![0_usize; logits.len()];
    for step in 0..draws / 64 {
        let rows: Vec<SampleRow<'_>> = rows.iter().map(|row| SampleRow { step: step as u64, ..*row }).collect();
        let (columns, result) = sample(kernels, &repeated, logits.len(), &rows);
        result.expect("a token");
        columns.sampled.iter().for_each(|&token| seen[token as usize] += 1);
    }
    let draws = (draws / 64 * 64) as f64;
    let (mut chi_square, mut bins, mut rare) = (0.0, 0, (0.0, 0.0));
    for (token, &probability) in expected.iter().enumerate() {
        let (count, mean) = (seen[token] as f64, probability * draws);
        assert!(probability > 0.0 || count == 0.0, "token {token} must not be drawn: {row:?}");
        if mean < 8.0 {
            rare = (rare.0 + count, rare.1 + mean);
        } else {
            chi_square += (count - mean).powi(2) / mean;
            bins += 1;
        }
    }
    if rare.1 > 0.0 {
        chi_square += (rare.0 - rare.1).powi(2) / rare.1.max(1.0);
        bins += 1;
    }
    let freedom = f64::from(bins - 1);
    assert!(chi_square < freedom + 6.0 * (2.0 * freedom).sqrt() + 6.0, "chi² {chi_square} of {freedom}: {row:?}");
}

#[test]
fn frequencies_follow_the_probabilities() {
    let rows = [
        PLAIN,
        SampleRow { temperature: 0.6, ..PLAIN },
        SampleRow { temperature: 1.7, top_k: 9, ..PLAIN },
        SampleRow { top_p: 0.8, ..PLAIN },
        SampleRow { top_p: 0.05, ..PLAIN },
        SampleRow { min_p: 0.2, ..PLAIN },
        SampleRow { temperature: 2.0, top_k: 40, top_p: 0.9, min_p: 0.02, ..PLAIN },
        SampleRow { banned: &[3, 4, 5], logit_bias: &[(7, 2.0), (8, -100.0)], ..PLAIN },
        SampleRow { allowed: Some(&[1, 2, 4, 8, 9]), banned: &[8], min_p: 0.01, ..PLAIN },
        SampleRow { output: &[3, 1, 6, 1], frequency_penalty: 0.7, presence_penalty: -0.4, ..PLAIN },
        SampleRow { prompt: &[0, 5], output: &[2, 2], repetition_penalty: 1.6, top_k: 7, ..PLAIN },
        SampleRow { top_k: 1, ..PLAIN },
        SampleRow { mask: &[0xa5a5_5a5b, u32::MAX, 3], temperature: 1.3, ..PLAIN },
        SampleRow { mask: &[0x00ff_f0f3, 0x0f], allowed: Some(&[0, 1, 2, 3, 4, 9]), top_p: 0.9, ..PLAIN },
    ];
    for kernels in all_kernels(2) {
        for vocab_size in [11, 50, 2100] {
            let logits: Vec<f32> = Random(5).normals(vocab_size).iter().map(|x| 1.5 * x).collect();
            for (seed, row) in rows.iter().enumerate() {
                check_frequencies(&kernels, &logits, SampleRow { seed: seed as u64, ..*row }, 12_800);
            }
        }
    }
}

#[test]
fn truncation_finds_the_same_tokens_as_sorting_in_a_large_vocabulary() {
    for kernels in all_kernels(1) {
        for spread in [0.01_f32, 1.0, 6.0] {
            let mut random = Random(9);
            // Many equal values, so that the cuts fall among them.
            let logits: Vec<f32> = random.normals(49_152).iter().map(|x| (x * 50.0).round() / 50.0 * spread).collect();
            for row in [
                SampleRow { top_k: 50, ..PLAIN },
                SampleRow { top_k: 5000, top_p: 0.5, ..PLAIN },
                SampleRow { top_p: 0.3, ..PLAIN },
                SampleRow { top_p: 0.95, ..PLAIN },
                SampleRow { min_p: 0.1, top_p: 0.7, ..PLAIN },
            ] {
                let expected = probabilities(&logits, &row);
                for step in 0..40 {
                    let token = sample_one(&kernels, &logits, SampleRow { step, ..row });
                    assert!(expected[token] > 0.0, "{row:?} spread {spread}: token {token}");
                }
            }
        }
    }
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    for kernels in all_kernels(2) {
        for vocab_size in [1, 7, 16, 17, 1023, 1025, 5000] {
            let mut random = Random(vocab_size as u64);
            for _ in 0..20 {
                let mut logits = random.normals(vocab_size);
                let (a, b) = (random.below(vocab_size), random.below(vocab_size));
                (logits[a], logits[b]) = (50.0, 50.0);
                assert_eq!(sample_one(&kernels, &logits, GREEDY), a.min(b));
                logits[a.min(b)] = f32::NAN;
                if a != b {
                    assert_eq!(sample_one(&kernels, &logits, GREEDY), a.max(b));
                    logits[a.max(b)] = f32::INFINITY;
                    assert_eq!(sample_one(&kernels, &logits, PLAIN), a.max(b));
                }
            }
            let negative: Vec<f32> = (0..vocab_size).map(|token| -100.0 - token as f32).collect();
            assert_eq!(sample_one(&kernels, &negative, GREEDY), 0);
        }
    }
}

#[test]
fn a_row_without_a_token_is_named_and_the_others_are_done() {
    for kernels in all_kernels(2) {
        let nan = f32::NAN;
        let minus = f32::NEG_INFINITY;
        let logits = [nan, nan, nan, 1.0, 3.0, 2.0, minus, minus, nan, 5.0, 6.0, 7.0];
        let ban_all = SampleRow { banned: &[0, 1, 2], num_logprobs: Some(1), ..PLAIN };
        let asks = SampleRow { num_logprobs: Some(2), ..GREEDY };
        let (columns, result) = sample(&kernels, &logits, 3, &[asks, GREEDY, PLAIN, ban_all]);
        assert_eq!(result, Err(KernelError::NoToken { rows: vec![0, 2, 3] }));
        assert_eq!(columns.sampled, [-1, 1, -1, -1]);
        assert_eq!(columns.top_ids[..3], [-1, -1, -1]);
    }
}

#[test]
fn greedy_rows_are_those_that_want_the_largest_raw_logit() {
    assert!(GREEDY.is_greedy() && SampleRow { top_k: 3, top_p: 0.5, temperature: f32::NAN, ..GREEDY }.is_greedy());
    for row in [
        PLAIN,
        SampleRow { num_logprobs: Some(0), ..GREEDY },
        SampleRow { given: Some(0), ..GREEDY },
        SampleRow { banned: &[1], ..GREEDY },
        SampleRow { allowed: Some(&[1]), ..GREEDY },
        SampleRow { allowed: Some(&[]), ..GREEDY },
        SampleRow { bad_words: &[vec![1, 2]], ..GREEDY },
        SampleRow { logit_bias: &[(1, 1.0)], ..GREEDY },
        SampleRow { presence_penalty: 0.5, ..GREEDY },
        SampleRow { frequency_penalty: 0.5, ..GREEDY },
        SampleRow { repetition_penalty: 1.1, ..GREEDY },
        SampleRow { mask: &[1], ..GREEDY },
    ] {
        assert!(!row.is_greedy(), "{row:?}");
    }
}

#[test]
fn a_mask_and_allowed_tokens_leave_what_both_have_and_the_raw_log_probabilities() {
    for kernels in all_kernels(2) {
        let logits: Vec<f32> = (0..100).map(|token| token as f32 / 8.0).collect();
        let row = SampleRow { num_logprobs: Some(1), ..GREEDY };
        let both = SampleRow { mask: &[u32::MAX, 0, 0b0110], allowed: Some(&[3, 40, 64, 65]), ..row };
        let (free, _) = sample(&kernels, &logits, 100, &[row]);
        let (columns, result) = sample(&kernels, &logits.repeat(2), 100, &[both, both]);
        result.expect("a token");
        assert_eq!(columns.sampled, [65, 65]);
        assert_eq!(columns.rank, [35, 35]);
        assert!((columns.logprob[0] - (free.logprob[0] - 34.0 / 8.0)).abs() < 1e-5);
        assert_eq!(columns.top_ids[0], 99);
        let none = SampleRow { mask: &[1], allowed: Some(&[2]), ..GREEDY };
        assert_eq!(sample(&kernels, &logits, 100, &[none]).1, Err(KernelError::NoToken { rows: vec![0] }));
    }
}

#[test]
fn wrong_lengths_are_errors() {
    let kernels = &all_kernels(1)[0];
    assert!(sample(kernels, &[0.0; 5], 3, &[GREEDY]).1.is_err());
    assert!(sample(kernels, &[], 0, &[GREEDY]).1.is_err());
    let too_many = SampleRow { num_logprobs: Some(MAX_LOGPROBS as u32 + 1), ..GREEDY };
    assert!(sample(kernels, &[0.0; 9], 9, &[too_many]).1.is_err());
    let unknown = SampleRow { banned: &[9], prompt: &[77], output: &[u32::MAX], repetition_penalty: 2.0, ..GREEDY };
    assert_eq!(sample_one(kernels, &[0.0, 1.0, 0.5], SampleRow { logit_bias: &[(3, 9.0)], ..unknown }), 1);
    assert_eq!(sample(kernels, &[], 4, &[]).1, Ok(()));
}

#[test]
fn log_probabilities_are_those_of_the_raw_logits() {
    for kernels in all_kernels(2) {
        for vocab_size in [3, 20, 1500, 49_152] {
            let mut random = Random(vocab_size as u64);
            let mut logits: Vec<f32> = random.normals(vocab_size).iter().map(|x| 3.0 * x).collect();
            logits[1] = f32::NAN;
            let row = SampleRow {
                num_logprobs: Some(5),
                output: &[0, 2, 2],
                frequency_penalty: 1.0,
                repetition_penalty: 1.3,
                logit_bias: &[(2, 30.0)],
                ..GREEDY
            };
            let (columns, result) = sample(&kernels, &logits, vocab_size, &[row]);
            result.expect("a token");
            assert_eq!(columns.sampled, [2]);
            let raw: Vec<f64> =
                logits.iter().map(|&x| if x.is_nan() { f64::NEG_INFINITY } else { f64::from(x) }).collect();
            let log_sum = raw.iter().map(|x| x.exp()).sum::<f64>().ln();
            assert!((f64::from(columns.logprob[0]) - (raw[2] - log_sum)).abs() < 1e-5);
            assert_eq!(columns.rank[0] as usize, 1 + raw.iter().filter(|&&x| x > raw[2]).count());
            let mut order: Vec<usize> = (0..vocab_size).filter(|&token| token != 1).collect();
            order.sort_by(|&a, &b| raw[b].total_cmp(&raw[a]));
            for place in 0..MAX_LOGPROBS {
                if place < order.len().min(5) {
                    assert_eq!(columns.top_ids[place] as usize, order[place]);
                    let expected = raw[order[place]] - log_sum;
                    assert!((f64::from(columns.top_logprobs[place]) - expected).abs() < 1e-5);
                } else {
                    assert_eq!((columns.top_ids[place], columns.top_logprobs[place]), (-1, f32::NEG_INFINITY));
                }
            }
        }
    }
}

/// Lists that the columns have no room for, of named tokens, and for tokens that are known.
#[test]
fn log_probabilities_of_any_number_of_tokens() {
    for kernels in all_kernels(2) {
        let vocab_size = 700;
        let logits = Random(3).normals(vocab_size);
        let log_sum = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let of = |token: u32| (f64::from(logits[token as usize]) - log_sum) as f32;
        let named: Vec<u32> = (0..20).map(|index| index * 31 % 700).collect();
        let rows = [
            SampleRow { num_logprobs: Some(700), ..PLAIN },
            SampleRow { num_logprobs: Some(0), named: &named, ..GREEDY },
            SampleRow { num_logprobs: Some(2), named: &named[..3], allowed: Some(&[9]), ..GREEDY },
            SampleRow { num_logprobs: Some(3), given: Some(600), allowed: Some(&[9]), ..GREEDY },
            SampleRow { num_logprobs: Some(7), ..GREEDY },
        ];
        let count = rows.len();
        let (mut sampled, mut logprob, mut rank) = (vec![0; count], vec![0.0; count], vec![0; count]);
        let (mut top_ids, mut top_logprobs) = (vec![0; count * MAX_LOGPROBS], vec![0.0; count * MAX_LOGPROBS]);
        let mut lists = vec![Vec::new(); count];
        let out = SampleOutput {
            sampled: &mut sampled,
            logprob: &mut logprob,
            rank: &mut rank,
            top_ids: &mut top_ids,
            top_logprobs: &mut top_logprobs,
            max_logprobs: MAX_LOGPROBS,
            lists: &mut lists,
        };
        let mut all: Vec<f32> = logits.iter().copied().cycle().take(count * vocab_size).collect();
        kernels.sample(&mut all, vocab_size, &rows, out).expect("a token");
        assert_eq!((sampled[2], sampled[3]), (9, 600));
        assert!((logprob[3] - of(600)).abs() < 1e-5);
        assert_eq!(rank[3] as usize, 1 + logits.iter().filter(|&&x| x > logits[600]).count());
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [700, 20, 0, 0, 7]);
        assert!(lists.iter().flatten().all(|&(token, logprob)| (logprob - of(token)).abs() < 1e-5));
        assert!(lists[0].is_sorted_by(|a, b| a.1 >= b.1) && lists[4] == lists[0][..7]);
        assert!(lists[1].iter().map(|&(token, _)| token).eq(named.iter().copied()));
        assert_eq!(top_ids[2 * MAX_LOGPROBS..][..4], [0, 31, 62, -1]);
        assert!(top_ids[3 * MAX_LOGPROBS..][..3].iter().zip(&lists[0]).all(|(&id, best)| id as u32 == best.0));
    }
}

#[test]
fn an_uneven_draw_is_reproducible_and_depends_on_seed_step_and_choice() {
    let kernels = &all_kernels(1)[0];
    let logits = vec![0.0; 30_000];
    let token = |seed, step, choice| sample_one(kernels, &logits, SampleRow { seed, step, choice, ..PLAIN });
    let first = token(1, 2, 3);
    assert_eq!(first, token(1, 2, 3));
    for other in [token(2, 2, 3), token(1, 3, 3), token(1, 2, 4), token(1 << 32 | 1, 2, 3), token(1, 1 << 32 | 2, 3)] {
        assert_ne!(first, other);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn penalties_follow_their_definition(
        logits in prop::collection::vec(-4.0_f32..4.0, 4..60),
        prompt in prop::collection::vec(0_u32..70, 0..20),
        output in prop::collection::vec(0_u32..12, 0..30),
        presence_penalty in -2.0_f32..2.0,
        frequency_penalty in -2.0_f32..2.0,
        repetition_penalty in 0.3_f32..2.0,
        allowed in prop::option::of(prop::collection::btree_set(0_u32..70, 0..30)),
        banned in prop::collection::vec(0_u32..70, 0..3),
        bad_words in prop::collection::vec(prop::collection::vec(0_u32..12, 1..3), 0..20),
        logit_bias in prop::collection::vec((0_u32..70, -5.0_f32..5.0), 0..4),
        num_logprobs in prop::option::of(0_u32..3),
    ) {
        let allowed: Option<Vec<u32>> = allowed.map(|allowed| allowed.into_iter().collect());
        let row = SampleRow {
            prompt: &prompt,
            output: &output,
            presence_penalty,
            frequency_penalty,
            repetition_penalty,
            allowed: allowed.as_deref(),
            banned: &banned,
            bad_words: &bad_words,
            logit_bias: &logit_bias,
            num_logprobs,
            ..GREEDY
        };
        let expected = penalised(&logits, &row);
        let largest = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for kernels in all_kernels(1) {
            let (columns, result) = sample(&kernels, &logits, logits.len(), &[row]);
            if largest == f64::NEG_INFINITY {
                prop_assert_eq!((columns.sampled[0], result), (-1, Err(KernelError::NoToken { rows: vec![0] })));
                continue;
            }
            let token = columns.sampled[0] as usize;
            prop_assert!(expected[token] > largest - 1e-4, "token {} of {:?}", token, expected);
            if num_logprobs.is_some() {
                let log_sum = logits.iter().map(|x| x.exp()).sum::<f32>().ln();
                prop_assert!((columns.logprob[0] - (logits[token] - log_sum)).abs() < 1e-4);
                prop_assert_eq!(columns.rank[0] as usize, 1 + logits.iter().filter(|&&x| x > logits[token]).count());
            }
        }
    }

    /// Every row alone gives what it gave among the others, on any number of threads.
    #[test]
    fn a_row_does_not_feel_its_batch(
        vocab_size in prop::sample::select(vec![5_usize, 300, 3000]),
        settings in prop::collection::vec(
            (0.0_f32..2.0, 0_u32..8, 0.1_f32..1.1, 0.0_f32..0.3, prop::option::of(0_u32..5), 1.0_f32..1.5),
            1..9,
        ),
        threads in 2_usize..4,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let logits = random.normals(vocab_size * settings.len());
        let history: Vec<u32> = (0..9).map(|_| random.below(vocab_size) as u32).collect();
        let rows: Vec<SampleRow<'_>> = settings
            .iter()
            .map(|&(temperature, top_k, top_p, min_p, num_logprobs, repetition_penalty)| SampleRow {
                temperature,
                top_k,
                top_p: top_p.min(1.0),
                min_p,
                num_logprobs,
                repetition_penalty,
                prompt: &history[..4],
                output: &history[4..],
                frequency_penalty: 0.5,
                seed: random.next(),
                step: random.next(),
                ..PLAIN
            })
            .collect();
        for (alone, together) in all_kernels(1).iter().zip(&all_kernels(threads)) {
            let (all, result) = sample(together, &logits, vocab_size, &rows);
            prop_assert!(result.is_ok());
            for (index, row) in rows.iter().enumerate() {
                let (one, _) = sample(alone, &logits[index * vocab_size..][..vocab_size], vocab_size, &[*row]);
                prop_assert_eq!(one.sampled[0], all.sampled[index]);
                prop_assert_eq!(one.logprob[0].to_bits(), all.logprob[index].to_bits());
                prop_assert_eq!(one.rank[0], all.rank[index]);
                prop_assert_eq!(&one.top_ids[..], &all.top_ids[index * MAX_LOGPROBS..][..MAX_LOGPROBS]);
            }
        }
    }
}
