"""Every error body: `{"error": {"message", "type", "param", "code"}}`, with the HTTP status as `code`.

`ApiError` is raised anywhere below a handler; `middleware.catch_errors` turns it, aiohttp's own errors and surprises
into bodies, in the shape of the route's API.
"""

from enum import Enum

import msgspec
from aiohttp import web

from octavo._core import Failed

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
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    408: "timeout_error",
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


class AnthropicErrorInfo(msgspec.Struct, frozen=True):
    type: str
    message: str


class AnthropicErrorBody(msgspec.Struct, frozen=True):
    error: AnthropicErrorInfo
    type: str = "error"


class ErrorShape(Enum):
    """Whose clients a route's errors are for."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class ApiError(Exception):
    """Ends a request with this status. `message` reaches the client; `param` names the field at fault."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param

    def body(self, shape: ErrorShape = ErrorShape.OPENAI) -> bytes:
        """The JSON error body."""
        if shape is ErrorShape.ANTHROPIC:
            kind = ANTHROPIC_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
            return msgspec.json.encode(AnthropicErrorBody(AnthropicErrorInfo(kind, self.message)))
        kind = TYPES.get(self.status, "APIError")
        return msgspec.json.encode(ErrorBody(ErrorInfo(self.message, kind, self.param, self.status)))

    def response(self, shape: ErrorShape = ErrorShape.OPENAI) -> web.Response:
        headers = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 503:
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        body = self.body(shape)
        return web.Response(status=self.status, body=body, content_type="application/json", headers=headers)


def from_failure(failed: Failed) -> ApiError:
    """The error that a client sees for a request which the engine or its front end refused."""
    message = ENGINE_DIED if failed.reason == "engine_died" else failed.message
    return ApiError(STATUS_OF_FAILURE[failed.reason], message, failed.param)


def printable(text: str, limit: int = 128) -> str:
    """Text from a client, fit for a log line or a message: escaped and cut."""
    shown = text[:limit].encode("unicode_escape").decode("ascii")
    return shown if len(text) <= limit else f"{shown}… ({len(text)} characters)"
