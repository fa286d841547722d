"""The administrator's routes: what the server is, its caches, sleep, pause, and the end of single requests.

`/sleep` ends the engine process, so both of vLLM's levels free everything; `/wake_up` loads it again. `/pause` only
stops admission. Meanwhile a new request gets a 503 and does not hang as in vLLM: its client knows whether to wait.
"""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import msgspec
from aiohttp import web

import octavo
from octavo.config import ServerConfig
from octavo.server.body import convert, read_object
from octavo.server.errors import ApiError, printable
from octavo.server.health import EngineState
from octavo.server.route import Access, Query, Route
from octavo.server.service import SERVICE
from octavo.server.supervisor import Ending, Supervisor
from octavo.server.whole import json_answer

SECRETS = frozenset({"hf_token", "api_keys", "admin_api_keys", "ssl_keyfile_password"})

LEVEL = Query("level", {"enum": ["1", "2"], "default": "1", "description": "Both free weights and KV cache."})
MODE = Query(
    "mode", {"enum": list(get_args(Ending)), "default": "abort", "description": "What running requests meet with."}
)
TAGS = Query("tags", {"enum": ["weights", "kv_cache"], "description": "Everything wakes up, whichever is named."})
CLEAR_CACHE = Query("clear_cache", {"enum": ["true", "false"], "default": "true"})
CONFIG_FORMAT = Query("config_format", {"enum": ["text", "json"], "default": "text"})


@dataclass(frozen=True)
class Admin:
    supervisor: Supervisor
    server: ServerConfig


ADMIN = web.AppKey("admin", Admin)


class ServerInfo(msgspec.Struct):
    version: str
    vllm_config: dict[str, Any] | str
    """The engine's options and the memory plan, under the name that vLLM's clients look for."""
    server_config: dict[str, Any] | str
    engine: dict[str, Any]
    """What the engine reported when it was ready."""
    system_env: dict[str, str]


class IsSleeping(msgspec.Struct):
    is_sleeping: bool


class IsPaused(msgspec.Struct):
    is_paused: bool


class Status(msgspec.Struct):
    status: Literal["paused", "resumed"]


class AbortRequests(msgspec.Struct, forbid_unknown_fields=True):
    request_ids: list[str]
    """As answers carry them, or as clients sent them."""


class Aborted(msgspec.Struct):
    num_aborted: int


def asked(request: web.Request, query: Query) -> Sequence[str]:
    """The values of a parameter, its default included. Raises ApiError 400."""
    values = request.query.getall(query.name, [query.schema["default"]] if "default" in query.schema else [])
    for value in values:
        if value not in query.schema["enum"]:
            raise ApiError(
                400,
                f"{query.name}: must be one of {', '.join(query.schema['enum'])}, not {printable(value, 32)!r}.",
                query.name,
            )
    return values


def without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_secrets(each) for name, each in value.items() if name not in SECRETS}
    return value


def as_text(value: dict[str, Any]) -> str:
    return ", ".join(f"{name}={each!r}" for name, each in value.items())


async def get_server_info(request: web.Request) -> web.Response:
    """The options in force, without secrets, and what the engine says of itself."""
    admin = request.app[ADMIN]
    text = asked(request, CONFIG_FORMAT)[-1] == "text"
    start = admin.supervisor.start
    engine = without_secrets(msgspec.to_builtins(start.config)) | {"memory": msgspec.to_builtins(start.memory)}
    server = without_secrets(msgspec.to_builtins(admin.server))
    ready = admin.supervisor.client.frontend.ready
    info = ServerInfo(
        version=octavo.__version__,
        vllm_config=as_text(engine) if text else engine,
        server_config=as_text(server) if text else server,
        engine={} if ready is None else msgspec.json.decode(ready),
        system_env={"python": sys.version.split()[0], "platform": platform.platform(), "machine": platform.machine()},
    )
    return json_answer(info)


async def post_reset_prefix_cache(request: web.Request) -> web.Response:
    """Forgets every cached prefix that no running request uses."""
    supervisor = request.app[ADMIN].supervisor
    if supervisor.health.engine is not EngineState.ASLEEP:
        supervisor.health.check_engine()
        supervisor.client.frontend.reset_prefix_cache()
    return web.Response()


async def post_reset_nothing(_request: web.Request) -> web.Response:
    """Does nothing: octavo keeps no such cache."""
    return web.Response()


async def post_sleep(request: web.Request) -> web.Response:
    """Ends the engine, which frees the weights, the KV cache and the device. /health stays good."""
    level, mode = asked(request, LEVEL)[-1], asked(request, MODE)[-1]
    await request.app[ADMIN].supervisor.sleep(int(level), cast(Ending, mode))
    return web.Response()


async def post_wake_up(request: web.Request) -> web.Response:
    """Loads the model again, and answers when it serves."""
    asked(request, TAGS)
    await request.app[ADMIN].supervisor.wake_up()
    return web.Response()


async def get_is_sleeping(request: web.Request) -> web.Response:
    """Whether the engine is asleep."""
    return json_answer(IsSleeping(request.app[ADMIN].supervisor.health.engine is EngineState.ASLEEP))


async def post_pause(request: web.Request) -> web.Response:
    """Takes no new requests, and answers when none runs any more."""
    supervisor = request.app[ADMIN].supervisor
    mode, clear = asked(request, MODE)[-1], asked(request, CLEAR_CACHE)[-1] == "true"
    supervisor.health.check_engine()
    supervisor.health.paused = True
    await supervisor.quiet(cast(Ending, mode))
    if clear:
        supervisor.client.frontend.reset_prefix_cache()
    return json_answer(Status("paused"))


async def post_resume(request: web.Request) -> web.Response:
    """Takes requests again."""
    request.app[ADMIN].supervisor.health.paused = False
    return json_answer(Status("resumed"))


async def get_is_paused(request: web.Request) -> web.Response:
    """Whether the server is paused."""
    return json_answer(IsPaused(request.app[ADMIN].supervisor.health.paused))


async def post_abort_requests(request: web.Request) -> web.Response:
    """Ends requests by their ids; their answers end with finish_reason abort."""
    ids = set(convert(await read_object(request), AbortRequests).request_ids)
    client = request.app[SERVICE].client
    num_aborted = 0
    for number, stream in list(client.streams.items()):
        if stream.name in ids or stream.name.partition("-")[2] in ids:
            client.frontend.abort(number)
            num_aborted += 1
    return json_answer(Aborted(num_aborted))


ADMIN_ROUTES = tuple(
    replace(route, access=Access.ADMIN)
    for route in (
        Route("GET", "/server_info", get_server_info, answer=ServerInfo, query=(CONFIG_FORMAT,)),
        Route("POST", "/reset_prefix_cache", post_reset_prefix_cache),
        Route("POST", "/reset_mm_cache", post_reset_nothing),
        Route("POST", "/reset_encoder_cache", post_reset_nothing),
        Route("POST", "/sleep", post_sleep, query=(LEVEL, MODE)),
        Route("POST", "/wake_up", post_wake_up, query=(TAGS,)),
        Route("GET", "/is_sleeping", get_is_sleeping, answer=IsSleeping),
        Route("POST", "/pause", post_pause, answer=Status, query=(MODE, CLEAR_CACHE)),
        Route("POST", "/resume", post_resume, answer=Status),
        Route("GET", "/is_paused", get_is_paused, answer=IsPaused),
        Route("POST", "/abort_requests", post_abort_requests, request=AbortRequests, answer=Aborted),
    )
)
