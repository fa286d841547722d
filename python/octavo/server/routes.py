"""The application: every route, and what each request passes on its way in and out."""

import asyncio
import time

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

import octavo
from octavo.config import ServerConfig
from octavo.server.auth import require_key
from octavo.server.chat import post_chat_completion
from octavo.server.completions import post_completion
from octavo.server.errors import Handler, catch_errors
from octavo.server.health import HEALTH, get_health
from octavo.server.metrics import METRICS, get_metrics
from octavo.server.models import list_models, retrieve_model
from octavo.server.service import SERVICE, Service
from octavo.server.tokenize import post_detokenize, post_tokenize

HEADER_SECONDS = 30.0
"""A connection that has sent no whole request head in this time is closed."""


class Connections:
    """What is open: requests in progress, and connections that have sent no request yet."""

    def __init__(self) -> None:
        self.num_active = 0
        self.idle = asyncio.Event()
        """No request is in progress."""
        self.idle.set()
        self._silent: dict[RequestHandler, asyncio.TimerHandle] = {}

    def opened(self, protocol: RequestHandler) -> RequestHandler:
        loop = asyncio.get_running_loop()
        self._silent[protocol] = loop.call_later(HEADER_SECONDS, self._give_up, protocol)
        return protocol

    def _give_up(self, protocol: RequestHandler) -> None:
        if self._silent.pop(protocol, None) is not None:
            protocol.force_close()

    def begin(self, request: web.Request) -> None:
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        self.num_active += 1
        self.idle.clear()

    def end(self) -> None:
        self.num_active -= 1
        if not self.num_active:
            self.idle.set()


CONNECTIONS = web.AppKey("connections", Connections)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: counts, times, and knows what is in progress."""
    connections, metrics = request.app[CONNECTIONS], request.app[METRICS]
    resource = request.match_info.route.resource
    name = "none" if resource is None else resource.canonical
    connections.begin(request)
    began = time.perf_counter()
    status = 499  # the client has gone
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        connections.end()
        metrics.saw_http(name, request.method, status, time.perf_counter() - began)


async def get_version(_request: web.Request) -> web.Response:
    """GET /version."""
    return web.json_response({"version": octavo.__version__})


def build_app(service: Service, config: ServerConfig) -> web.Application:
    """Call it on the running event loop."""
    app = web.Application(
        middlewares=[observe, catch_errors, require_key(config.api_keys)], client_max_size=config.max_body_bytes
    )
    app[SERVICE] = service
    app[HEALTH] = service.health
    app[METRICS] = service.metrics
    app[CONNECTIONS] = Connections()
    app.router.add_get("/health", get_health)
    app.router.add_get("/ping", get_health)
    app.router.add_post("/ping", get_health)
    app.router.add_get("/version", get_version)
    app.router.add_get("/metrics", get_metrics)
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/v1/models/{name:.+}", retrieve_model)
    app.router.add_post("/v1/chat/completions", post_chat_completion)
    app.router.add_post("/v1/completions", post_completion)
    app.router.add_post("/tokenize", post_tokenize)
    app.router.add_post("/detokenize", post_detokenize)
    return app
