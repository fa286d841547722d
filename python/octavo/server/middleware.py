"""What each request passes on its way in and out, from the outside: observe → catch_errors → require_key (auth.py)."""

import asyncio
import logging
import time

from aiohttp import web

from octavo.server.connections import CONNECTIONS
from octavo.server.errors import ApiError, ErrorShape, printable
from octavo.server.metrics import METRICS
from octavo.server.route import Handler, route_of

logger = logging.getLogger(__name__)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Counts, times, and knows what is in progress."""
    connections, metrics = request.app[CONNECTIONS], request.app[METRICS]
    route = route_of(request)
    name = "none" if route is None else route.path
    works = route is not None and route.request is not None
    connections.begin(request, works)
    began = time.perf_counter()
    status = 499  # the client has gone
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        connections.end(works)
        metrics.saw_http(name, request.method, status, time.perf_counter() - began)


@web.middleware
async def catch_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Nothing leaves without an error body."""
    route = route_of(request)
    shape = ErrorShape.OPENAI if route is None else route.errors
    try:
        return await handler(request)
    except ApiError as error:
        return error.response(shape)
    except web.HTTPException as error:
        return of_aiohttp(request, error)
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except RecursionError:
        # Nothing here recurses but over what a client has nested.
        return ApiError(400, "The body is nested too deeply.").response(shape)
    except Exception:
        logger.exception("%s %s failed", request.method, printable(request.path))
        return ApiError(500, "The server failed to answer this request; its log says why.").response(shape)


def of_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    """Our body for an error that aiohttp raised, with the headers it asks for."""
    method, path = request.method, printable(request.path)
    match error:
        case web.HTTPNotFound():
            message = f"There is no route {method} {path}."
        case web.HTTPMethodNotAllowed():
            message = f"{path} does not take {method}; it takes {', '.join(sorted(error.allowed_methods))}."
        case web.HTTPRequestEntityTooLarge():
            message = "The request body is too large."
        case _:
            message = error.text or error.reason
    response = ApiError(error.status, message).response()
    if allow := error.headers.get("Allow"):
        response.headers["Allow"] = allow
    return response
