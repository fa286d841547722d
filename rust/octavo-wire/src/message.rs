//! What crosses between the API process and the engine process.
//!
//! A [`Command`] goes to the engine, a [`Report`] comes back. Both are plain data: the codec in
//! `frame.rs` gives them their bytes, the ring and the socket carry them. Times are seconds of
//! `CLOCK_MONOTONIC`, which all processes of one machine share.

/// A request's number, unique within one front end; the front end chooses it.
pub type RequestId = u64;

/// Front end to engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A new request, already tokenized and checked.
    Submit(Box<Submission>),
    /// Ends every choice of a request: the client has gone, or asked for it. Unknown ids are ignored.
    Abort { request: RequestId },
    /// Ends one choice whose text met a stop string. The engine frees it and reports nothing more of it.
    Stop { request: RequestId, choice: u32 },
    /// Forgets every cached prefix that no running request uses.
    ResetPrefixCache,
    /// Accept nothing more, finish what runs, then close.
    Drain,
}

/// A tokenized request.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    pub request: RequestId,
    /// At least one token, each below the vocabulary size.
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    /// `Some`: the prompt is pooled, and nothing is sampled.
    pub pooling: Option<Pooling>,
    /// Smaller runs earlier under the `priority` policy; ignored under `fcfs`.
    pub priority: i32,
    /// When the server received it.
    pub arrival: f64,
    /// Requests share cached prefixes only with the same salt. Empty: the common one.
    pub cache_salt: String,
}

/// How the engine chooses tokens. What concerns text (stop strings, special tokens) stays in the front end.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Number of choices, 1 to 128.
    pub n: u32,
    /// 0 is greedy.
    pub temperature: f32,
    pub top_p: f32,
    /// 0 keeps all.
    pub top_k: u32,
    pub min_p: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub repetition_penalty: f32,
    pub seed: Option<u64>,
    /// Generated tokens, at least 1 and at most `max_model_len - prompt.len()`.
    pub max_tokens: u32,
    /// Stop and end-of-sequence tokens cannot be chosen before this many tokens.
    pub min_tokens: u32,
    pub ignore_eos: bool,
    pub stop_token_ids: Vec<u32>,
    /// No other tokens can be chosen, unless it is empty; sorted, no token twice.
    pub allowed_token_ids: Vec<u32>,
    /// The last token of each cannot be chosen where the output ends with those before it. None is empty.
    pub bad_words: Vec<Vec<u32>>,
    /// Added to the logits; sorted by token, no token twice.
    pub logit_bias: Vec<(u32, f32)>,
    /// `Some(k)`: the chosen token's log-probability, and the k best.
    pub logprobs: Option<u32>,
    /// `Some`: the `n` best of a beam search, in place of sampled choices. Its tokens come all at the end.
    pub beams: Option<Beams>,
    /// Python's logits processors change its logits before it is sampled: the backend is to call them.
    pub is_processed: bool,
    /// These tokens' instead of the best ones', unless there are none.
    pub logprob_token_ids: Vec<u32>,
    /// `Some(k)`: the same of each prompt token but the first, and the k best in its place.
    pub prompt_logprobs: Option<u32>,
    /// What the output must match, from its start or the end of the reasoning.
    pub structure: Option<Structure>,
    /// The tokens that end the reasoning; empty when the output has none.
    pub reasoning_end: Vec<u32>,
    /// Tokens of reasoning, at most; then `reasoning_end` is put in the output.
    pub thinking_token_budget: Option<u32>,
}

/// A grammar, as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Structure {
    pub kind: StructureKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StructureKind {
    JsonSchema,
    Regex,
    /// llguidance's dialect of Lark.
    Lark,
}

/// How a beam search goes (octavo-core: beam.rs).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    /// Beams that are kept at each step; at least `n`.
    pub width: u32,
    /// A beam's score is its log-probability by its length to this power.
    pub length_penalty: f64,
    pub stop: BeamStop,
}

/// When a beam search ends before every beam has come to its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeamStop {
    /// When no beam can become one of the `width` best any more: the result is that of the whole search.
    Exact,
    /// When the best beam, with its score of now, is not among the `width` best.
    Likely,
    /// When `width` beams have ended.
    Enough,
}

/// What is made of a prompt instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    pub task: PoolingTask,
    /// Leading elements of the vector to keep; `None`: all.
    pub dimensions: Option<u32>,
    /// Vectors of length one; for labels: probabilities instead of logits. `None`: what the model was made for.
    pub normalize: Option<bool>,
    /// Leading tokens of the first type; those that follow, the second text of a pair, have the second.
    pub num_first: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingTask {
    /// A vector.
    Embed,
    /// A number for each label.
    Classify,
    /// One number, of a model with one label.
    Score,
    /// A vector for each token.
    TokenEmbed,
    /// A number for each label, for each token.
    TokenClassify,
    /// As `TokenClassify`, of a reward model.
    Reward,
}

impl PoolingTask {
    pub const ALL: [PoolingTask; 6] = [
        PoolingTask::Embed,
        PoolingTask::Classify,
        PoolingTask::Score,
        PoolingTask::TokenEmbed,
        PoolingTask::TokenClassify,
        PoolingTask::Reward,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            PoolingTask::Embed => "embed",
            PoolingTask::Classify => "classify",
            PoolingTask::Score => "score",
            PoolingTask::TokenEmbed => "token_embed",
            PoolingTask::TokenClassify => "token_classify",
            PoolingTask::Reward => "reward",
        }
    }
}

/// Engine to front end.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The engine has loaded and accepts requests. `info` is a JSON object for people and metrics.
    Ready { info: String },
    /// One step's outputs: one frame a commit.
    Step(Box<StepOutput>),
    /// The only output of a request that is pooled.
    Pooled(Box<PooledOutput>),
    /// A request that never ran, or that failed; nothing more follows for it. `param`: its field at fault.
    Failed { request: RequestId, reason: FailReason, param: Option<String>, message: String },
    /// State while no step runs, at most one a second: the sign that the engine's loop turns.
    Idle(Box<Stats>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// The waiting queue is at its limit.
    QueueFull,
    /// The engine accepts nothing more.
    Draining,
    /// The request can never fit, or breaks a limit.
    Invalid,
    /// The forward pass raised.
    Internal,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    pub outputs: Vec<ChoiceOutput>,
    pub stats: Stats,
}

/// What a prompt came to.
#[derive(Clone, Debug, PartialEq)]
pub struct PooledOutput {
    pub request: RequestId,
    /// The sizes whose product is the length of `data`.
    pub shape: Vec<u32>,
    pub data: Vec<f32>,
    /// Prompt tokens that came from the prefix cache.
    pub num_cached_tokens: u32,
}

/// The new tokens of one choice.
#[derive(Clone, Debug, PartialEq)]
pub struct ChoiceOutput {
    pub request: RequestId,
    pub choice: u32,
    /// Empty only when the choice ends without a token (an abort), and beside `prompt_logprobs`.
    pub tokens: Vec<u32>,
    /// One entry a token when the request asked for log-probabilities, otherwise empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of the prompt's next tokens, from its second on, in an output without tokens of the first choice.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Prompt tokens that came from the prefix cache; the same in each output of a request.
    pub num_cached_tokens: u32,
    /// First time a step planned the request; with the first token of a choice, otherwise 0.
    pub scheduled: f64,
    pub finish: Option<Finish>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    pub logprob: f32,
    /// 1 for the most probable token.
    pub rank: u32,
    /// The most probable tokens, best first, or those that the request named.
    pub top: Vec<(u32, f32)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    pub reason: FinishReason,
    pub timings: Timings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The end-of-sequence token of the model.
    EndOfSequence,
    /// A token of `stop_token_ids`.
    StopToken(u32),
    /// `max_tokens` or the model's context length.
    Length,
    Abort,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    pub arrival: f64,
    /// First time a step planned it.
    pub scheduled: f64,
    pub first_token: f64,
    pub last_token: f64,
    pub num_preemptions: u32,
}

/// The engine's state after a step; counters count since the engine's start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    pub time: f64,
    pub num_running: u32,
    pub num_waiting: u32,
    pub num_blocks: u32,
    /// Blocks that a live request holds. Cached blocks that nobody uses count as free.
    pub num_used_blocks: u32,
    /// Token slots inside used blocks that hold no token.
    pub num_wasted_slots: u32,
    /// Tokens looked up in the prefix cache, and found.
    pub prefix_queries: u64,
    pub prefix_hits: u64,
    pub prompt_tokens: u64,
    pub generation_tokens: u64,
    pub num_preemptions: u64,
    pub num_rejected: u64,
    pub num_steps: u64,
    /// Tokens of the last step.
    pub step_tokens: u32,
}

/// Now, on the clock of every time in these messages: seconds of `CLOCK_MONOTONIC`.
pub fn monotonic() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which only writes it; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
