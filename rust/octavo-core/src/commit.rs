//! What the backend sampled goes to the sequences, and as one frame to the front end.
//!
//! [`commit`] walks a step's entries; [`Outbox`] collects what they report, in buffers that are used again.

use octavo_wire::{
    ChoiceOutput, FailReason, Finish, FinishReason, Report, RequestId, Sampling, SendError, Sender, Stats, StepOutput,
    Timings, TokenLogprobs,
};

use crate::arena::ArenaView;
use crate::beam;
use crate::config::EngineConfig;
use crate::plan::{LogprobList, Step};
use crate::request::{Ending, Request, Requests, Sequence, SequenceKey};
use crate::scheduler::Scheduler;
use crate::stats::now;

/// The field of a request that names a structure.
pub(crate) const STRUCTURE: &str = "structured_outputs";

/// Elements of lists after which a frame goes out: some megabytes, so that whole vocabularies fit frames too.
const MOST_LISTED: usize = 1 << 20;

/// Where reports go: the wire's `Sender`, or a test.
pub trait ReportSink: Send {
    /// False when the front end has gone.
    fn send(&mut self, report: &Report) -> bool;
}

impl ReportSink for Sender {
    fn send(&mut self, report: &Report) -> bool {
        // A report that is too large for a frame cannot be cured by sending it again; the connection is whole.
        !matches!(self.send_report(report), Err(SendError::Closed))
    }
}

/// Reports on their way out.
pub(crate) struct Outbox {
    sink: Box<dyn ReportSink>,
    /// The frame that is being filled; always a `Report::Step`.
    step: Report,
    /// Outputs of earlier frames.
    spare: Vec<ChoiceOutput>,
    /// Elements of the frame's lists of log-probabilities.
    num_listed: usize,
    /// The front end has gone.
    pub closed: bool,
    /// When something was sent last.
    pub last: f64,
}

impl Outbox {
    pub fn new(sink: Box<dyn ReportSink>) -> Self {
        let step = Report::Step(Box::default());
        Outbox { sink, step, spare: Vec::new(), num_listed: 0, closed: false, last: now() }
    }

    pub fn send(&mut self, report: &Report) {
        self.closed |= !self.sink.send(report);
        self.last = now();
    }

    pub fn fail(&mut self, request: RequestId, reason: FailReason, param: Option<&str>, message: String) {
        self.send(&Report::Failed { request, reason, param: param.map(str::to_owned), message });
    }

    pub fn is_empty(&self) -> bool {
        matches!(&self.step, Report::Step(step) if step.outputs.is_empty())
    }

    /// Sends the outputs so far as one frame.
    pub fn flush(&mut self, stats: Stats) {
        self.frame().stats = stats;
        self.closed |= !self.sink.send(&self.step);
        self.last = stats.time;
        self.num_listed = 0;
        let Report::Step(step) = &mut self.step else { unreachable!("the frame is a step's") };
        self.spare.append(&mut step.outputs);
    }

    /// Aborts the choices of a request that never ran.
    pub fn abort(&mut self, request: RequestId, num_choices: u32, arrival: f64) {
        for choice in 0..num_choices {
            let timings = Timings { arrival, ..Timings::default() };
            self.output(request, 0, choice).finish = Some(Finish { reason: FinishReason::Abort, timings });
        }
    }

    /// An output without tokens of one choice, to be completed.
    pub fn output(&mut self, request: RequestId, num_cached: u32, choice: u32) -> &mut ChoiceOutput {
        let mut output = self.spare.pop().unwrap_or_else(|| ChoiceOutput {
            request: 0,
            choice: 0,
            tokens: Vec::with_capacity(1),
            logprobs: Vec::new(),
            prompt_logprobs: Vec::new(),
            num_cached_tokens: 0,
            scheduled: 0.0,
            finish: None,
        });
        output.request = request;
        output.choice = choice;
        output.tokens.clear();
        output.logprobs.clear();
        output.prompt_logprobs.clear();
        output.num_cached_tokens = num_cached;
        output.scheduled = 0.0;
        output.finish = None;
        let outputs = &mut self.frame().outputs;
        outputs.push(output);
        outputs.last_mut().expect("one was pushed")
    }

    fn frame(&mut self) -> &mut StepOutput {
        let Report::Step(step) = &mut self.step else { unreachable!("the frame is a step's") };
        step
    }
}

/// Ends a sequence of which nothing more is reported: now, or with the last step in flight that it is part of. Until then
/// the device still writes to its blocks.
pub(crate) fn close(requests: &mut Requests, scheduler: &mut Scheduler, key: SequenceKey) {
    let sequence = &mut requests.sequences[key];
    if sequence.in_flight > 0 {
        sequence.ending = Ending::Silent;
    } else {
        scheduler.end(requests, key);
    }
}

/// Reports an abort for each choice that a sequence stands for, and closes it.
pub(crate) fn abort(requests: &mut Requests, scheduler: &mut Scheduler, outbox: &mut Outbox, key: SequenceKey) {
    let sequence = &requests.sequences[key];
    let request = requests.request_of(key);
    let timings = timings(request, sequence, now());
    for choice in sequence.turn.choice..sequence.turn.choice + sequence.num_choices {
        outbox.output(request.id, request.num_cached, choice).finish =
            Some(Finish { reason: FinishReason::Abort, timings });
    }
    close(requests, scheduler, key);
}

/// Why a request ends with an error: the reason, its field at fault, and the message.
pub(crate) type Refusal = (FailReason, Option<&'static str>, String);

/// Why a request ends for which the backend has chosen no token.
fn no_token(sampling: &Sampling, chosen: i32) -> Refusal {
    let constraints = [
        ("structured_outputs", sampling.structure.is_some()),
        ("allowed_token_ids", !sampling.allowed_token_ids.is_empty()),
        ("bad_words", !sampling.bad_words.is_empty()),
        ("min_tokens", sampling.min_tokens > 0),
    ];
    let names: Vec<&str> =
        constraints.iter().filter(|constraint| constraint.1).map(|constraint| constraint.0).collect();
    if chosen >= 0 || names.is_empty() {
        return (FailReason::Internal, None, format!("the backend sampled token {chosen}, which is none"));
    }
    let message = format!("{} together leave no token that could come next", names.join(", "));
    (FailReason::Invalid, Some(names[0]), message)
}

/// Ends a request with an error.
pub(crate) fn end(
    requests: &mut Requests,
    scheduler: &mut Scheduler,
    outbox: &mut Outbox,
    request: usize,
    (reason, param, message): Refusal,
) {
    let choices = requests.requests[request].choices.clone();
    let id = requests.requests[request].id;
    for key in choices.into_iter().flatten() {
        close(requests, scheduler, key);
    }
    outbox.fail(id, reason, param, message);
}

/// Applies a step's outputs. The frame is filled, not sent.
pub(crate) fn commit(
    step: &mut Step,
    view: &ArenaView<'_>,
    config: &EngineConfig,
    max_logprobs: usize,
    requests: &mut Requests,
    scheduler: &mut Scheduler,
    outbox: &mut Outbox,
) {
    let time = now();
    let scores = Scores { view, lists: &step.lists, num_listed: max_logprobs };
    let mut sample = 0;
    let mut pooled = step.pooled.drain(..).peekable();
    for (index, entry) in step.entries.iter().enumerate() {
        let scored = sample..sample + entry.num_scored as usize;
        let samples = scored.end..scored.end + entry.num_samples as usize;
        sample = samples.end;
        if outbox.num_listed > MOST_LISTED {
            outbox.flush(scheduler.stats());
        }
        let result = pooled.next_if(|pooled| pooled.index == index);
        let sequence = &mut requests.sequences[entry.key];
        sequence.in_flight -= 1;
        match sequence.ending {
            Ending::None => {}
            Ending::Silent => {
                close(requests, scheduler, entry.key);
                continue;
            }
            Ending::Abort => {
                abort(requests, scheduler, outbox, entry.key);
                continue;
            }
        }
        scheduler.computed(requests, entry.key, entry.count);
        if !scored.is_empty() {
            let sequence = &mut requests.sequences[entry.key];
            let request = &requests.requests[sequence.request];
            sequence.num_scored += entry.num_scored;
            outbox.num_listed += scored.len() * (request.sampling.prompt_logprobs.unwrap_or(0) as usize);
            let output = outbox.output(request.id, request.num_cached, sequence.turn.choice);
            output.prompt_logprobs.extend(scored.map(|sample| scores.of(sample, request.sampling.prompt_logprobs, 0)));
        }
        if samples.is_empty() {
            continue;
        }
        let request = requests.sequences[entry.key].request;
        if requests.requests[request].pooling.is_some() {
            let Some(result) = result else {
                let message = "the backend made nothing of this prompt".to_owned();
                end(requests, scheduler, outbox, request, (FailReason::Internal, None, message));
                continue;
            };
            let request = &requests.requests[request];
            outbox.send(&Report::Pooled(Box::new(result.into_output(request.id, request.num_cached))));
            scheduler.counters.prompt_tokens += u64::from(requests.sequences[entry.key].num_prompt);
            close(requests, scheduler, entry.key);
            continue;
        }
        let sampled = &view.sampled[samples.clone()];
        let stage = &requests.sequences[entry.key].stage;
        if let Some(message) = sampled.iter().find_map(|&token| stage.refuse(token)) {
            end(requests, scheduler, outbox, request, (FailReason::Invalid, Some(STRUCTURE), message));
            continue;
        }
        if let Some(&bad) = sampled.iter().find(|&&token| token as u32 >= config.vocab_size) {
            let refusal = no_token(&requests.requests[request].sampling, bad);
            end(requests, scheduler, outbox, request, refusal);
            continue;
        }
        if requests.sequences[entry.key].num_output() == 0 && requests.sequences[entry.key].turn.choice == 0 {
            scheduler.counters.prompt_tokens += u64::from(requests.sequences[entry.key].num_prompt);
        }
        if requests.requests[request].beams.is_some() {
            let top = samples.start * max_logprobs..(samples.start + 1) * max_logprobs;
            beam::expand(entry.key, top, view, config, time, requests, scheduler, outbox);
        } else if samples.len() > 1 {
            scheduler.fork(requests, entry.key);
            for (choice, sample) in samples.enumerate() {
                let key = requests.requests[request].choices[choice].expect("it has just been forked");
                append(key, sample, &scores, config, time, requests, scheduler, outbox);
            }
        } else {
            append(entry.key, samples.start, &scores, config, time, requests, scheduler, outbox);
        }
    }
}

/// One sampled token of one choice.
#[expect(clippy::too_many_arguments, reason = "the parts of an engine, borrowed apart")]
fn append(
    key: SequenceKey,
    sample: usize,
    scores: &Scores<'_>,
    config: &EngineConfig,
    time: f64,
    requests: &mut Requests,
    scheduler: &mut Scheduler,
    outbox: &mut Outbox,
) {
    let sequence = &mut requests.sequences[key];
    let request = &requests.requests[sequence.request];
    let token = scores.view.sampled[sample] as u32;
    sequence.tokens.push(token);
    scheduler.counters.generation_tokens += 1;
    outbox.num_listed += request.sampling.logprobs.unwrap_or(0) as usize + request.sampling.logprob_token_ids.len();
    let output = outbox.output(request.id, request.num_cached, sequence.turn.choice);
    if sequence.first_token == 0.0 {
        sequence.first_token = time;
        output.scheduled = request.scheduled;
    }
    output.tokens.push(token);
    if request.sampling.logprobs.is_some() {
        let logprobs = scores.of(sample, request.sampling.logprobs, request.sampling.logprob_token_ids.len());
        output.logprobs.push(logprobs);
    }
    if let Some(reason) = finish_reason(request, sequence, token, &config.eos_token_ids) {
        output.finish = Some(Finish { reason, timings: timings(request, sequence, time) });
        close(requests, scheduler, key);
    } else if !request.rules.is_empty() {
        sequence.stage = request.rules.next(&sequence.stage, sequence.output());
    }
}

/// Log-probabilities as the backend left them.
struct Scores<'a> {
    view: &'a ArenaView<'a>,
    /// By sample, or none.
    lists: &'a [LogprobList],
    num_listed: usize,
}

impl Scores<'_> {
    /// Those of a sample that asked for the `count` best, or for `num_named` others.
    fn of(&self, sample: usize, count: Option<u32>, num_named: usize) -> TokenLogprobs {
        let view = self.view;
        let count = if num_named > 0 { num_named } else { count.unwrap_or(0) as usize };
        let top = if count > self.num_listed {
            self.lists.get(sample).cloned().unwrap_or_default()
        } else {
            let top = sample * self.num_listed..sample * self.num_listed + count;
            let pairs = view.top_ids[top.clone()].iter().zip(&view.top_logprobs[top]);
            // A vocabulary may be smaller than the number asked for: -1 stands for what it lacks.
            pairs.filter(|&(&id, _)| id >= 0).map(|(&id, &logprob)| (id as u32, logprob)).collect()
        };
        TokenLogprobs { logprob: view.sampled_logprob[sample], rank: view.sampled_rank[sample].max(0) as u32, top }
    }
}

fn finish_reason(request: &Request, sequence: &Sequence, token: u32, eos: &[u32]) -> Option<FinishReason> {
    let sampling = &request.sampling;
    if sequence.stage.is_structured() && eos.contains(&token) {
        return Some(FinishReason::EndOfSequence);
    }
    if sequence.num_output() >= sampling.min_tokens {
        if !sampling.ignore_eos && eos.contains(&token) {
            return Some(FinishReason::EndOfSequence);
        }
        if sampling.stop_token_ids.contains(&token) {
            return Some(FinishReason::StopToken(token));
        }
    }
    (sequence.len() >= sequence.limit).then_some(FinishReason::Length)
}

pub(crate) fn timings(request: &Request, sequence: &Sequence, time: f64) -> Timings {
    Timings {
        arrival: request.arrival,
        scheduled: request.scheduled,
        first_token: sequence.first_token,
        last_token: if sequence.first_token == 0.0 { 0.0 } else { time },
        num_preemptions: sequence.num_preemptions,
    }
}
