"""API keys: every route asks for one when one is set, but those that probes and scrapers call."""

import hashlib
import hmac
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from octavo.server.errors import ApiError, Handler

OPEN_PATHS = frozenset({"/health", "/ping", "/metrics"})


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def require_key(keys: Sequence[str]) -> Middleware:
    """A middleware that lets `Authorization: Bearer KEY` pass for any of `keys`; without keys, everything."""
    digests = [digest(key) for key in keys]

    def known(header: str) -> bool:
        scheme, _, key = header.partition(" ")
        presented = digest(key.strip())
        # Every key is compared, and as a digest: the time tells neither which one matched nor its length.
        matches = [hmac.compare_digest(presented, expected) for expected in digests]
        return scheme.lower() == "bearer" and any(matches)

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if digests and request.path not in OPEN_PATHS and not known(request.headers.get("Authorization", "")):
            raise ApiError(401, "This server needs an API key: send the header 'Authorization: Bearer KEY'.")
        return await handler(request)

    return authenticate
