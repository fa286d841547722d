//! Which tokens a row has had, for a GPU that samples with penalties.
//!
//! The GPU keeps them by row (cuda/penalties.cuh) and adds each token that it samples. What it cannot know comes from
//! here, as lists of tokens for cuda/count_tokens.cu: the prompt, along with the tokens that are computed of it; what a
//! preempted sequence had, in its new row; what the host sampled. `Sequence::num_counted` says how far the rows of a
//! sequence are. What a step has no room for comes with the next ones, and until then the host samples.

use crate::arena::HistoryColumns;
use crate::plan::Entry;
use crate::request::Requests;

/// Writes the lists of a step and decides which of its entries the host samples. Returns the number of lists.
pub(crate) fn fill(entries: &mut [Entry], requests: &mut Requests, columns: &mut HistoryColumns<'_>) -> usize {
    let (mut num_lists, mut num_tokens) = (0, 0);
    columns.first[0] = 0;
    for entry in entries {
        let sequence = &mut requests.sequences[entry.key];
        let request = &requests.requests[sequence.request];
        let end = entry.start + entry.count;
        entry.on_host = request.needs_host(end.saturating_sub(sequence.num_prompt));
        if entry.on_host || !request.has_penalties() {
            continue;
        }
        let row = sequence.row.expect("a planned sequence has a row");
        // Each choice that will fork from it gets the same.
        let rows = || sequence.fork_rows.iter().copied().chain([row]);
        let room = (columns.tokens.len() - num_tokens) / rows().count();
        let first = sequence.num_counted as usize;
        // None is missing where the last one is not known yet: the GPU counted it.
        let missing = sequence.tokens.get(first..end as usize).unwrap_or_default();
        let counted = &missing[..missing.len().min(room)];
        if !counted.is_empty() {
            for row in rows() {
                columns.row[num_lists] = row as i32;
                columns.starts[num_lists] = i32::from(first == 0);
                columns.num_prompt[num_lists] = sequence.num_prompt.saturating_sub(first as u32) as i32;
                columns.tokens[num_tokens..][..counted.len()].copy_from_slice(bytemuck::cast_slice(counted));
                num_tokens += counted.len();
                num_lists += 1;
                columns.first[num_lists] = num_tokens as i32;
            }
        }
        sequence.num_counted += counted.len() as u32;
        entry.on_host = sequence.num_counted < end;
        debug_assert!(sequence.num_counted <= end && (!entry.on_host || end <= sequence.len()));
        // The sampled one.
        sequence.num_counted += u32::from(entry.num_samples > 0 && !entry.on_host);
    }
    num_lists
}
