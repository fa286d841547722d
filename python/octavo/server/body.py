"""A request's body: bounded, JSON whatever its Content-Type says, with `extra_body` merged in."""

import asyncio
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from octavo.server.connections import CONNECTIONS
from octavo.server.errors import ApiError, printable

LARGE_BODY = 64 << 10
"""Bytes from which a body is parsed beside the event loop: JSON runs at about 500 MB/s, so this is some 0.1 ms."""

T = TypeVar("T")


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError 400, 408 or 413."""
    if (request.content_length or 0) > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
    timeout = request.app[CONNECTIONS].receive_timeout
    try:
        async with asyncio.timeout(timeout):
            data = await request.read()
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {timeout:.0f} seconds.") from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise ApiError(400, f"The body could not be read: {printable(str(error))}") from None
    if len(data) >= LARGE_BODY:
        return await asyncio.to_thread(parse_object, data)
    return parse_object(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """Raises ApiError 400 for anything but a JSON object that can be represented: no NaN, no lone surrogates."""
    try:
        body = msgspec.json.decode(data)
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.")
    if "extra_body" in body:
        extra = body.pop("extra_body")
        if extra is not None and not isinstance(extra, dict):
            raise ApiError(400, "extra_body: must be an object.", "extra_body")
        for name, value in (extra or {}).items():
            if name in body and body[name] != value:
                raise ApiError(400, f"{printable(name)}: given twice, in the body and in extra_body.", printable(name))
            body[name] = value
    return body


def convert(body: dict[str, Any], type: type[T]) -> T:
    """`body` as a request of this type, by strict rules: no number for a string, no boolean for a number.

    Raises ApiError 400 that names the field.
    """
    try:
        return msgspec.convert(body, type, strict=True)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        path = path.removesuffix("`").removeprefix(".")
        if not path:
            missing = reason.partition("required field `")[2].removesuffix("`")
            raise ApiError(400, reason, missing or None) from None
        raise ApiError(400, f"{path}: {reason}", path.partition(".")[0].partition("[")[0]) from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.") from None
