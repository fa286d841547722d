//! Causal attention over the paged cache: the calls, and what they share.
//!
//! A step enters by `attention`, one call a layer on slices, or, inside a team, by the two phases `rotate_and_store` and
//! `attend`. store.rs rotates and writes K and V, which turn.rs brings into a page's order; schedule.rs cuts the step into
//! items, for which sharing.rs finds what sequences have in common; work.rs computes one: tile.rs says what its rows see,
//! split.rs where its K and V lie, tall.rs takes its rows through the products of rows.rs, for many of them on K and V that
//! widen.rs has converted, weigh.rs does the softmax of a split, state.rs merges that of several.

mod rows;
mod schedule;
mod sharing;
mod split;
mod state;
mod store;
mod tall;
mod tile;
mod turn;
mod weigh;
mod widen;
mod work;

use crate::error::check_length;
use crate::kv_cache::{KvElement, Pages};
use crate::linear::{Activations, BLOCK};
use crate::pool::{Team, lock};
use crate::{KernelError, KvCache, KvType};

pub(crate) use schedule::Schedule;
pub(crate) use store::Rotation;
use store::{Source, Store, StoreCall};
use work::{Call, Out, Work};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Factor of the scores, commonly 1 / sqrt(head_dim).
    pub scale: f32,
    /// Keys that a query sees, its own included; 0 means all.
    pub sliding_window: usize,
    /// Scores become softcap · tanh(score / softcap); 0 means that they stay.
    pub softcap: f32,
}

/// Attention writes heads as the products read them; otherwise as floats, from which the codes are made.
pub(crate) fn writes_whole_blocks(head_dim: usize) -> bool {
    head_dim.is_multiple_of(BLOCK)
}

/// A step's fused projections, [tokens, stride]: all query heads, then all key heads, then all value heads of a token.
#[derive(Clone, Copy)]
pub(crate) struct QkvRows {
    pub(crate) pointer: *mut f32,
    pub(crate) stride: usize,
}

// SAFETY: a pointer like any other; who uses it says so in an unsafe block of his own.
unsafe impl Send for QkvRows {}
// SAFETY: as above.
unsafe impl Sync for QkvRows {}

/// Floats of a token's heads, [tokens, stride].
#[derive(Clone, Copy)]
pub(crate) struct HeadRows {
    pub(crate) pointer: *mut f32,
    pub(crate) stride: usize,
}

// SAFETY: as `QkvRows`.
unsafe impl Send for HeadRows {}
// SAFETY: as `QkvRows`.
unsafe impl Sync for HeadRows {}

/// What a step's attention reads and writes.
#[derive(Clone, Copy)]
struct Rows<'a> {
    query: HeadRows,
    source: Source,
    rotation: Option<&'a Rotation<'a>>,
    out: Out<'a>,
}

impl KvCache {
    /// Writes key and value of the step's tokens into the cache, then attends from every query over its cached context.
    ///
    /// query, out [t, num_heads · head_dim]; key, value [t, num_kv_heads · head_dim]; t as in `begin_step`. A token's
    /// output depends on its own request alone, to the bit, and not on how the request was cut into steps. Where two
    /// tokens share a slot, the later one stays.
    pub fn attention(
        &mut self,
        layer: usize,
        query: &[f32],
        key: &[f32],
        value: &[f32],
        out: &mut [f32],
        options: AttentionOptions,
    ) -> Result<(), KernelError> {
        let config = &self.config;
        let tokens = self.num_tokens;
        if layer >= config.num_layers {
            let (value, limit) = (layer as i64, config.num_layers as i64);
            return Err(KernelError::Index { name: "layer", at: 0, value, limit });
        }
        let kv_len = config.num_kv_heads * config.head_dim;
        check_length("key", key.len(), tokens * kv_len)?;
        check_length("value", value.len(), tokens * kv_len)?;
        check_length("out", out.len(), query.len())?;
        if tokens == 0 {
            return check_length("query", query.len(), 0);
        }
        let group = query.len() / (tokens * kv_len);
        if group == 0 || query.len() != tokens * kv_len * group {
            let text = format!(
                "query has {} elements: with {tokens} tokens, {} kv heads and head_dim {} that is no whole group of heads",
                query.len(),
                config.num_kv_heads,
                config.head_dim
            );
            return Err(KernelError::Config(text));
        }
        self.prepare(group);
        let read_only = |rows: &[f32], stride| HeadRows { pointer: rows.as_ptr().cast_mut(), stride };
        let source = Source { key: read_only(key, kv_len), value: read_only(value, kv_len) };
        let query = read_only(query, kv_len * group);
        let out = Out::Floats(HeadRows { pointer: out.as_mut_ptr(), stride: kv_len * group });
        self.kernels.pool.team(|team| {
            // SAFETY: the lengths were checked against the step's tokens.
            unsafe {
                self.store(team, layer, source, None);
                let rows = Rows { query, source, rotation: None, out };
                self.attend_rows(team, layer, rows, options);
            }
        });
        Ok(())
    }

    /// Shares out the step's work, for `group` query heads to a kv head; after `begin_step`, before a team attends.
    pub(crate) fn prepare(&mut self, group: usize) {
        self.schedule.prepare(&self.sequences, &self.table, &self.config, group);
    }

    /// Norms and rotates K of the step's tokens, and puts it and V into their slots. A phase, or none: see `attend`.
    ///
    /// # Safety
    /// `layer` is below num_layers; `qkv` has a row for each token of the step, which nobody writes.
    pub(crate) unsafe fn rotate_and_store(&self, team: &Team<'_>, layer: usize, qkv: QkvRows, rotation: &Rotation<'_>) {
        // SAFETY: the caller's promise.
        unsafe { self.store(team, layer, self.source(qkv), Some(rotation)) };
    }

    /// Attends from every query of the step, normed and rotated, over its cached context, into whatever `out` holds. A
    /// phase, which also stores K and V where every sequence has a single token; and another one to quantise, where
    /// heads are no whole blocks.
    ///
    /// # Safety
    /// As `rotate_and_store`, which came before with the same arguments; `out` has a row for each token of the step,
    /// which this phase alone writes.
    pub(crate) unsafe fn attend(
        &self,
        team: &Team<'_>,
        layer: usize,
        qkv: QkvRows,
        rotation: &Rotation<'_>,
        out: &Activations,
        options: AttentionOptions,
    ) {
        let whole = writes_whole_blocks(self.config.head_dim);
        // SAFETY: the caller's promise.
        unsafe {
            let rows = Rows {
                query: HeadRows { pointer: qkv.pointer, stride: qkv.stride },
                source: self.source(qkv),
                rotation: Some(rotation),
                out: match whole {
                    true => Out::Blocks(out),
                    false => Out::Floats(HeadRows { pointer: out.row(0), stride: out.stride() }),
                },
            };
            self.attend_rows(team, layer, rows, options);
        }
        if !whole && out.contents().has_codes() {
            team.each(self.num_tokens, |token| {
                // SAFETY: all heads of the token are there, and the token is this index's alone.
                unsafe { out.quantise(&self.kernels, token) };
            });
        }
    }

    fn source(&self, qkv: QkvRows) -> Source {
        let kv = self.config.num_kv_heads * self.config.head_dim;
        let query = kv * self.schedule.group();
        let columns = |begin: usize| HeadRows { pointer: qkv.pointer.wrapping_add(begin), stride: qkv.stride };
        Source { key: columns(query), value: columns(query + kv) }
    }

    /// # Safety
    /// As `rotate_and_store`.
    unsafe fn store(&self, team: &Team<'_>, layer: usize, source: Source, rotation: Option<&Rotation<'_>>) {
        if self.stores_by_item {
            return;
        }
        match self.config.dtype {
            KvType::F32 => self.store_as::<f32>(team, layer, source, rotation),
            KvType::Bf16 => self.store_as::<half::bf16>(team, layer, source, rotation),
            KvType::F16 => self.store_as::<half::f16>(team, layer, source, rotation),
            KvType::Int8 => self.store_as::<i8>(team, layer, source, rotation),
        }
    }

    fn store_as<E: KvElement>(&self, team: &Team<'_>, layer: usize, source: Source, rotation: Option<&Rotation<'_>>) {
        let call = StoreCall { config: &self.config, pages: self.layer_pages::<E>(layer), source, rotation };
        team.each(self.blocks.len(), |index| {
            let pieces = &self.pieces[self.blocks[index].clone()];
            self.kernels.run(Store { call: &call, pieces });
        });
    }

    /// # Safety
    /// As `attend`.
    unsafe fn attend_rows(&self, team: &Team<'_>, layer: usize, rows: Rows<'_>, options: AttentionOptions) {
        match self.config.dtype {
            KvType::F32 => self.attend_as::<f32>(team, layer, rows, options),
            KvType::Bf16 => self.attend_as::<half::bf16>(team, layer, rows, options),
            KvType::F16 => self.attend_as::<half::f16>(team, layer, rows, options),
            KvType::Int8 => self.attend_as::<i8>(team, layer, rows, options),
        }
    }

    fn attend_as<E: KvElement>(&self, team: &Team<'_>, layer: usize, rows: Rows<'_>, options: AttentionOptions) {
        let (schedule, pages) = (&self.schedule, self.layer_pages::<E>(layer));
        let Rows { query, source, rotation, out } = rows;
        let store = StoreCall { config: &self.config, pages, source, rotation };
        let call = Call {
            config: &self.config,
            pages,
            table: &self.table,
            sequences: &self.sequences,
            query,
            rotation,
            store: self.stores_by_item.then_some(store),
            out,
            group: schedule.group(),
            options,
            schedule,
        };
        let mut scratch = lock(&schedule.scratch[team.thread()]);
        team.each(schedule.items.len(), |index| {
            let item = &schedule.items[index];
            let upcoming = schedule.items.get(index + team.threads());
            self.kernels.run(Work { call: &call, item, upcoming, scratch: &mut scratch });
        });
    }

    fn layer_pages<E: KvElement>(&self, layer: usize) -> Pages<E> {
        let layer_bytes = self.config.block_bytes() / self.config.num_layers * self.config.num_blocks;
        Pages::new(self.memory.pointer().wrapping_add(layer * layer_bytes), &self.config)
    }
}
