"""What an answer is called: the client's own id when it sent one. Two requests may have the same.

With --enable-request-id-headers every answer says it in X-Request-Id, also one that needs no id in its body.
"""

from uuid import uuid4

from aiohttp import web

from octavo.server.errors import ApiError

MAX_CHARACTERS = 256
REQUEST_ID = web.RequestKey("request_id", str)


def request_id(request: web.Request, in_body: str | None) -> str:
    """From the X-Request-Id header, the body, or made up. Raises ApiError 400 for a header that is too long."""
    header = request.headers.get("X-Request-Id")
    if header and len(header) > MAX_CHARACTERS:
        raise ApiError(400, f"X-Request-Id: at most {MAX_CHARACTERS} characters.", "request_id")
    request[REQUEST_ID] = header or in_body or uuid4().hex
    # A header may carry bytes that are no UTF-8; JSON cannot.
    return request[REQUEST_ID].encode("utf-8", "replace").decode()


async def add_header(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler."""
    name = request.get(REQUEST_ID) or request.headers.get("X-Request-Id") or uuid4().hex
    # An id from a body may hold what a header must not.
    fits = len(name) <= MAX_CHARACTERS and name.isascii() and name.isprintable()
    response.headers["X-Request-Id"] = name if fits else uuid4().hex
