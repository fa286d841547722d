"""What a route is: method, path, handler, who may call it, and what it takes and gives.

The table is in routes.py. The router, authentication, the shape of errors and the OpenAPI document all read it, so a
new route is one entry there. What a request is allowed follows from the route that aiohttp matched, never from the text
of its path or Host, which the client chooses.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.web_urldispatcher import AbstractRoute

from octavo.server.errors import ErrorShape
from octavo.server.fields import FieldTable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

METHODS = ("GET", "POST", "DELETE")
JSON = "application/json"


class Access(Enum):
    """Who may call a route."""

    OPEN = "open"
    """Everybody: what probes call."""
    SCRAPE = "scrape"
    """Everybody, unless --protect-metrics is set; then as KEY."""
    KEY = "key"
    """Who shows an API key, when one is set."""
    ADMIN = "admin"
    """Who shows the admin key. Without one the route does not exist."""


@dataclass(frozen=True)
class Query:
    """A parameter in the URL."""

    name: str
    schema: dict[str, Any]
    """JSON schema of its value."""


@dataclass(frozen=True)
class Route:
    """One method of one path. The first paragraph of the handler's docstring describes it in the document."""

    method: str
    path: str
    """As aiohttp writes it: `{name}` is one segment, `{name:.+}` may have slashes."""
    handler: Handler
    _: KW_ONLY
    access: Access = Access.KEY
    errors: ErrorShape = ErrorShape.OPENAI
    request: type[msgspec.Struct] | None = None
    """The JSON body, with the fields that are enforced. None: no body."""
    fields: FieldTable | None = None
    """What else a body may have."""
    answer: Any = None
    """The type whose JSON a 200 carries: a struct, or a union. None: an empty body, or text by `content_type`."""
    content_type: str | None = None
    """Of the answer, where it is not JSON."""
    events: bool = False
    """Whether the answer may also be server-sent events."""
    query: tuple[Query, ...] = ()


ROUTES_BY_MATCH = web.AppKey("routes_by_match", dict[AbstractRoute, Route])


def add_routes(app: web.Application, routes: Iterable[Route], prefix: str = "") -> None:
    """Gives `app` its router. With a prefix each path answers with and without it, as proxies may cut it off."""
    matches: dict[AbstractRoute, Route] = {}
    app[ROUTES_BY_MATCH] = matches
    for route in routes:
        for path in (route.path, prefix + route.path) if prefix else (route.path,):
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                matches[app.router.add_route(method, path, route.handler)] = route


def route_of(request: web.Request) -> Route | None:
    """The entry of the table that this request matched; None for a path or a method that is not there."""
    return request.app[ROUTES_BY_MATCH].get(request.match_info.route)
