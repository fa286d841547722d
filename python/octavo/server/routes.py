"""The application: every route, and what each request passes on its way in and out."""

import time

from aiohttp import web

import octavo
from octavo.config import ServerConfig
from octavo.server.auth import require_key
from octavo.server.chat import post_chat_completion
from octavo.server.completions import post_completion
from octavo.server.connections import CONNECTIONS, Connections
from octavo.server.errors import Handler, catch_errors
from octavo.server.health import HEALTH, get_health
from octavo.server.metrics import METRICS, get_metrics
from octavo.server.models import list_models, retrieve_model
from octavo.server.service import SERVICE, Service
from octavo.server.tokenize import post_detokenize, post_tokenize


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
    app[CONNECTIONS] = Connections(config.receive_timeout)
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
