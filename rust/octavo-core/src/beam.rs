//! Beam search: the best continuations of a prompt, by the log-probability of the whole of each.
//!
//! A beam is a sequence, and shares its blocks with its siblings by copy-on-write. It is sampled like others, greedily
//! and with log-probabilities; [`expand`] keeps those of the best tokens as its candidates. The beams of a request go in
//! step: once all are expanded, [`BeamSearch::rank`] takes the best candidates of all, and [`derive`] makes the sequences
//! again from their parents. A beam's first child takes its place; a further one takes the place, and the row, of a beam
//! without children.
//!
//! An expanded beam that waits for its siblings needs neither row nor blocks to go on, so it yields them to whoever lacks
//! some (`Scheduler::preempt_after`), and gives them up when a sibling has lost its own ([`park`]): without that, two
//! requests could each hold what the other needs. Its children then begin with what the prefix cache still has.
//!
//! The ranking is vLLM's: of each beam the 2·width best tokens are candidates, an end of sequence among them ends a beam
//! whatever its place, and scores count the prompt's tokens and not the end of sequence.

use octavo_wire::{BeamStop, Beams, FailReason, Finish, FinishReason, TokenLogprobs};

use crate::arena::ArenaView;
use crate::blocks::BlockTable;
use crate::commit::{Outbox, close, timings};
use crate::config::EngineConfig;
use crate::prefix::Content;
use crate::request::{Ending, Requests, Sequence, SequenceKey, Turn};
use crate::scheduler::Scheduler;

/// The state of one request's search.
pub(crate) struct BeamSearch {
    options: Beams,
    /// Best first.
    live: Vec<Beam>,
    /// The `width` best of those that have ended, best first.
    ended: Vec<Ended>,
    /// The output of every beam, as a tree.
    nodes: Vec<Node>,
}

struct Beam {
    choice: u32,
    logprob: f64,
    /// Its last token; `None` at the prompt.
    node: Option<usize>,
    /// Tokens that may come next, and their log-probabilities, best first; perhaps more for the client to see.
    candidates: Vec<(u32, f32)>,
}

struct Ended {
    score: f64,
    node: usize,
    reason: FinishReason,
}

struct Node {
    parent: Option<usize>,
    token: u32,
    logprobs: TokenLogprobs,
}

/// A candidate of one of the beams.
struct Child {
    /// Index in `live`.
    parent: usize,
    /// Index in the parent's candidates.
    place: usize,
    token: u32,
    logprob: f64,
    score: f64,
}

/// What a search needs to know of its request.
struct Limits<'a> {
    /// Length of the beams, with the token that is being chosen.
    length: u32,
    /// Length at which they end.
    limit: u32,
    /// Ends of sequence.
    eos: &'a [u32],
    ignore_eos: bool,
    /// Log-probabilities that the client asked for.
    num_logprobs: u32,
}

impl BeamSearch {
    pub fn new(options: Beams) -> Self {
        let root = Beam { choice: 0, logprob: 0.0, node: None, candidates: Vec::new() };
        BeamSearch { options, live: vec![root], ended: Vec::new(), nodes: Vec::new() }
    }

    pub fn width(&self) -> u32 {
        self.options.width
    }

    /// Candidates of each beam.
    pub fn num_candidates(&self) -> u32 {
        2 * self.options.width
    }

    /// The beams that go on, best first; empty when the search is over.
    fn rank(&mut self, limits: &Limits<'_>) -> Vec<Child> {
        let (mut next, mut ended) = (Vec::new(), Vec::new());
        for (parent, beam) in self.live.iter().enumerate() {
            for (place, &(token, logprob)) in beam.candidates.iter().enumerate().take(self.num_candidates() as usize) {
                let logprob = beam.logprob + f64::from(logprob);
                let is_eos = limits.eos.contains(&token);
                let score = self.score(logprob, limits.length - u32::from(is_eos));
                let child = Child { parent, place, token, logprob, score };
                if is_eos && !limits.ignore_eos { ended.push(child) } else { next.push(child) }
            }
        }
        next.sort_by(|one, other| other.score.total_cmp(&one.score));
        next.truncate(self.options.width as usize);
        for child in ended {
            self.end(&child, FinishReason::EndOfSequence, limits);
        }
        if limits.length >= limits.limit {
            for child in next.drain(..) {
                self.end(&child, FinishReason::Length, limits);
            }
        }
        self.ended.sort_by(|one, other| other.score.total_cmp(&one.score));
        self.ended.truncate(self.options.width as usize);
        if self.is_over(&next, limits) {
            next.clear();
        }
        next
    }

    fn is_over(&self, next: &[Child], limits: &Limits<'_>) -> bool {
        let (Some(best), Some(worst)) = (next.first(), self.ended.get(self.options.width as usize - 1)) else {
            return false;
        };
        // A log-probability only falls. With a positive penalty a longer beam has the better score for the same one.
        let attainable = match self.options.stop {
            BeamStop::Enough => return true,
            BeamStop::Exact if self.options.length_penalty > 0.0 => self.score(best.logprob, limits.limit),
            BeamStop::Exact | BeamStop::Likely => self.score(best.logprob, limits.length),
        };
        worst.score >= attainable
    }

    fn score(&self, logprob: f64, length: u32) -> f64 {
        logprob / f64::from(length.max(1)).powf(self.options.length_penalty)
    }

    fn end(&mut self, child: &Child, reason: FinishReason, limits: &Limits<'_>) {
        let node = self.grow(child, limits.num_logprobs);
        self.ended.push(Ended { score: child.score, node, reason });
    }

    /// Adds a candidate to the tree.
    fn grow(&mut self, child: &Child, num_logprobs: u32) -> usize {
        let beam = &self.live[child.parent];
        let logprobs = TokenLogprobs {
            logprob: beam.candidates[child.place].1,
            rank: child.place as u32 + 1,
            top: beam.candidates.iter().take(num_logprobs as usize).copied().collect(),
        };
        self.nodes.push(Node { parent: beam.node, token: child.token, logprobs });
        self.nodes.len() - 1
    }

    /// The output that ends with `node`.
    fn output(&self, node: usize) -> (Vec<u32>, Vec<TokenLogprobs>) {
        let path = std::iter::successors(Some(node), |&node| self.nodes[node].parent);
        let mut path: Vec<&Node> = path.map(|node| &self.nodes[node]).collect();
        path.reverse();
        path.into_iter().map(|node| (node.token, node.logprobs.clone())).unzip()
    }
}

/// Takes the candidates of a beam from the sampler's columns, of which `top` is its part.
#[expect(clippy::too_many_arguments, reason = "the parts of an engine, borrowed apart")]
pub(crate) fn expand(
    key: SequenceKey,
    top: std::ops::Range<usize>,
    view: &ArenaView<'_>,
    config: &EngineConfig,
    time: f64,
    requests: &mut Requests,
    scheduler: &mut Scheduler,
    outbox: &mut Outbox,
) {
    let sequence = &mut requests.sequences[key];
    let index = sequence.request;
    let request = &mut requests.requests[index];
    let search = request.beams.as_mut().expect("only a beam is expanded");
    let count = search.num_candidates().max(request.sampling.logprobs.unwrap_or(0)) as usize;
    let choice = sequence.turn.choice;
    let beam = search.live.iter_mut().find(|beam| beam.choice == choice).expect("the beam lives");
    let pairs = view.top_ids[top.clone()].iter().zip(&view.top_logprobs[top]).take(count);
    // What the vocabulary lacks, or what cannot come, has no finite log-probability.
    let pairs = pairs.filter(|&(&id, logprob)| (0..config.vocab_size as i32).contains(&id) && logprob.is_finite());
    beam.candidates.clear();
    beam.candidates.extend(pairs.map(|(&id, &logprob)| (id as u32, logprob)));
    sequence.is_expanded = true;
    if sequence.first_token == 0.0 {
        sequence.first_token = time;
    }
    scheduler.counters.generation_tokens += 1;
    let mut beams = request.choices.iter().flatten();
    if beams.all(|&key| requests.sequences[key].is_expanded) {
        advance(index, config, time, requests, scheduler, outbox);
    } else {
        park(index, requests, scheduler);
    }
}

/// All beams of a request are expanded: takes the next token of each, or reports the best.
fn advance(
    index: usize,
    config: &EngineConfig,
    time: f64,
    requests: &mut Requests,
    scheduler: &mut Scheduler,
    outbox: &mut Outbox,
) {
    let request = &mut requests.requests[index];
    let mut search = request.beams.take().expect("only beams are expanded");
    let first = &requests.sequences[key_of(request.choices[search.live[0].choice as usize])];
    let limits = Limits {
        length: first.len() + 1,
        limit: first.limit,
        eos: &config.eos_token_ids,
        ignore_eos: request.sampling.ignore_eos,
        num_logprobs: request.sampling.logprobs.unwrap_or(0),
    };
    let next = search.rank(&limits);
    if !next.is_empty() {
        derive(index, &mut search, &next, limits.num_logprobs, requests, scheduler);
        requests.requests[index].beams = Some(search);
        return;
    }
    let (n, id) = (request.sampling.n as usize, request.id);
    if search.ended.len() < n {
        outbox.fail(id, FailReason::Internal, None, format!("the model leaves fewer than {n} continuations"));
    } else {
        let wants_logprobs = request.sampling.logprobs.is_some();
        let mut timings = timings(request, first, time);
        let live = request.choices.iter().flatten().map(|&key| requests.sequences[key].num_preemptions);
        timings.num_preemptions = live.max().unwrap_or(0);
        for (choice, ended) in search.ended.iter().take(n).enumerate() {
            let output = outbox.output(request.id, request.num_cached, choice as u32);
            let (tokens, logprobs) = search.output(ended.node);
            output.scheduled = request.scheduled;
            output.tokens = tokens;
            output.logprobs = if wants_logprobs { logprobs } else { Vec::new() };
            output.finish = Some(Finish { reason: ended.reason, timings });
        }
    }
    for key in request.choices.clone().into_iter().flatten() {
        close(requests, scheduler, key);
    }
}

/// Makes the beams' sequences those of `next`.
fn derive(
    index: usize,
    search: &mut BeamSearch,
    next: &[Child],
    num_logprobs: u32,
    requests: &mut Requests,
    scheduler: &mut Scheduler,
) {
    let choices = &requests.requests[index].choices;
    let parents: Vec<SequenceKey> = search.live.iter().map(|beam| key_of(choices[beam.choice as usize])).collect();
    for &key in &parents {
        let sequence = &mut requests.sequences[key];
        sequence.num_choices = 1;
        scheduler.rows.append(&mut sequence.fork_rows);
    }
    let first_child: Vec<Option<usize>> =
        (0..parents.len()).map(|parent| next.iter().position(|child| child.parent == parent)).collect();
    let childless = parents.iter().zip(&first_child).filter(|(_, child)| child.is_none());
    let mut spare: Vec<SequenceKey> = childless.map(|(&key, _)| key).collect();
    // Those with a row serve first.
    spare.sort_by_key(|&key| requests.sequences[key].row.is_some());

    let mut live = Vec::with_capacity(next.len());
    for (place, child) in next.iter().enumerate() {
        let parent = parents[child.parent];
        let key = if first_child[child.parent] == Some(place) {
            parent
        } else {
            let key = spare.pop().unwrap_or_else(|| new_place(parent, requests, scheduler));
            copy(parent, key, requests, scheduler);
            key
        };
        let node = Some(search.grow(child, num_logprobs));
        let choice = requests.sequences[key].turn.choice;
        live.push((key, child.token, Beam { choice, logprob: child.logprob, node, candidates: Vec::new() }));
    }
    for key in spare {
        scheduler.end(requests, key);
    }
    // Only now: until here every sequence is as its children need it.
    search.live.clear();
    for (key, token, beam) in live {
        let sequence = &mut requests.sequences[key];
        sequence.tokens.push(token);
        sequence.is_expanded = false;
        if sequence.row.is_none() {
            scheduler.waiting.push(sequence.turn, key);
        }
        search.live.push(beam);
    }
}

/// A sequence without tokens, with a row if one is free, beside `beam`.
fn new_place(beam: SequenceKey, requests: &mut Requests, scheduler: &mut Scheduler) -> SequenceKey {
    let choices = &requests.request_of(beam).choices;
    let choice = choices.iter().position(Option::is_none).expect("there are as many choices as beams") as u32;
    let beam = &requests.sequences[beam];
    let turn = Turn { choice, ..beam.turn };
    let sequence = Sequence {
        turn,
        tokens: Vec::new(),
        num_computed: 0,
        num_planned: 0,
        table: BlockTable::default(),
        num_synced: 0,
        row: scheduler.rows.pop(),
        fork_rows: Vec::new(),
        hashes: Vec::new(),
        num_registered: 0,
        content: Some(Content::ROOT),
        stage: beam.stage.clone(),
        ..*beam
    };
    let has_row = sequence.row.is_some();
    let key = requests.attach(sequence);
    if has_row {
        let position = scheduler.position(requests, turn);
        scheduler.running.insert(position, key);
    }
    key
}

/// Makes `to` another `from`: with its blocks, if it has a row for them.
fn copy(from: SequenceKey, to: SequenceKey, requests: &mut Requests, scheduler: &mut Scheduler) {
    let (from, to) = requests.sequences.get2_mut(from, to).expect("a beam is not its own child");
    to.tokens.clone_from(&from.tokens);
    to.hashes.clone_from(&from.hashes);
    to.first_token = from.first_token;
    if to.row.is_none() {
        return;
    }
    let table = scheduler.pool.fork(&from.table);
    let mut old = std::mem::replace(&mut to.table, table);
    // The row keeps what the two have in common, such as the prompt.
    let pairs = old.blocks().iter().zip(to.table.blocks());
    let num_common = pairs.take_while(|(old, new)| old == new).count() as u32;
    to.num_synced = to.num_synced.min(num_common);
    scheduler.pool.release(&mut old);
    to.num_computed = from.num_computed;
    to.num_planned = from.num_planned;
    to.num_registered = from.num_registered;
    to.content = from.content;
}

/// When a beam of a request waits for a row, those that wait for it give up theirs.
pub(crate) fn park(index: usize, requests: &mut Requests, scheduler: &mut Scheduler) {
    let beams: Vec<SequenceKey> = requests.requests[index].choices.iter().flatten().copied().collect();
    if beams.iter().any(|&key| requests.sequences[key].is_queued()) {
        for key in beams {
            if requests.sequences[key].is_expanded && requests.sequences[key].row.is_some() {
                scheduler.preempt(requests, key);
            }
        }
    }
}

/// Ends a search before its end, unless it is ending already.
pub(crate) fn abort(index: usize, time: f64, requests: &mut Requests, scheduler: &mut Scheduler, outbox: &mut Outbox) {
    let request = &requests.requests[index];
    let beams: Vec<SequenceKey> = request.choices.iter().flatten().copied().collect();
    if beams.iter().any(|&key| requests.sequences[key].ending != Ending::None) {
        return;
    }
    let timings = timings(request, &requests.sequences[beams[0]], time);
    for choice in 0..request.sampling.n {
        outbox.output(request.id, request.num_cached, choice).finish =
            Some(Finish { reason: FinishReason::Abort, timings });
    }
    for key in beams {
        close(requests, scheduler, key);
    }
}

fn key_of(choice: Option<SequenceKey>) -> SequenceKey {
    choice.expect("a live beam has a sequence")
}
