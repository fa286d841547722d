"""Every error body: `{"error": {"message", "type", "param", "code"}}`, with the HTTP status as `code`.

`ApiError` is raised anywhere below a handler; `catch_errors` turns it, aiohttp's own errors and surprises into bodies.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from octavo._core import Failed

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
RETRY_AFTER_SECONDS = 1
"""What a 503 tells the client: the queue and a restarting engine both move within seconds."""

ENGINE_DIED = "The engine has died and is being started again. Please send this request again."
STATUS_OF_FAILURE = {"invalid": 400, "queue_full": 503, "draining": 503, "internal": 500, "engine_died": 503}


class ErrorInfo(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: int


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorInfo


class ApiError(Exception):
    """Ends a request with this status. `message` reaches the client; `param` names the field at fault."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param

    def body(self) -> bytes:
        """The JSON error body."""
        kind = TYPES.get(self.status, "APIError")
        return msgspec.json.encode(ErrorBody(ErrorInfo(self.message, kind, self.param, self.status)))

    def response(self) -> web.Response:
        headers = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 503:
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return web.Response(status=self.status, body=self.body(), content_type="application/json", headers=headers)


def from_failure(failed: Failed) -> ApiError:
    """The error that a client sees for a request which the engine or its front end refused."""
    message = ENGINE_DIED if failed.reason == "engine_died" else failed.message
    return ApiError(STATUS_OF_FAILURE[failed.reason], message, failed.param)


def printable(text: str, limit: int = 128) -> str:
    """Text from a client, fit for a log line or a message: escaped and cut."""
    shown = text[:limit].encode("unicode_escape").decode("ascii")
    return shown if len(text) <= limit else f"{shown}… ({len(text)} characters)"


class OnlyOurErrors(logging.Filter):
    """For aiohttp's log: a client that does not speak HTTP gets a 400, and no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


@web.middleware
async def catch_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost of our own: nothing leaves without an error body."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPException as error:
        return of_aiohttp(request, error)
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except Exception:
        logger.exception("%s %s failed", request.method, printable(request.path))
        return ApiError(500, "The server failed to answer this request; its log says why.").response()


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
