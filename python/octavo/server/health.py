"""Whether this server answers, and why not: /health and /ping say it, and new requests ask before they start.

Health means progress: an engine that reports nothing for `stall_timeout` seconds is not healthy, and the supervisor
replaces it. One that was put to sleep, or paused, is healthy, as in vLLM: to restart it would undo what an
administrator did.
"""

from enum import Enum

from aiohttp import web

from octavo.server.engine_client import EngineClient
from octavo.server.errors import ApiError

IDLE_SECONDS = 3.0
"""An engine with nothing to do reports once a second."""


class EngineState(Enum):
    STARTING = "The engine is starting."
    SERVING = ""
    ASLEEP = "The engine is asleep; POST /wake_up wakes it."
    RESTARTING = "The engine has died; it is being started again."
    FAILED = "The engine has died too often; the server is ending."


class Health:
    def __init__(self, client: EngineClient, stall_timeout: float) -> None:
        self.client = client
        self.stall_timeout = stall_timeout
        self.engine = EngineState.STARTING
        self.draining = False
        self.paused = False

    def refusal(self) -> str:
        """Why a new request is not taken; empty when it is."""
        if self.paused:
            return "The server is paused; POST /resume lets it go on."
        return self.engine_refusal()

    def engine_refusal(self) -> str:
        """Why there is no engine to ask anything of; empty when there is."""
        if self.draining:
            return "The server is shutting down."
        if self.engine is EngineState.SERVING and not self.client.frontend.connected:
            return EngineState.RESTARTING.value  # it has died this moment; the supervisor does not know yet
        return self.engine.value

    def check_serving(self) -> None:
        """Raises ApiError 503 when a new request is not taken."""
        if message := self.refusal():
            raise ApiError(503, message)

    def check_engine(self) -> None:
        """Raises ApiError 503 when there is no engine to ask anything of."""
        if message := self.engine_refusal():
            raise ApiError(503, message)

    def problem(self) -> str:
        """Why this server is not healthy; empty when it is."""
        if self.engine is EngineState.ASLEEP and not self.draining:
            return ""
        if message := self.engine_refusal():
            return message
        if silent := self.stalled():
            return f"The engine has not reported for {silent:.0f} seconds."
        return ""

    def stalled(self) -> float:
        """For how many seconds the engine has reported nothing; 0 while that is not too long, and without an engine."""
        works = self.client.num_open > 0
        if not works and self.engine is not EngineState.SERVING:
            return 0.0
        silent = self.client.seconds_without_report()
        return silent if silent > max(self.stall_timeout, 0.0 if works else IDLE_SECONDS) else 0.0


HEALTH = web.AppKey("health", Health)


async def get_health(request: web.Request) -> web.Response:
    """Whether the server is healthy: 200 with an empty body, or 503 with the reason."""
    if message := request.app[HEALTH].problem():
        raise ApiError(503, message)
    return web.Response()
