"""What every route of one served model shares."""

import time
from dataclasses import dataclass, field
from math import inf

from aiohttp import web

from octavo._core import Tokenizer
from octavo.config import ServerConfig
from octavo.pooling import PoolingModel
from octavo.server.engine_client import EngineClient, Stream
from octavo.server.errors import ApiError, printable
from octavo.server.formats import OutputFormats
from octavo.server.health import Health
from octavo.server.logprobs import TokenTexts
from octavo.server.metrics import Metrics
from octavo.server.sampling import SamplingResolver
from octavo.server.template import ChatTemplate


@dataclass
class Service:
    client: EngineClient
    health: Health
    metrics: Metrics
    sampling: SamplingResolver
    tokenizer: Tokenizer | None
    texts: TokenTexts
    template: ChatTemplate | None
    formats: OutputFormats
    names: tuple[str, ...]
    """What clients may call the model; the first is its name in answers to requests that name none."""
    root: str
    max_model_len: int
    vocab_size: int
    pooling: PoolingModel
    priorities: bool
    """Whether the scheduler's policy looks at priorities."""
    request_timeout: float
    """Seconds that a request may take."""
    config: ServerConfig
    created: int = field(default_factory=lambda: int(time.time()))

    def model_name(self, asked: str | None) -> str:
        """The name to answer with. Raises ApiError 404."""
        if asked is None:
            return self.names[0]
        if asked not in self.names:
            raise ApiError(404, f"The model `{printable(asked)}` does not exist.", "model")
        return asked

    def check_priority(self, priority: int) -> None:
        if priority and not self.priorities:
            raise ApiError(400, "priority: needs a server with --scheduling-policy priority.", "priority")

    def tokens_as_ids(self, asked: bool | None) -> bool:
        """Whether log-probabilities name tokens as `token_id:N`."""
        return self.config.return_tokens_as_token_ids if asked is None else asked

    def open_stream(self, timeout: float | None) -> Stream:
        """For one request, with the time that it asks for, if that is less. Raises ApiError 400."""
        if timeout is not None and not 0 < timeout < inf:
            raise ApiError(400, "timeout: must be a number of seconds above 0.", "timeout")
        return self.client.open(self.request_timeout if timeout is None else min(timeout, self.request_timeout))

    def need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ApiError(400, "This model has no tokenizer: send token ids to /v1/completions.")
        return self.tokenizer


SERVICE = web.AppKey("service", Service)
