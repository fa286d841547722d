"""The table of every route, and the application that serves it. What an entry says: route.py."""

from typing import Any

from aiohttp import web

import octavo
from octavo.config import ServerConfig
from octavo.server import fields, request_id
from octavo.server.admin import ADMIN, ADMIN_ROUTES, Admin
from octavo.server.anthropic.routes import MESSAGES_ROUTES
from octavo.server.auth import require_key
from octavo.server.chat import post_chat_completion
from octavo.server.chat_batch import CHAT_BATCH_ROUTES
from octavo.server.completions import post_completion
from octavo.server.connections import CONNECTIONS, Connections
from octavo.server.cors import Cors
from octavo.server.documents import DOCUMENTS, Documents, get_docs, get_openapi
from octavo.server.health import HEALTH, get_health
from octavo.server.metrics import METRICS, get_metrics
from octavo.server.middleware import catch_errors, observe
from octavo.server.models import list_models, retrieve_model
from octavo.server.pooling.routes import POOLING_ROUTES
from octavo.server.protocol import (
    ChatRequest,
    ChatResponse,
    CompletionRequest,
    CompletionResponse,
    DetokenizeRequest,
    DetokenizeResponse,
    Load,
    ModelCard,
    ModelList,
    TokenizeRequest,
    TokenizeResponse,
    Version,
)
from octavo.server.responses.routes import RESPONSES_ROUTES
from octavo.server.responses.store import STORE, Store
from octavo.server.route import Access, Route, add_routes
from octavo.server.service import SERVICE, Service
from octavo.server.supervisor import Supervisor
from octavo.server.tokenize import post_detokenize, post_tokenize
from octavo.server.whole import json_answer


async def get_version(_request: web.Request) -> web.Response:
    """The version of octavo."""
    return json_answer(Version(octavo.__version__))


async def get_load(request: web.Request) -> web.Response:
    """How many requests are in progress."""
    return json_answer(Load(request.app[CONNECTIONS].num_working))


ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", get_health, access=Access.OPEN),
    Route("GET", "/ping", get_health, access=Access.OPEN),
    Route("POST", "/ping", get_health, access=Access.OPEN),
    Route("GET", "/metrics", get_metrics, access=Access.SCRAPE, content_type="text/plain"),
    Route("GET", "/load", get_load, answer=Load),
    Route("GET", "/version", get_version, answer=Version),
    Route("GET", "/v1/models", list_models, answer=ModelList),
    Route("GET", "/v1/models/{name:.+}", retrieve_model, answer=ModelCard),
    Route(
        "POST",
        "/v1/chat/completions",
        post_chat_completion,
        request=ChatRequest,
        fields=fields.CHAT,
        answer=ChatResponse,
        events=True,
    ),
    Route(
        "POST",
        "/v1/completions",
        post_completion,
        request=CompletionRequest,
        fields=fields.COMPLETION,
        answer=CompletionResponse,
        events=True,
    ),
    Route(
        "POST",
        "/tokenize",
        post_tokenize,
        request=TokenizeRequest,
        fields=fields.TOKENIZE,
        answer=TokenizeResponse,
    ),
    Route(
        "POST",
        "/detokenize",
        post_detokenize,
        request=DetokenizeRequest,
        fields=fields.DETOKENIZE,
        answer=DetokenizeResponse,
    ),
    *CHAT_BATCH_ROUTES,
    *RESPONSES_ROUTES,
    *MESSAGES_ROUTES,
    *POOLING_ROUTES,
)
DOCUMENT_ROUTES: tuple[Route, ...] = (
    Route("GET", "/openapi.json", get_openapi, answer=dict[str, Any]),
    Route("GET", "/docs", get_docs, content_type="text/html"),
)


def routes_for(config: ServerConfig) -> list[Route]:
    """The routes that exist on a server with these options."""
    routes = [*ROUTES, *ADMIN_ROUTES, *(() if config.disable_fastapi_docs else DOCUMENT_ROUTES)]
    return [route for route in routes if route.access is not Access.ADMIN or config.admin_api_keys]


def build_app(service: Service, config: ServerConfig, supervisor: Supervisor) -> web.Application:
    """Call it on the running event loop."""
    cors = Cors(config) if config.allowed_origins else None
    app = web.Application(
        middlewares=[observe, *([cors.middleware()] if cors else []), catch_errors, require_key(config)],
        client_max_size=config.max_body_bytes,
    )
    if cors is not None:
        app.on_response_prepare.append(cors.add_headers)
    if config.enable_request_id_headers:
        app.on_response_prepare.append(request_id.add_header)
    app[SERVICE] = service
    app[HEALTH] = service.health
    app[METRICS] = service.metrics
    app[ADMIN] = Admin(supervisor, config)
    app[STORE] = Store(config.responses_store_bytes if config.enable_responses_store else 0)
    app[CONNECTIONS] = Connections(config.receive_timeout)
    routes = routes_for(config)
    app[DOCUMENTS] = Documents(routes, config)
    add_routes(app, routes, config.root_path)
    return app
