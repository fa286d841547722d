"""What an answer is called: the client's own id when it sent one. Two requests may have the same."""

from uuid import uuid4

from aiohttp import web

from octavo.server.errors import ApiError

MAX_CHARACTERS = 256


def request_id(request: web.Request, in_body: str | None) -> str:
    """From the X-Request-Id header, the body, or made up. Raises ApiError 400 for a header that is too long."""
    header = request.headers.get("X-Request-Id")
    if header and len(header) > MAX_CHARACTERS:
        raise ApiError(400, f"X-Request-Id: at most {MAX_CHARACTERS} characters.", "request_id")
    # A header may carry bytes that are no UTF-8; JSON cannot.
    return (header or in_body or uuid4().hex).encode("utf-8", "replace").decode()
