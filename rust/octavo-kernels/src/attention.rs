//! Causal attention over the paged cache: the call, which writes K and V and shares out the work.
//!
//! schedule.rs cuts the step into items, work.rs computes one, state.rs merges its softmax over KV
//! splits, matrix.rs does the products.

mod schedule;
mod state;
mod work;

use crate::error::check_length;
use crate::pool::lock;
use crate::simd::Element;
use crate::{KernelError, KvCache, KvType};

pub(crate) use schedule::Schedule;
use work::{Call, Work};

/// Elements of K and V below which the calling thread writes them alone.
const WRITE_GRAIN: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOptions {
    /// Factor of the scores, commonly 1 / sqrt(head_dim).
    pub scale: f32,
    /// Keys that a query sees, its own included; 0 means all.
    pub sliding_window: usize,
    /// Scores become softcap · tanh(score / softcap); 0 means that they stay.
    pub softcap: f32,
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
        let tokens = self.slots.len();
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
        match config.dtype {
            KvType::F32 => self.attend::<f32>(layer, group, query, key, value, out, options),
            KvType::Bf16 => self.attend::<half::bf16>(layer, group, query, key, value, out, options),
            KvType::F16 => self.attend::<half::f16>(layer, group, query, key, value, out, options),
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "`attention` itself, for one element type")]
    fn attend<E: Element + Sync>(
        &mut self,
        layer: usize,
        group: usize,
        query: &[f32],
        key: &[f32],
        value: &[f32],
        out: &mut [f32],
        options: AttentionOptions,
    ) {
        let config = &self.config;
        let layer_elements = config.page_elements() * config.num_kv_heads * config.num_blocks;
        let first_page = self.memory.pointer().cast::<E>();
        // SAFETY: `layer` is below num_layers, and the mapping holds that many layers of `layer_elements`.
        let pages = unsafe { first_page.add(layer * layer_elements) };
        self.write(pages, key, value);

        let state_len = config.padded_head_dim() + 2;
        self.schedule.prepare(&self.sequences, config.num_kv_heads, group, state_len);
        let schedule = &mut self.schedule;
        let call = Call {
            config,
            pages: pages.cast_const(),
            table: &self.table,
            sequences: &self.sequences,
            query,
            out: out.as_mut_ptr(),
            group,
            options,
            partials: schedule.partials.as_mut_ptr(),
            counters: &schedule.counters,
        };
        let kernels = &*self.kernels;
        kernels.pool.for_each(schedule.items.len(), |thread, index| {
            let mut scratch = lock(&schedule.scratch[thread]);
            kernels.run(Work { call: &call, item: schedule.items[index], scratch: &mut scratch });
        });
    }

    /// Puts K and V of the step's tokens into their slots. A thread has all slots of the blocks that are its own, so no
    /// two threads meet even where tokens share a slot.
    fn write<E: Element>(&self, pages: *mut E, key: &[f32], value: &[f32]) {
        let config = &self.config;
        let pages = Pages(pages);
        let threads = if key.len() < WRITE_GRAIN { 1 } else { self.kernels.threads() };
        let write_share = |share: usize| {
            let pages = &pages;
            let (head_dim, width, block_size) = (config.head_dim, config.padded_head_dim(), config.block_size);
            let mut rounded = [E::ZERO; 256];
            for (token, &slot) in self.slots.iter().enumerate() {
                let (block, offset) = (slot / block_size, slot % block_size);
                if block % threads != share {
                    continue;
                }
                for head in 0..config.num_kv_heads {
                    let from = (token * config.num_kv_heads + head) * head_dim;
                    E::round_slice(&key[from..][..head_dim], &mut rounded[..head_dim]);
                    // SAFETY: the slot was checked against the number of blocks, so the page lies in this layer, and
                    // only this thread has its block.
                    unsafe {
                        let page = pages.0.add((block * config.num_kv_heads + head) * config.page_elements());
                        for (dimension, &element) in rounded[..head_dim].iter().enumerate() {
                            *page.add(dimension * block_size + offset) = element;
                        }
                        let row = page.add(config.key_elements() + offset * width);
                        let row = std::slice::from_raw_parts_mut(row, head_dim);
                        E::round_slice(&value[from..][..head_dim], row);
                    }
                }
            }
        };
        if threads == 1 { write_share(0) } else { self.kernels.pool.run(write_share) }
    }
}

struct Pages<E>(*mut E);

// SAFETY: the threads of `write` write different blocks.
unsafe impl<E> Sync for Pages<E> {}
