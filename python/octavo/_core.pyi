"""The typed boundary to the Rust core.

Calls marked *releases the GIL* may run beside other Python threads. Arguments called `buffer` are
C-contiguous objects of the buffer protocol (NumPy arrays, `torch.Tensor.numpy()`); element type and
length are checked at each call, or once when bound. A buffer that is written may not overlap another one of the same
call, and no other thread may touch the buffers of a call while it runs. A panic inside is a RuntimeError.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, final

__version__: str

__all__ = [
    "Accepted",
    "CpuKernels",
    "Delta",
    "DeviceWork",
    "Endpoint",
    "Engine",
    "Failed",
    "Frontend",
    "NativeDecoder",
    "NativeEncoder",
    "PagedKvCache",
    "Plan",
    "Pooled",
    "PoolerOptions",
    "Pooling",
    "PoolingLimits",
    "Sampling",
    "Stats",
    "StringList",
    "Timings",
    "TokenLogprobs",
    "Tokenizer",
    "__version__",
]

# ---------------------------------------------------------------- text

@final
class StringList:
    """A list of strings as GGUF files store it, each behind its length of 8 bytes; they are decoded one at a time."""

    def __new__(cls, file: Any, start: int, count: int) -> Self:
        """Copies the list that begins at byte `start` of a buffer of bytes. ValueError when the buffer ends inside."""
    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> str:
        """IndexError past the end, ValueError for a string that is not UTF-8."""

@final
class Tokenizer:
    """A Hugging Face tokenizer, run in Rust."""

    @staticmethod
    def from_json(data: bytes) -> Tokenizer:
        """From a `tokenizer.json`. ValueError when it is none. Releases the GIL."""
    @staticmethod
    def from_lists(document: bytes, tokens: StringList, merges: StringList | None = None) -> Tokenizer:
        """From a `tokenizer.json` whose BPE model has no vocabulary: token i is `tokens[i]`.

        `merges` are pairs with a space between; None when the document has them. ValueError when it is no tokenizer, or
        a merge is not made of its tokens. Releases the GIL.
        """
    def to_json(self) -> str:
        """A complete `tokenizer.json`, for other programs."""
    @property
    def vocab_size(self) -> int:
        """Number of tokens, added tokens included."""
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Releases the GIL."""
    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `token_ids`; bytes that form no character become U+FFFD. ValueError for an unknown id.

        Releases the GIL.
        """
    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it."""
    def token_id(self, token: str) -> int | None: ...
    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for in text. ValueError for an unknown id."""

@final
class Sampling:
    """A checked, immutable set of sampling parameters: see `octavo.SamplingParams` for the meaning of each.

    Raises ValueError("<name>: <reason>") for a value out of range or not finite.
    """

    def __new__(
        cls,
        *,
        n: int = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        max_tokens: int | None = None,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        stop: Sequence[str] = ...,
        stop_token_ids: Sequence[int] = ...,
        include_stop_str_in_output: bool = False,
        skip_special_tokens: bool = True,
        detokenize: bool = True,
        logit_bias: Sequence[tuple[int, float]] = ...,
        logprobs: int | None = None,
        structure: tuple[str, str] | None = None,
        reasoning_end: Sequence[int] = ...,
        thinking_token_budget: int | None = None,
        best_of: int | None = None,
        repetition_detection: tuple[int, int, int] | None = None,
        spaces_between_special_tokens: bool = True,
        stream_interval: int = 1,
        truncate_prompt_tokens: int | None = None,
        truncation_side: Literal["left", "right"] = "left",
        allowed_token_ids: Sequence[int] | None = None,
        bad_words: Sequence[str] = ...,
        beam_width: int | None = None,
        length_penalty: float = 1.0,
        early_stopping: bool | None = None,
        logits_processors: bool = False,
        logprob_token_ids: Sequence[int] = ...,
        prompt_logprobs: int | None = None,
        prompt_only: bool = False,
    ) -> Self:
        """`repetition_detection` is (max_pattern_size, min_pattern_size, min_count).

        `logprobs`, `prompt_logprobs`: -1 is the whole vocabulary. `logprob_token_ids`: these tokens' instead of the
        best ones', also where logprobs is None. `prompt_only`: what is generated is not given out, as if max_tokens
        were 0.

        `structure`: what the output has to match, as (kind, text); kind is "json_schema", "regex", or "lark" for
        llguidance's dialect of Lark. The engine compiles it; one that it cannot enforce is a Failed("invalid",
        param="structured_outputs"). `reasoning_end`: the tokens that end the reasoning, after which the structure
        begins; none: it begins with the first token. After `thinking_token_budget` tokens without them they are put in
        the output.

        With `beam_width` the n best of so many beams are the choices. `early_stopping` None: the search ends when no
        better beam can come; False: when one is unlikely; True: once `beam_width` beams have ended.
        `logits_processors`: the engine's samples of the request are among its `processed_samples`.
        """

@final
class Pooling:
    """What a prompt is made into instead of an answer. Immutable.

    task:        embed: a vector; token_embed: a vector for each token; classify: a number for each label; score: one
                 number, of a model with one label; token_classify, reward: numbers for each token. A model has some of
                 them (`Prepared.pooling`); another one is Failed("invalid").
    dimensions:  of embed and token_embed: only the first so many elements of each vector, before it is normalised.
    normalize:   embed, token_embed: vectors of length 1. classify, score and the others: probabilities (softmax over
                 labels, sigmoid of a single one) instead of the model's plain numbers. None: what the model's files
                 say, which is True for most.

    Raises ValueError("<name>: <reason>") for an unknown task, and for dimensions below 1.
    """

    def __new__(cls, *, task: str, dimensions: int | None = None, normalize: bool | None = None) -> Self: ...

# ---------------------------------------------------------------- between processes

@final
class Endpoint:
    """One end of the connection between a front end and an engine. Given to a Frontend or an Engine, it is used up."""

    @staticmethod
    def pair() -> tuple[Endpoint, Endpoint]:
        """(front end's end, engine's end) joined by an in-process ring."""
    @staticmethod
    def from_fd(fd: int) -> Endpoint:
        """Takes over a connected Unix stream socket. Raises OSError when `fd` is none."""

@final
class Accepted:
    """The request is tokenized, checked, and on its way to the engine. The first event of a request."""

    request: int
    num_prompt_tokens: int
    @property
    def prompt_token_ids(self) -> list[int]:
        """Built anew at each access."""

@final
class Timings:
    """Seconds of CLOCK_MONOTONIC (`time.monotonic()`)."""

    arrival: float
    scheduled: float
    first_token: float
    last_token: float
    num_preemptions: int

@final
class TokenLogprobs:
    logprob: float
    rank: int
    """1 for the most probable token."""
    @property
    def top(self) -> list[tuple[int, float]]:
        """(token id, log-probability), best first, or of the tokens that the request named, in its order."""

@final
class Delta:
    """News of one choice of one request."""

    request: int
    index: int
    """The choice, 0 to n - 1."""
    text: str
    """New text. May be empty while a character or a possible stop string is incomplete."""
    num_cached_tokens: int
    finish_reason: Literal["stop", "length", "abort"] | None
    """Not None: the last event of this choice."""
    stop_reason: int | str | None
    """The stop token id or stop string that ended it; None for the end-of-sequence token."""
    timings: Timings | None
    """With finish_reason only."""
    num_tokens: int
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        """One a token, or None when the request did not ask."""
    @property
    def prompt_logprobs(self) -> list[TokenLogprobs]:
        """Of the prompt's next tokens, from its second on. All come before the first token, with choice 0."""

@final
class Pooled:
    """What a prompt was pooled to: the last event of a request of `submit_pooling`."""

    request: int
    num_prompt_tokens: int
    num_cached_tokens: int
    """Prompt tokens that came from the prefix cache; 0 for an encoder."""
    @property
    def shape(self) -> tuple[int, ...]:
        """embed: (dimensions,); classify: (labels,); score: (1,); the tasks of tokens: (tokens, …)."""
    @property
    def data(self) -> bytes:
        """The numbers, row after row, as little-endian float32. Built anew at each access."""

@final
class Failed:
    """The last event of a request that was refused or broke."""

    request: int
    reason: Literal["invalid", "queue_full", "draining", "internal", "engine_died"]
    param: str | None
    message: str

@final
class Stats:
    """The engine's state after its newest step; counters count since its start."""

    time: float
    num_running: int
    num_waiting: int
    num_blocks: int
    num_used_blocks: int
    num_wasted_slots: int
    prefix_queries: int
    prefix_hits: int
    prompt_tokens: int
    generation_tokens: int
    num_preemptions: int
    num_rejected: int
    num_steps: int
    step_tokens: int

@final
class Frontend:
    """The clients' side: tokenizes on its own threads, sends requests to the engine, turns tokens into text.

    Not bound to an event loop: `fileno()` becomes readable when `drain()` has something to return.
    """

    def __new__(
        cls,
        endpoint: Endpoint,
        tokenizer: Tokenizer | None,
        *,
        max_model_len: int,
        vocab_size: int,
        threads: int = 2,
    ) -> Self:
        """Without a tokenizer prompts must be token ids, and text stays empty."""
    def submit(
        self,
        prompt: str | Sequence[int],
        sampling: Sampling,
        *,
        add_special_tokens: bool = True,
        clamp_max_tokens: bool = False,
        priority: int = 0,
        cache_salt: str = ...,
    ) -> int:
        """Returns the request's number at once; every outcome, errors included, arrives as an event.

        `max_tokens` None means the rest of the context; more than the rest is Failed("invalid"), or cut to it
        with `clamp_max_tokens`. A prompt of max_model_len tokens or more, an empty one, and a token id out of
        range are Failed("invalid", param="prompt").
        """
    def submit_pooling(
        self,
        prompt: str | Sequence[int] | tuple[str, str],
        pooling: Pooling,
        *,
        add_special_tokens: bool = True,
        truncate_prompt_tokens: int | None = None,
        truncation_side: Literal["left", "right"] = "right",
        priority: int = 0,
        cache_salt: str = ...,
    ) -> int:
        """Has a prompt pooled. Returns the request's number at once; Accepted, then Pooled or Failed follow.

        A tuple of two strings is a pair, as a cross-encoder compares it: [CLS] first [SEP] second [SEP], or what the
        tokenizer says. (A sequence of two ids is token ids.)
        truncate_prompt_tokens: at most so many tokens, the special ones around a text included, which stay; -1:
        max_model_len. Tokens go on `truncation_side`, those of the longer text of a pair first. None: a prompt of more
        than max_model_len tokens is Failed("invalid", param="prompt").
        Also "invalid", with a message that begins with the parameter's name where there is one: a task that the model
        has not, and more dimensions than its vectors have. An aborted request ends with a Delta of choice 0 whose
        finish_reason is "abort", as others do.
        ValueError for a truncate_prompt_tokens that is neither -1 nor 1 or more.
        """
    def abort(self, request: int) -> None:
        """Ends a request; its choices end with finish_reason "abort". Unknown or ended ids are ignored."""
    def drain(self) -> list[Accepted | Delta | Pooled | Failed]:
        """The events since the last call, in order, never blocking.

        After the engine's death: one Failed("engine_died") for each open request.
        """
    def wait(self, timeout: float) -> bool:
        """Blocks until `drain()` has something, at most `timeout` seconds. Releases the GIL."""
    def fileno(self) -> int: ...
    @property
    def ready(self) -> str | None:
        """The JSON of the engine's ready report; None until it came."""
    @property
    def stats(self) -> Stats | None:
        """The newest state that the engine reported."""
    @property
    def connected(self) -> bool:
        """False once the engine's end is closed."""
    @property
    def num_open(self) -> int:
        """Requests without a last event."""
    def reconnect(self, endpoint: Endpoint) -> None:
        """Speaks to a new engine; requests of the old one have failed. `ready` is None again."""
    def reset_prefix_cache(self) -> None: ...
    def drain_engine(self) -> None:
        """Tells the engine to finish what runs and close."""

# ---------------------------------------------------------------- engine

@final
class Plan:
    """One step, as scalars. The columns lie in arena number `arena` (see Engine.arena_layout)."""

    epoch: int
    arena: int
    num_reqs: int
    num_tokens: int
    num_samples: int
    num_processed: int
    """Samples whose logits are to be changed by logits processors first: `Engine.processed_samples`."""
    max_query_len: int
    max_context_len: int
    num_table_deltas: int
    num_block_copies: int
    num_host_samples: int
    """Samples with host_sample 1; 0 without DeviceWork, as is the next."""
    num_histories: int

@final
class DeviceWork:
    """How a GPU takes the attention of a step (cuda/attention.cuh: WorkList), for an Engine whose arenas go to one."""

    def __new__(
        cls, *, num_heads: int, num_kv_heads: int, prefill_tile_rows: int, decode_units: int, prefill_units: int
    ) -> Self:
        """`decode_units` and `prefill_units`: units of each kernel that run at once, which is its persistent grid.

        A unit of decode is an item, a KV head, and up to 16 query heads of its group; a unit of prefill an item and a
        KV head. ValueError for a value that is not between 1 and 65535, and for heads that KV heads do not divide.
        """

@final
class PoolingLimits:
    """For an Engine that pools every prompt, and generates nothing."""

    def __new__(cls, *, tasks: Sequence[str], whole: Sequence[str], width: int, num_labels: int) -> Self:
        """What the model makes of prompts, as `Pooling.task` names it.

        whole: those tasks that need the whole prompt in one step; its tokens come from no cache then, and
        max_num_batched_tokens limits its length. width: elements of a vector.
        """

@final
class Engine:
    """The life of every request: queue, scheduler, prefix cache, blocks. One step is plan, run, commit."""

    def __new__(
        cls,
        endpoint: Endpoint,
        *,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        enable_prefix_caching: bool = True,
        enable_chunked_prefill: bool = True,
        policy: Literal["fcfs", "priority"] = "fcfs",
        max_num_queued_reqs: int | None = None,
        long_prefill_token_threshold: int = 0,
        max_logprobs: int = 20,
        seed: int = 0,
        async_decode: bool = False,
        device_work: DeviceWork | None = None,
        pooling: PoolingLimits | None = None,
        open_tokenizer: Callable[[], Tokenizer | None] | None = None,
    ) -> Self:
        """Raises ValueError for limits which contradict each other.

        open_tokenizer: called by another thread when the first request asks for a structure. Without it, or when it
        returns None, such requests fail.

        async_decode: a request that a step in flight samples may be planned for its next token, before that step's
        commit. The token that is not known yet is -(row + 1) in input_ids: the one sampled last for this row, which the
        device has to put in (-1 where none could be chosen: any token will do then, for the request fails). A request
        whose token is a host_sample, or with penalties without DeviceWork, and one that forks (n > 1), waits for the
        commit.
        pooling: a prompt ends with its last token, which is the only sample of its request, and is pooled by
        `NativeEncoder.step` or `NativeDecoder.step`. Without it, prompts to be pooled are Failed("invalid").
        """
    def arena_layout(self) -> list[tuple[str, Literal["int32", "int64", "float32"], int, int]]:
        """(column, element type, byte offset, number of elements) of one arena.

        input:  input_ids i32[T], positions i32[T], slot_mapping i64[T]; row i32[R], query_start i32[R + 1],
                seq_len i32[R]; logits_index i32[R], sample_row i32[R]; delta_row i32[D], delta_column i32[D],
                delta_block i32[D] (block_table[row, column] = block, to be applied before the step);
                copy_source i32[R], copy_target i32[R] (whole blocks, to be copied before the step)
        output: sampled i32[R], sampled_logprob f32[R], sampled_rank i32[R], top_ids i32[R * K], top_logprobs f32[R * K]
        T = max_num_batched_tokens, R = max_num_seqs, K = max_logprobs, but 32 at most (or more for a beam search).
        Request i owns the tokens query_start[i] to query_start[i + 1]; seq_len counts its context after the step.
        Sample s reads the logits of token logits_index[s]; several samples may read one token (n > 1). Some samples
        are of known tokens of a prompt, whose log-probabilities are wanted.

        With DeviceWork the columns of input are, in addition:
        first:  counts i32[9]: num_reqs, num_tokens, num_samples, num_table_deltas, num_block_copies,
                num_decode_items, num_prefill_items, num_merges, num_histories
        last:   decode_entry, decode_kv_begin, decode_kv_end, decode_slot; prefill_entry, prefill_first_row,
                prefill_kv_begin, prefill_kv_end, prefill_slot; merge_token, merge_first_slot, merge_num_slots,
                merge_slot_stride, all i32 (cuda/attention.cuh: WorkList, MergeList; slots are numbered from 0 over both
                lists); and of each sample temperature f32[R], top_k i32[R], top_p f32[R], min_p f32[R],
                seed i64[R] (the bits of a u64), choice i32[R], draw_step i64[R] (seed, choice and draw_step name the
                random draw), num_logprobs i32[R] (-1: not even the sampled token's), presence_penalty f32[R],
                frequency_penalty f32[R], repetition_penalty f32[R], host_sample i32[R]: 1 where CpuKernels.sample has
                to choose: with allowed or banned tokens, a bias, more than 32 log-probabilities or those of
                named tokens or of a prompt, or with penalties in a row whose history is not complete
        and:    history_row i32[R], history_starts i32[R], history_first i32[R + 1], history_num_prompt i32[R],
                history_tokens i32[T], for rows with penalties: tokens that the row has had, and the device does not
                know (cuda/count_tokens.cu). It adds those that it samples itself

        Arenas have to start as zeros. Behind its own elements a step leaves those of earlier steps, which are in range;
        logits_index has zeros there. No two deltas of a step are for one place of the block table.
        """
    @property
    def arena_bytes(self) -> int: ...
    @property
    def arena_input_bytes(self) -> int:
        """Where the output columns begin: all before them is input, all from there on is output."""
    @property
    def max_attention_slots(self) -> int:
        """Slots that the parts of a step's attention take at most; 0 without DeviceWork."""
    @property
    def num_arenas(self) -> int: ...
    @property
    def max_blocks_per_seq(self) -> int:
        """Width of a block table; it has max_num_seqs rows."""
    def bind_arena(self, index: int, buffer: Any) -> None:
        """Keeps a writable buffer of arena_bytes bytes, 64-byte aligned, for the engine's life."""
    def ready(self, info: str) -> None:
        """Tells the front end that the engine serves."""
    def plan(self, timeout: float) -> Plan | None:
        """Drains arrivals and aborts, schedules, fills an arena. RuntimeError while every arena is in flight.

        Waits at most `timeout` seconds for work; None when there was none. Releases the GIL.
        """
    def processed_samples(self, epoch: int) -> list[tuple[int, int, list[int], list[int]]]:
        """Sample, request, prompt and output so far, of each sample of a step that logits processors change."""
    def commit(self, epoch: int) -> None:
        """Takes the output columns of that step: appends, ends, hashes, frees, and sends one frame.

        What the step sampled for a request that has ended since it was planned is ignored. ValueError for an epoch that
        is not the oldest in flight. Releases the GIL.
        """
    def fail(self, epoch: int, message: str) -> None:
        """The oldest step in flight could not run: its requests fail with `message`, the others go on.

        What a later step in flight computes for them is ignored at its commit, or when it fails too.
        """
    @property
    def closed(self) -> bool:
        """True when the front end has gone, or draining is done: the loop ends."""
    @property
    def stats(self) -> Stats: ...
    def check_integrity(self) -> None:
        """RuntimeError when a block is lost or counted twice, or a table disagrees with its request."""

# ---------------------------------------------------------------- CPU kernels

@final
class CpuKernels:
    """Kernels on one thread pool. Floats are float32; the KV cache has its own element type."""

    def __new__(
        cls,
        threads: int,
        isa: Literal["auto", "portable", "neon", "neon_dot", "avx2", "avx512", "avx512_bf16", "amx"] = "auto",
    ) -> Self:
        """ValueError when this machine lacks `isa`."""
    @staticmethod
    def available() -> list[str]:
        """Instruction sets of this machine, best first; always ends with "portable"."""
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    def rms_norm(self, x: Any, weight: Any, out: Any, eps: float) -> None:
        """out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight; f32, rows of len(weight). `out` may be `x`.

        Releases the GIL.
        """
    def add_rms_norm(self, x: Any, residual: Any, weight: Any, out: Any, eps: float) -> None:
        """residual += x, then out = rms_norm(residual). `out` may be `x`. Releases the GIL."""
    def rope(self, x: Any, positions: Any, cos_sin: Any, head_dim: int) -> None:
        """Rotates the halves of each head of x f32[T, heads * head_dim] in place (Llama's layout).

        positions i32[T]; cos_sin f32[max_position, rotary_dim]: cosines in the first half, sines in the second.
        Dimensions past rotary_dim stay. Releases the GIL.
        """
    def silu_mul(self, gate_up: Any, out: Any) -> None:
        """out[t, i] = silu(gate_up[t, i]) * gate_up[t, i + I] for f32[T, 2I] -> f32[T, I]. Releases the GIL."""
    def sample(self, engine: Engine, epoch: int, logits: Any, samples: Any | None = None) -> None:
        """Chooses one token for each sample of the step, into the arena's output columns.

        logits f32[num_samples, vocab_size], overwritten. With samples i32[n] only the samples of these indices, with
        logits f32[n, vocab_size]; the other places of the columns stay. Allowed tokens, bad words, bias, penalties,
        temperature, top-k, top-p, min-p; seeds make a request's choice independent of the batch. Log-probabilities are
        those of the raw logits; lists of more than the columns have room for go to the engine beside them. A sample
        that no token is possible for becomes -1. ValueError for an index that is no sample. Releases the GIL.
        """

@final
class PagedKvCache:
    """Keys and values of every layer in blocks, and the attention over them, on the CPU."""

    def __new__(
        cls,
        kernels: CpuKernels,
        *,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        max_num_seqs: int,
        max_blocks_per_seq: int,
        dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32",
    ) -> Self:
        """int8: with a float32 scale for each token's K, and for its V, of a kv head.

        Raises MemoryError when the blocks cannot be allocated."""
    @staticmethod
    def block_bytes(*, num_layers: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: str) -> int:
        """Bytes that one block takes over all layers."""
    def begin_step(
        self,
        *,
        row: Any,
        query_start: Any,
        seq_len: Any,
        slot_mapping: Any,
        delta_row: Any,
        delta_column: Any,
        delta_block: Any,
        copy_source: Any,
        copy_target: Any,
    ) -> None:
        """Applies the table deltas and block copies, and keeps the step's metadata for `attention`.

        Lengths give the counts: row[n], query_start[n + 1], seq_len[n], slot_mapping[t]. ValueError for an index out
        of range. Releases the GIL.
        """
    def attention(
        self,
        layer: int,
        query: Any,
        key: Any,
        value: Any,
        out: Any,
        *,
        scale: float,
        sliding_window: int = 0,
        softcap: float = 0.0,
    ) -> None:
        """Writes key and value into the cache, then causal attention of every query over its request's cached context.

        query, out f32[T, num_heads * head_dim]; key, value f32[T, num_kv_heads * head_dim]. sliding_window 0: all.
        Releases the GIL.
        """

@final
class PoolerOptions:
    """How a model pools hidden states."""

    def __new__(
        cls,
        *,
        kind: Literal["first", "last", "mean", "max"],
        normalize: bool,
        dense: bool = False,
        num_labels: int = 0,
        activation: Literal["identity", "sigmoid", "softmax"] = "softmax",
    ) -> Self:
        """kind: which tokens make the vector of a sequence. normalize: to length 1, unless a request says otherwise.

        num_labels: numbers of a classifier, the parameter "classifier"; with `dense` a product, "pooler", and a tanh
        before it; activation: what its numbers go through, unless a request says otherwise. ValueError for other words.
        """

@final
class NativeEncoder:
    """A whole bidirectional encoder on the CPU kernels. Parameters are loaded by name; then `finish`, and steps.

    The names are those of `octavo.models.pooled_layout`. A sequence's numbers depend on that sequence alone.
    """

    def __new__(
        cls,
        kernels: CpuKernels,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_positions: int,
        num_types: int,
        norm_eps: float,
        pooler: PoolerOptions,
        max_num_tokens: int,
    ) -> Self:
        """num_types 0: there is no table of token types. ValueError for sizes that contradict."""
    @staticmethod
    def workspace_bytes(*, hidden_size: int, intermediate_size: int, max_num_tokens: int) -> int:
        """Bytes of a step's rows, at most."""
    def load_matrix(self, name: str, parts: Sequence[tuple[Any, int, str, int]], format: str | None = None) -> None:
        """As `NativeDecoder.load_matrix`. Releases the GIL."""
    def load_vector(self, name: str, values: Any) -> None:
        """Keeps norm weights or a bias, f32. ValueError as `load_matrix`."""
    def finish(self) -> None:
        """Ends the loading. ValueError names a parameter that is missing."""
    @property
    def weights_bytes(self) -> int:
        """Bytes of all parameters; 0 before `finish`."""
    def forward(self, input_ids: Any, positions: Any, types: Any, query_start: Any, hidden: Any) -> None:
        """Sequence i has the tokens query_start[i] to query_start[i + 1]: input_ids, positions, types i32[T].

        hidden f32[T, hidden_size] are written. Releases the GIL.
        """
    def step(self, engine: Engine, epoch: int) -> None:
        """Runs a planned step, whose prompts are whole, and pools them.

        ValueError for a stale epoch and for columns out of range. Releases the GIL.
        """

@final
class NativeDecoder:
    """A whole decoder on the CPU kernels: the native executor. Parameters are loaded by name; then `finish`, and steps.

    The names are those of `octavo.models.layout.parameters`; a matrix called gate_up has two parts, gate and up.
    """

    def __new__(
        cls,
        kernels: CpuKernels,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        intermediate_size: int,
        norm_eps: float,
        qk_norm: bool,
        windows: Sequence[int],
        attention_scale: float,
        tied_head: bool,
        max_num_tokens: int,
        max_num_seqs: int,
        cos_sin: Any,
        pooler: PoolerOptions | None = None,
    ) -> Self:
        """cos_sin f32[max_position, rotary_dim] as in `CpuKernels.rope`. ValueError for sizes that contradict.

        With a pooler there are no logits: `step` pools the prompts that end with it.
        """
    @staticmethod
    def packed_bytes(rows: int, columns: int, format: str) -> int:
        """Bytes that a matrix takes in `format`. ValueError for an unknown one."""
    @staticmethod
    def workspace_bytes(
        *,
        vocab_size: int,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        intermediate_size: int,
        max_num_tokens: int,
        max_num_seqs: int,
        pools: bool = False,
    ) -> int:
        """Bytes of a step's rows and logits, at most; the rotary table is not in it."""
    def load_matrix(self, name: str, parts: Sequence[tuple[Any, int, str, int]], format: str | None = None) -> None:
        """Packs one matrix from its parts (buffer u8, rows, encoding, interleaved_head), one below the other.

        encoding is how the rows are stored: F32, F16, BF16, or a block type of GGML (Q4_1, Q6_K, …).
        interleaved_head: rows a head, where llama.cpp stored the halves of each head interleaved; 0: as they are.
        format: float32, float16, bfloat16, int8, int4, or None: each part as it is stored. ValueError for a name,
        shape, encoding or format that does not fit. The buffers may go afterwards. Releases the GIL.
        """
    def load_vector(self, name: str, values: Any) -> None:
        """Keeps norm weights or a bias, f32. ValueError as `load_matrix`."""
    def finish(self) -> None:
        """Ends the loading. ValueError names a parameter that is missing."""
    @property
    def weights_bytes(self) -> int:
        """Bytes of all parameters; 0 before `finish`."""
    def forward(self, cache: PagedKvCache, input_ids: Any, positions: Any, logits_index: Any, logits: Any) -> None:
        """The step that `cache.begin_step` began: input_ids i32[T], positions i32[T], logits_index i32[S].

        logits f32[S, vocab_size] are written. Releases the GIL.
        """
    def step_logits(self, engine: Engine, epoch: int, cache: PagedKvCache, logits: Any) -> None:
        """A step without its sampling: fills `logits` f32 [num_samples, vocab_size]. Releases the GIL."""
    def step(self, engine: Engine, epoch: int, cache: PagedKvCache) -> None:
        """Runs a planned step whole: table changes, forward pass, and sampling into the output columns of its arena.

        ValueError for a stale epoch and for columns out of range. Releases the GIL.
        """
