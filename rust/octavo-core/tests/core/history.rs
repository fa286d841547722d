//! Which tokens the rows of a GPU have had: `History` counts as it does, and `simulator` compares it at each sample with
//! what the sequence has.

use std::collections::{BTreeMap, BTreeSet};

use octavo_core::{ArenaLayout, EngineConfig, Plan, SampleRow};
use octavo_wire::Submission;

use crate::random::WORK;
use crate::simulator::{Columns, Simulator, config, integers, submission};

/// What a row has had, as far as the GPU knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    prompt: BTreeSet<u32>,
    /// How often each token was put out.
    output: BTreeMap<u32, u32>,
}

impl History {
    pub fn of(tokens: &[u32], num_prompt: usize) -> Self {
        let mut history = History::default();
        history.write(&TokenList { row: 0, starts: true, num_prompt, tokens: tokens.to_vec() });
        history
    }

    pub fn count(&mut self, token: u32) {
        *self.output.entry(token).or_default() += 1;
    }

    pub fn write(&mut self, list: &TokenList) {
        if list.starts {
            *self = History::default();
        }
        let (prompt, output) = list.tokens.split_at(list.num_prompt.min(list.tokens.len()));
        self.prompt.extend(prompt);
        output.iter().for_each(|&token| self.count(token));
    }
}

/// What cuda/count_tokens.cu calls an item.
#[derive(Clone, Debug)]
pub struct TokenList {
    pub row: usize,
    pub starts: bool,
    pub num_prompt: usize,
    pub tokens: Vec<u32>,
}

impl TokenList {
    /// Those of a step; none when the engine has no such columns.
    pub fn read(layout: &ArenaLayout, plan: &Plan, arena: &[u8]) -> Vec<TokenList> {
        let count = plan.num_histories;
        if layout.column("counts").is_none() {
            assert_eq!(count, 0);
            return Vec::new();
        }
        assert_eq!(integers(layout, arena, "counts", 9)[8], i64::from(count));
        let column = |name: &str| integers(layout, arena, &format!("history_{name}"), count);
        let [row, starts, num_prompt] = ["row", "starts", "num_prompt"].map(column);
        let first = integers(layout, arena, "history_first", count + 1);
        assert_eq!(first[0], 0);
        let tokens = integers(layout, arena, "history_tokens", first[count as usize] as u32);
        assert_eq!(row.iter().collect::<BTreeSet<_>>().len(), row.len(), "two lists for one row");
        let list = |index: usize| TokenList {
            row: row[index] as usize,
            starts: starts[index] != 0,
            num_prompt: num_prompt[index] as usize,
            tokens: tokens[first[index] as usize..first[index + 1] as usize]
                .iter()
                .map(|&token| token as u32)
                .collect(),
        };
        (0..count as usize).map(list).collect()
    }
}

pub fn has_penalties(row: &SampleRow<'_>) -> bool {
    (row.presence_penalty, row.frequency_penalty, row.repetition_penalty) != (0.0, 0.0, 1.0)
}

fn on_gpu() -> EngineConfig {
    EngineConfig { async_decode: true, device_work: Some(WORK), ..config() }
}

fn penalised(request: u64, prompt: impl IntoIterator<Item = u32>, max_tokens: u32) -> Submission {
    let mut asked = submission(request, prompt, max_tokens);
    asked.sampling.presence_penalty = 0.5;
    asked
}

fn plan(simulator: &mut Simulator) -> (Plan, Columns) {
    simulator.plan(false).expect("something runs")
}

/// Of each list of a step: whether the row starts, and the number of its tokens.
fn lists(columns: &Columns) -> Vec<(bool, usize)> {
    columns.token_lists.iter().map(|list| (list.starts, list.tokens.len())).collect()
}

#[test]
fn a_row_gets_the_prompt_as_it_is_computed_and_then_runs_ahead() {
    let mut simulator = Simulator::new(on_gpu());
    simulator.submit(penalised(1, 1..=40, 5));
    let (_, columns) = plan(&mut simulator);
    assert_eq!((lists(&columns), columns.host_sample.len()), (vec![(true, 32)], 0));
    simulator.commit();
    let (first, columns) = plan(&mut simulator);
    assert_eq!((lists(&columns), columns.host_sample), (vec![(false, 8)], vec![0]));
    let (next, columns) = plan(&mut simulator);
    assert_eq!((first.num_histories, next.num_histories, columns.host_sample), (1, 0, vec![0]));
    assert!(columns.input_ids[0] < 0);
    simulator.finish();
    assert_eq!(simulator.client(1).answers[0].tokens.len(), 5);
}

#[test]
fn every_choice_has_the_prompt_before_they_part() {
    let mut simulator = Simulator::new(on_gpu());
    let mut asked = penalised(1, 1..=9, 5);
    asked.sampling.n = 3;
    simulator.submit(asked);
    let (_, columns) = plan(&mut simulator);
    assert_eq!((lists(&columns), columns.host_sample), (vec![(true, 9); 3], vec![0; 3]));
    simulator.commit();
    let (plan, columns) = plan(&mut simulator);
    assert_eq!((plan.num_histories, columns.host_sample), (0, vec![0; 3]));
    simulator.finish();
}

#[test]
fn what_has_no_room_comes_later_and_the_host_samples_until_then() {
    let mut simulator = Simulator::new(EngineConfig { max_num_batched_tokens: 8, ..on_gpu() });
    simulator.submit(submission(1, 1..=20, 1));
    simulator.finish();
    // All but the last of its tokens are cached.
    simulator.submit(penalised(2, 1..=21, 6));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (_, columns) = plan(&mut simulator);
        seen.push((lists(&columns), columns.host_sample));
        assert_eq!(simulator.plan(false).is_some(), seen.len() == 3, "who waits for the host runs ahead");
        simulator.commit();
    }
    assert_eq!(seen, [(vec![(true, 8)], vec![1]), (vec![(false, 8)], vec![1]), (vec![(false, 7)], vec![0])]);
    simulator.finish();
    assert_eq!(simulator.client(2).answers[0].tokens.len(), 6);
}

#[test]
fn who_was_preempted_starts_anew() {
    let mut simulator = Simulator::new(EngineConfig { num_blocks: 12, max_model_len: 40, ..on_gpu() });
    simulator.submit(penalised(1, 1..=10, 30));
    simulator.submit(penalised(2, 11..=20, 30));
    let mut starts = Vec::new();
    while let Some((_, columns)) = simulator.plan(false) {
        starts.extend(columns.token_lists.iter().filter(|list| list.starts).map(|list| list.num_prompt));
        simulator.commit();
    }
    assert!(simulator.engine.stats().num_preemptions > 0);
    assert_eq!(starts.len() as u64, 2 + simulator.engine.stats().num_preemptions);
    assert!(starts.iter().all(|&num_prompt| num_prompt == 10));
}

#[test]
fn while_tokens_are_banned_the_host_samples() {
    let mut simulator = Simulator::new(on_gpu());
    let mut asked = penalised(1, 1..=5, 6);
    (asked.sampling.min_tokens, asked.sampling.stop_token_ids) = (2, vec![63]);
    simulator.submit(asked);
    for expected in [(vec![], vec![1]), (vec![], vec![1]), (vec![(true, 7)], vec![0])] {
        let (_, columns) = plan(&mut simulator);
        assert_eq!((lists(&columns), columns.host_sample), expected);
        simulator.commit();
    }
    simulator.finish();
}

#[test]
fn more_log_probabilities_than_the_gpu_gives_are_the_hosts() {
    let mut simulator = Simulator::new(EngineConfig { max_logprobs: 40, ..on_gpu() });
    for (request, count) in [(1, 0), (2, 32), (3, 33)] {
        let mut asked = submission(request, [7], 1);
        asked.sampling.logprobs = Some(count);
        simulator.submit(asked);
    }
    assert_eq!(plan(&mut simulator).1.host_sample, [0, 0, 1]);
    simulator.finish();
}
