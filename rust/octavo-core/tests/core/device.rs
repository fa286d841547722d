//! The columns that only a GPU needs, held to what the lists of cuda/attention.cuh promise.

use std::collections::{BTreeMap, HashSet};

use octavo_core::{Arenas, DeviceWork, Plan};

use crate::history::{TokenList, has_penalties};
use crate::simulator::{Columns, Simulator, integers};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    pub entry: usize,
    pub first_row: usize,
    pub kv_begin: usize,
    pub kv_end: usize,
    pub slot: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    pub token: i64,
    pub first_slot: i64,
    pub num_slots: i64,
    pub slot_stride: i64,
}

/// The lists of a step.
#[derive(Debug)]
pub struct Lists {
    pub decode: Vec<Item>,
    pub prefill: Vec<Item>,
    pub merges: Vec<Merge>,
}

/// Where the parts of a row went: slot, whether the row sees any key of the part.
type Parts = BTreeMap<i64, bool>;

impl Simulator {
    pub fn lists(&mut self, plan: &Plan) -> Lists {
        let layout = self.engine.arena_layout();
        let arena = self.arenas.arena(plan.arena);
        let counts = integers(layout, arena, "counts", 9);
        let scalars = [plan.num_reqs, plan.num_tokens, plan.num_samples, plan.num_table_deltas, plan.num_block_copies];
        assert_eq!(counts[..5], scalars.map(i64::from));
        let items = |list: &str, count: i64| -> Vec<Item> {
            let column = |name: &str| integers(layout, arena, &format!("{list}_{name}"), count as u32);
            let first_row = if list == "decode" { vec![0; count as usize] } else { column("first_row") };
            let columns = [column("entry"), first_row, column("kv_begin"), column("kv_end"), column("slot")];
            let item = |index: usize| {
                let [entry, first_row, kv_begin, kv_end, slot] =
                    [0, 1, 2, 3, 4].map(|name: usize| columns[name][index]);
                let [entry, first_row, kv_begin, kv_end] =
                    [entry, first_row, kv_begin, kv_end].map(|value| usize::try_from(value).expect("not negative"));
                Item { entry, first_row, kv_begin, kv_end, slot }
            };
            (0..count as usize).map(item).collect()
        };
        let merges = ["token", "first_slot", "num_slots", "slot_stride"]
            .map(|name| integers(layout, arena, &format!("merge_{name}"), counts[7] as u32));
        let merge = |index: usize| {
            let [token, first_slot, num_slots, slot_stride] = [0, 1, 2, 3].map(|name: usize| merges[name][index]);
            Merge { token, first_slot, num_slots, slot_stride }
        };
        Lists {
            decode: items("decode", counts[5]),
            prefill: items("prefill", counts[6]),
            merges: (0..merges[0].len()).map(merge).collect(),
        }
    }

    /// Does nothing when the engine has no such columns.
    pub fn check_device_columns(&mut self, plan: &Plan, columns: &Columns) {
        let Some(work) = self.engine.config().device_work else { return };
        let lists = self.lists(plan);
        let checker = Checker { work, columns, group: (work.num_heads / work.num_kv_heads) as usize };
        checker.check(&lists);
        self.check_samples(plan);
        let layout = self.engine.arena_layout();
        assert_eq!((layout.columns[0].name, layout.input_bytes), ("counts", layout.column("sampled").unwrap().offset));
        let max_samples = self.engine.config().max_num_seqs;
        let logits_index = integers(layout, self.arenas.arena(plan.arena), "logits_index", max_samples);
        assert!(logits_index[plan.num_samples as usize..].iter().all(|&token| token == 0));
    }

    fn check_samples(&mut self, plan: &Plan) {
        let layout = self.engine.arena_layout();
        let arena = self.arenas.arena(plan.arena);
        let lists = TokenList::read(layout, plan, arena);
        let room = layout.column("history_tokens").expect("the engine is for a GPU").len
            - lists.iter().map(|list| list.tokens.len()).sum::<usize>();
        let integers = |name: &str| integers(layout, arena, name, plan.num_samples);
        let floats = |name: &str| integers(name).into_iter().map(|bits| f32::from_bits(bits as u32));
        let [top_k, seed, choice, draw_step, host_sample, num_logprobs, logits_index] =
            ["top_k", "seed", "choice", "draw_step", "host_sample", "num_logprobs", "logits_index"].map(integers);
        let [temperature, top_p, min_p, presence, frequency, repetition] =
            ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"]
                .map(|name| floats(name).collect::<Vec<_>>());
        let mut num_host_samples = 0;
        for (index, row) in self.engine.sampling(plan.epoch).expect("the step is in flight").enumerate() {
            assert_eq!((temperature[index], top_p[index], min_p[index]), (row.temperature, row.top_p, row.min_p));
            assert_eq!((top_k[index], choice[index]), (i64::from(row.top_k), i64::from(row.choice)));
            assert_eq!((seed[index] as u64, draw_step[index] as u64), (row.seed, row.step));
            let penalties = (row.presence_penalty, row.frequency_penalty, row.repetition_penalty);
            assert_eq!((presence[index], frequency[index], repetition[index]), penalties);
            assert_eq!(num_logprobs[index] as i32, row.num_logprobs.map_or(-1, |count| count as i32));
            let is_hosts = !row.mask.is_all()
                || !row.banned.is_empty()
                || !row.logit_bias.is_empty()
                || row.num_logprobs > Some(32)
                || row.given.is_some();
            if is_hosts || !has_penalties(&row) {
                assert_eq!(host_sample[index], i64::from(is_hosts));
            } else if host_sample[index] != 0 {
                let num_rows = logits_index.iter().filter(|&&token| token == logits_index[index]).count();
                assert!(room < num_rows, "there was room for {room} more tokens that the row has had");
            }
            num_host_samples += host_sample[index];
        }
        assert_eq!(num_host_samples, i64::from(plan.num_host_samples));
    }
}

struct Checker<'a> {
    work: DeviceWork,
    columns: &'a Columns,
    group: usize,
}

impl Checker<'_> {
    fn num_query(&self, entry: usize) -> usize {
        (self.columns.query_start[entry + 1] - self.columns.query_start[entry]) as usize
    }

    fn context(&self, entry: usize) -> usize {
        self.columns.seq_len[entry] as usize - self.num_query(entry)
    }

    fn check(&self, lists: &Lists) {
        let work = &self.work;
        let decode_units = work.num_kv_heads as usize * self.group.div_ceil(16);
        self.check_list(&lists.decode, true, self.group, work.decode_units as usize / decode_units);
        let prefill_at_once = (work.prefill_units / work.num_kv_heads) as usize;
        self.check_list(&lists.prefill, false, work.prefill_tile_rows as usize, prefill_at_once);
        let mut parts = BTreeMap::new();
        for entry in 0..self.columns.row.len() {
            let (list, tile_rows) = match self.num_query(entry) {
                1 => (&lists.decode, self.group),
                _ => (&lists.prefill, work.prefill_tile_rows as usize),
            };
            self.follow_rows(entry, list, tile_rows, &mut parts);
        }
        self.check_merges(&lists.merges, &parts);
    }

    /// Order, sizes, and the chunk.
    fn check_list(&self, items: &[Item], decode: bool, tile_rows: usize, at_once: usize) {
        assert!(items.is_sorted_by(|one, other| one.kv_end - one.kv_begin >= other.kv_end - other.kv_begin));
        let mut ends = BTreeMap::new();
        for item in items {
            assert_eq!(self.num_query(item.entry) == 1, decode);
            assert!(item.kv_begin < item.kv_end && item.first_row % tile_rows == 0);
            let end = ends.entry((item.entry, item.first_row)).or_insert(0);
            *end = item.kv_end.max(*end);
        }
        let num_items = |chunk: usize| ends.values().map(|end| end.div_ceil(chunk)).sum::<usize>();
        let fits =
            (128..).step_by(64).find(|&chunk| num_items(chunk) <= at_once.max(ends.len())).expect("one is long enough");
        if !decode && ends.len() < at_once {
            assert_eq!(items.len(), num_items(fits));
        }
        let split = items.iter().filter(|item| item.slot >= 0);
        let Some(longest) = split.map(|item| item.kv_end - item.kv_begin).max() else { return };
        assert!(decode || ends.len() < at_once);
        let chunk = if decode { longest } else { fits };
        assert!(chunk >= 128 && chunk % 64 == 0);
        assert!(
            items.len() == num_items(chunk) && items.len() <= if decode { ends.len() + 4 * at_once } else { at_once }
        );
        for item in items {
            let end = ends[&(item.entry, item.first_row)];
            assert!(item.kv_begin % chunk == 0 && item.kv_end == end.min(item.kv_begin + chunk));
        }
    }

    /// Each row of an entry meets each key that it may see, once.
    fn follow_rows(&self, entry: usize, list: &[Item], tile_rows: usize, parts: &mut BTreeMap<(usize, usize), Parts>) {
        let items: Vec<&Item> = list.iter().filter(|item| item.entry == entry).collect();
        for row in 0..self.num_query(entry) * self.group {
            let (token, head) = (row / self.group, row % self.group);
            let end = self.context(entry) + token + 1;
            let mut found: Vec<&Item> = items
                .iter()
                .filter(|item| (item.first_row..item.first_row + tile_rows).contains(&row))
                .copied()
                .collect();
            found.sort_by_key(|item| item.kv_begin);
            let mut seen = 0;
            for item in &found {
                if item.kv_begin < end {
                    assert_eq!(item.kv_begin, seen, "row {row} of entry {entry}");
                    seen = item.kv_end.min(end);
                }
            }
            assert_eq!(seen, end, "row {row} of entry {entry}");
            if found[0].slot < 0 {
                assert_eq!(found.len(), 1);
                continue;
            }
            let slots = found.iter().map(|item| (item.slot + token as i64, item.kv_begin < end));
            let token = self.columns.query_start[entry] as usize + token;
            assert!(parts.insert((token, head), slots.collect()).is_none());
        }
    }

    fn check_merges(&self, merges: &[Merge], parts: &BTreeMap<(usize, usize), Parts>) {
        let mut written = HashSet::new();
        for ((_, head), parts) in parts {
            assert!(parts.keys().all(|&slot| slot >= 0 && (slot as usize) < self.work.max_slots()));
            assert!(parts.keys().all(|&slot| written.insert((slot, *head))), "two parts in one slot");
        }
        let tokens: HashSet<usize> = merges.iter().map(|merge| merge.token as usize).collect();
        assert_eq!(tokens.len(), merges.len(), "a token is merged twice");
        assert!(parts.keys().all(|(token, _)| tokens.contains(token)), "parts that nobody merges");
        for merge in merges {
            let slots: HashSet<i64> =
                (0..merge.num_slots).map(|part| merge.first_slot + part * merge.slot_stride).collect();
            for head in 0..self.group {
                let parts = &parts[&(merge.token as usize, head)];
                assert!(slots.iter().all(|slot| parts.contains_key(slot)), "a slot is read that nothing wrote");
                assert!(parts.iter().all(|(slot, has_keys)| !has_keys || slots.contains(slot)), "a part is lost");
            }
        }
    }
}
