//! A message as bytes: a header of 12 bytes, then the payload. All numbers are little-endian.
//!
//! ```text
//! magic "OCTV" | version u16 | kind u16 | payload length u32 | payload
//! ```
//!
//! Both ends come from one build, so a version is never negotiated: a difference is an error. Sequences are counted;
//! an option is a flag byte, then its value. A step's outputs are rows of one flag byte and the fields that the flags
//! announce, 13 bytes for the usual row (one token of choice 0).

use crate::bytes::{Reader, Writer};
use crate::message::{
    BeamStop, Beams, ChoiceOutput, Command, FailReason, Finish, FinishReason, PooledOutput, Pooling, PoolingTask,
    Report, Sampling, Stats, StepOutput, Structure, StructureKind, Submission, Timings, TokenLogprobs,
};

pub const HEADER_BYTES: usize = 12;
/// Longer payloads are refused on both sides.
pub const MAX_FRAME_BYTES: usize = 128 << 20;

const MAGIC: [u8; 4] = *b"OCTV";
const VERSION: u16 = 2;

const SUBMIT: u16 = 1;
const ABORT: u16 = 2;
const STOP: u16 = 3;
const RESET_PREFIX_CACHE: u16 = 4;
const DRAIN: u16 = 5;
const READY: u16 = 0x101;
const STEP: u16 = 0x102;
const FAILED: u16 = 0x103;
const IDLE: u16 = 0x104;
const POOLED: u16 = 0x105;

/// Row flags of a step's output.
const HAS_CHOICE: u8 = 1;
const HAS_CACHED: u8 = 2;
const HAS_LOGPROBS: u8 = 4;
const HAS_FINISH: u8 = 8;
/// Not exactly one token: a count stands before them.
const HAS_COUNT: u8 = 16;
const HAS_SCHEDULED: u8 = 32;
const HAS_PROMPT_LOGPROBS: u8 = 64;
const ROW_MIN_BYTES: usize = 13;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the bytes are not a frame")]
    Magic,
    #[error("frame version {0}, this build speaks {VERSION}")]
    Version(u16),
    #[error("unknown frame kind {0}")]
    Kind(u16),
    #[error("a frame of {0} bytes is over the limit of {MAX_FRAME_BYTES}")]
    TooLong(usize),
    #[error("the frame ends early")]
    Truncated,
    #[error("the frame has bytes after its end")]
    Surplus,
    #[error("the frame holds an impossible {0}")]
    Value(&'static str),
}

/// A decoded frame, of either direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Command(Command),
    Report(Report),
}

/// Bytes of the frame that starts here, header included; `None` while the header is incomplete.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(FrameError::Magic);
    }
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(length));
    }
    Ok(Some(HEADER_BYTES + length))
}

/// Appends the header; returns where the frame starts.
fn begin(buffer: &mut Vec<u8>, kind: u16) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&VERSION.to_le_bytes());
    buffer.extend_from_slice(&kind.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    start
}

/// Writes the length into the header, or takes back a frame that is too long.
fn end(buffer: &mut Vec<u8>, start: usize) -> Result<(), FrameError> {
    let length = buffer.len() - start - HEADER_BYTES;
    if length > MAX_FRAME_BYTES {
        buffer.truncate(start);
        return Err(FrameError::TooLong(length));
    }
    buffer[start + 8..start + 12].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Appends the frame of `command`. Only a length over [`MAX_FRAME_BYTES`] fails; the buffer is then as before.
pub fn encode_command(command: &Command, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
    let kind = match command {
        Command::Submit(_) => SUBMIT,
        Command::Abort { .. } => ABORT,
        Command::Stop { .. } => STOP,
        Command::ResetPrefixCache => RESET_PREFIX_CACHE,
        Command::Drain => DRAIN,
    };
    let start = begin(buffer, kind);
    let mut writer = Writer { buffer };
    match command {
        Command::Submit(submission) => write_submission(&mut writer, submission),
        Command::Abort { request } => writer.u64(*request),
        Command::Stop { request, choice } => {
            writer.u64(*request);
            writer.u32(*choice);
        }
        Command::ResetPrefixCache | Command::Drain => {}
    }
    end(buffer, start)
}

/// Appends the frame of `report`; fails as [`encode_command`] does.
pub fn encode_report(report: &Report, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
    let kind = match report {
        Report::Ready { .. } => READY,
        Report::Step(_) => STEP,
        Report::Failed { .. } => FAILED,
        Report::Idle(_) => IDLE,
        Report::Pooled(_) => POOLED,
    };
    let start = begin(buffer, kind);
    let mut writer = Writer { buffer };
    match report {
        Report::Ready { info } => writer.text(info),
        Report::Step(step) => {
            write_stats(&mut writer, &step.stats);
            writer.count(step.outputs.len());
            step.outputs.iter().for_each(|output| write_output(&mut writer, output));
        }
        Report::Failed { request, reason, param, message } => {
            writer.u64(*request);
            writer.u8(fail_code(*reason));
            writer.bool(param.is_some());
            if let Some(param) = param {
                writer.text(param);
            }
            writer.text(message);
        }
        Report::Idle(stats) => write_stats(&mut writer, stats),
        Report::Pooled(output) => {
            writer.u64(output.request);
            writer.u32s(&output.shape);
            writer.f32s(&output.data);
            writer.u32(output.num_cached_tokens);
        }
    }
    end(buffer, start)
}

/// Reads one whole frame: header and payload, exactly.
pub fn decode(frame: &[u8]) -> Result<Message, FrameError> {
    let length = frame_length(frame)?.ok_or(FrameError::Truncated)?;
    if frame.len() < length {
        return Err(FrameError::Truncated);
    }
    if frame.len() > length {
        return Err(FrameError::Surplus);
    }
    let kind = u16::from_le_bytes([frame[6], frame[7]]);
    let mut reader = Reader::new(&frame[HEADER_BYTES..]);
    let message = match kind {
        SUBMIT => Message::Command(Command::Submit(Box::new(read_submission(&mut reader)?))),
        ABORT => Message::Command(Command::Abort { request: reader.u64()? }),
        STOP => Message::Command(Command::Stop { request: reader.u64()?, choice: reader.u32()? }),
        RESET_PREFIX_CACHE => Message::Command(Command::ResetPrefixCache),
        DRAIN => Message::Command(Command::Drain),
        READY => Message::Report(Report::Ready { info: reader.text()? }),
        STEP => Message::Report(Report::Step(Box::new(read_step(&mut reader)?))),
        FAILED => Message::Report(Report::Failed {
            request: reader.u64()?,
            reason: fail_reason(reader.u8()?)?,
            param: if reader.bool()? { Some(reader.text()?) } else { None },
            message: reader.text()?,
        }),
        IDLE => Message::Report(Report::Idle(Box::new(read_stats(&mut reader)?))),
        POOLED => Message::Report(Report::Pooled(Box::new(PooledOutput {
            request: reader.u64()?,
            shape: reader.u32s()?,
            data: reader.f32s()?,
            num_cached_tokens: reader.u32()?,
        }))),
        kind => return Err(FrameError::Kind(kind)),
    };
    reader.end()?;
    Ok(message)
}

fn write_submission(writer: &mut Writer, submission: &Submission) {
    writer.u64(submission.request);
    writer.i32(submission.priority);
    writer.f64(submission.arrival);
    writer.text(&submission.cache_salt);
    write_sampling(writer, &submission.sampling);
    writer.bool(submission.pooling.is_some());
    if let Some(pooling) = &submission.pooling {
        write_pooling(writer, pooling);
    }
    writer.u32s(&submission.prompt);
}

fn read_submission(reader: &mut Reader) -> Result<Submission, FrameError> {
    Ok(Submission {
        request: reader.u64()?,
        priority: reader.i32()?,
        arrival: reader.f64()?,
        cache_salt: reader.text()?,
        sampling: read_sampling(reader)?,
        pooling: if reader.bool()? { Some(read_pooling(reader)?) } else { None },
        prompt: reader.u32s()?,
    })
}

fn write_pooling(writer: &mut Writer, pooling: &Pooling) {
    let place = PoolingTask::ALL.iter().position(|&task| task == pooling.task);
    writer.u8(place.expect("ALL has every task") as u8);
    writer.bool(pooling.dimensions.is_some());
    if let Some(dimensions) = pooling.dimensions {
        writer.u32(dimensions);
    }
    writer.bool(pooling.normalize.is_some());
    if let Some(normalize) = pooling.normalize {
        writer.bool(normalize);
    }
    writer.u32(pooling.num_first);
}

fn read_pooling(reader: &mut Reader) -> Result<Pooling, FrameError> {
    let task = PoolingTask::ALL.get(usize::from(reader.u8()?));
    Ok(Pooling {
        task: *task.ok_or(FrameError::Value("pooling task"))?,
        dimensions: if reader.bool()? { Some(reader.u32()?) } else { None },
        normalize: if reader.bool()? { Some(reader.bool()?) } else { None },
        num_first: reader.u32()?,
    })
}

fn write_sampling(writer: &mut Writer, sampling: &Sampling) {
    writer.u32(sampling.n);
    writer.f32(sampling.temperature);
    writer.f32(sampling.top_p);
    writer.u32(sampling.top_k);
    writer.f32(sampling.min_p);
    writer.f32(sampling.presence_penalty);
    writer.f32(sampling.frequency_penalty);
    writer.f32(sampling.repetition_penalty);
    writer.bool(sampling.seed.is_some());
    if let Some(seed) = sampling.seed {
        writer.u64(seed);
    }
    writer.u32(sampling.max_tokens);
    writer.u32(sampling.min_tokens);
    writer.bool(sampling.ignore_eos);
    writer.u32s(&sampling.stop_token_ids);
    writer.u32s(&sampling.allowed_token_ids);
    writer.count(sampling.bad_words.len());
    sampling.bad_words.iter().for_each(|word| writer.u32s(word));
    writer.pairs(&sampling.logit_bias);
    for count in [sampling.logprobs, sampling.prompt_logprobs] {
        writer.bool(count.is_some());
        if let Some(count) = count {
            writer.u32(count);
        }
    }
    writer.bool(sampling.structure.is_some());
    if let Some(structure) = &sampling.structure {
        writer.u8(match structure.kind {
            StructureKind::JsonSchema => 0,
            StructureKind::Regex => 1,
            StructureKind::Lark => 2,
        });
        writer.text(&structure.text);
    }
    writer.u32s(&sampling.reasoning_end);
    writer.bool(sampling.thinking_token_budget.is_some());
    if let Some(budget) = sampling.thinking_token_budget {
        writer.u32(budget);
    }
    writer.bool(sampling.beams.is_some());
    if let Some(beams) = &sampling.beams {
        writer.u32(beams.width);
        writer.f64(beams.length_penalty);
        writer.u8(beams.stop as u8);
    }
    writer.bool(sampling.is_processed);
    writer.u32s(&sampling.logprob_token_ids);
}

fn read_sampling(reader: &mut Reader) -> Result<Sampling, FrameError> {
    Ok(Sampling {
        n: reader.u32()?,
        temperature: reader.f32()?,
        top_p: reader.f32()?,
        top_k: reader.u32()?,
        min_p: reader.f32()?,
        presence_penalty: reader.f32()?,
        frequency_penalty: reader.f32()?,
        repetition_penalty: reader.f32()?,
        seed: if reader.bool()? { Some(reader.u64()?) } else { None },
        max_tokens: reader.u32()?,
        min_tokens: reader.u32()?,
        ignore_eos: reader.bool()?,
        stop_token_ids: reader.u32s()?,
        allowed_token_ids: reader.u32s()?,
        bad_words: read_bad_words(reader)?,
        logit_bias: reader.pairs()?,
        logprobs: if reader.bool()? { Some(reader.u32()?) } else { None },
        prompt_logprobs: if reader.bool()? { Some(reader.u32()?) } else { None },
        structure: if reader.bool()? { Some(read_structure(reader)?) } else { None },
        reasoning_end: reader.u32s()?,
        thinking_token_budget: if reader.bool()? { Some(reader.u32()?) } else { None },
        beams: if reader.bool()? { Some(read_beams(reader)?) } else { None },
        is_processed: reader.bool()?,
        logprob_token_ids: reader.u32s()?,
    })
}

fn read_bad_words(reader: &mut Reader) -> Result<Vec<Vec<u32>>, FrameError> {
    let count = reader.count(4)?;
    (0..count).map(|_| reader.u32s()).collect()
}

fn read_structure(reader: &mut Reader) -> Result<Structure, FrameError> {
    let kind = match reader.u8()? {
        0 => StructureKind::JsonSchema,
        1 => StructureKind::Regex,
        2 => StructureKind::Lark,
        _ => return Err(FrameError::Value("structure")),
    };
    Ok(Structure { kind, text: reader.text()? })
}

fn read_beams(reader: &mut Reader) -> Result<Beams, FrameError> {
    let (width, length_penalty) = (reader.u32()?, reader.f64()?);
    let stops = [BeamStop::Exact, BeamStop::Likely, BeamStop::Enough];
    let stop = stops.get(usize::from(reader.u8()?)).ok_or(FrameError::Value("end of a beam search"))?;
    Ok(Beams { width, length_penalty, stop: *stop })
}

fn write_output(writer: &mut Writer, output: &ChoiceOutput) {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(output.choice != 0, HAS_CHOICE)
        | flag(output.num_cached_tokens != 0, HAS_CACHED)
        | flag(output.scheduled != 0.0, HAS_SCHEDULED)
        | flag(!output.logprobs.is_empty(), HAS_LOGPROBS)
        | flag(!output.prompt_logprobs.is_empty(), HAS_PROMPT_LOGPROBS)
        | flag(output.finish.is_some(), HAS_FINISH)
        | flag(output.tokens.len() != 1, HAS_COUNT);
    writer.u8(flags);
    writer.u64(output.request);
    match output.tokens.as_slice() {
        [token] => writer.u32(*token),
        tokens => writer.u32s(tokens),
    }
    if output.num_cached_tokens != 0 {
        writer.u32(output.num_cached_tokens);
    }
    if output.choice != 0 {
        writer.u32(output.choice);
    }
    if output.scheduled != 0.0 {
        writer.f64(output.scheduled);
    }
    for entries in [&output.logprobs, &output.prompt_logprobs].into_iter().filter(|entries| !entries.is_empty()) {
        writer.count(entries.len());
        for entry in entries {
            writer.f32(entry.logprob);
            writer.u32(entry.rank);
            writer.pairs(&entry.top);
        }
    }
    if let Some(finish) = &output.finish {
        write_finish(writer, finish);
    }
}

fn read_step(reader: &mut Reader) -> Result<StepOutput, FrameError> {
    let stats = read_stats(reader)?;
    let count = reader.count(ROW_MIN_BYTES)?;
    let mut outputs = Vec::with_capacity(count);
    for _ in 0..count {
        outputs.push(read_output(reader)?);
    }
    Ok(StepOutput { outputs, stats })
}

fn read_output(reader: &mut Reader) -> Result<ChoiceOutput, FrameError> {
    let flags = reader.u8()?;
    if flags >= 2 * HAS_PROMPT_LOGPROBS {
        return Err(FrameError::Value("output flag"));
    }
    let request = reader.u64()?;
    let tokens = if flags & HAS_COUNT != 0 { reader.u32s()? } else { vec![reader.u32()?] };
    let num_cached_tokens = if flags & HAS_CACHED != 0 { reader.u32()? } else { 0 };
    let choice = if flags & HAS_CHOICE != 0 { reader.u32()? } else { 0 };
    let scheduled = if flags & HAS_SCHEDULED != 0 { reader.f64()? } else { 0.0 };
    let logprobs = if flags & HAS_LOGPROBS != 0 { read_logprobs(reader)? } else { Vec::new() };
    let prompt_logprobs = if flags & HAS_PROMPT_LOGPROBS != 0 { read_logprobs(reader)? } else { Vec::new() };
    let finish = if flags & HAS_FINISH != 0 { Some(read_finish(reader)?) } else { None };
    Ok(ChoiceOutput { request, choice, tokens, logprobs, prompt_logprobs, num_cached_tokens, scheduled, finish })
}

fn read_logprobs(reader: &mut Reader) -> Result<Vec<TokenLogprobs>, FrameError> {
    let count = reader.count(12)?;
    let entry = |_| Ok(TokenLogprobs { logprob: reader.f32()?, rank: reader.u32()?, top: reader.pairs()? });
    (0..count).map(entry).collect()
}

fn write_finish(writer: &mut Writer, finish: &Finish) {
    match finish.reason {
        FinishReason::EndOfSequence => writer.u8(0),
        FinishReason::StopToken(token) => {
            writer.u8(1);
            writer.u32(token);
        }
        FinishReason::Length => writer.u8(2),
        FinishReason::Abort => writer.u8(3),
    }
    let timings = &finish.timings;
    writer.f64(timings.arrival);
    writer.f64(timings.scheduled);
    writer.f64(timings.first_token);
    writer.f64(timings.last_token);
    writer.u32(timings.num_preemptions);
}

fn read_finish(reader: &mut Reader) -> Result<Finish, FrameError> {
    let reason = match reader.u8()? {
        0 => FinishReason::EndOfSequence,
        1 => FinishReason::StopToken(reader.u32()?),
        2 => FinishReason::Length,
        3 => FinishReason::Abort,
        _ => return Err(FrameError::Value("finish reason")),
    };
    let timings = Timings {
        arrival: reader.f64()?,
        scheduled: reader.f64()?,
        first_token: reader.f64()?,
        last_token: reader.f64()?,
        num_preemptions: reader.u32()?,
    };
    Ok(Finish { reason, timings })
}

fn write_stats(writer: &mut Writer, stats: &Stats) {
    writer.f64(stats.time);
    writer.u32(stats.num_running);
    writer.u32(stats.num_waiting);
    writer.u32(stats.num_blocks);
    writer.u32(stats.num_used_blocks);
    writer.u32(stats.num_wasted_slots);
    writer.u64(stats.prefix_queries);
    writer.u64(stats.prefix_hits);
    writer.u64(stats.prompt_tokens);
    writer.u64(stats.generation_tokens);
    writer.u64(stats.num_preemptions);
    writer.u64(stats.num_rejected);
    writer.u64(stats.num_steps);
    writer.u32(stats.step_tokens);
}

fn read_stats(reader: &mut Reader) -> Result<Stats, FrameError> {
    Ok(Stats {
        time: reader.f64()?,
        num_running: reader.u32()?,
        num_waiting: reader.u32()?,
        num_blocks: reader.u32()?,
        num_used_blocks: reader.u32()?,
        num_wasted_slots: reader.u32()?,
        prefix_queries: reader.u64()?,
        prefix_hits: reader.u64()?,
        prompt_tokens: reader.u64()?,
        generation_tokens: reader.u64()?,
        num_preemptions: reader.u64()?,
        num_rejected: reader.u64()?,
        num_steps: reader.u64()?,
        step_tokens: reader.u32()?,
    })
}

fn fail_code(reason: FailReason) -> u8 {
    match reason {
        FailReason::QueueFull => 0,
        FailReason::Draining => 1,
        FailReason::Invalid => 2,
        FailReason::Internal => 3,
    }
}

fn fail_reason(code: u8) -> Result<FailReason, FrameError> {
    Ok(match code {
        0 => FailReason::QueueFull,
        1 => FailReason::Draining,
        2 => FailReason::Invalid,
        3 => FailReason::Internal,
        _ => return Err(FrameError::Value("failure reason")),
    })
}
