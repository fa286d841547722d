"""API keys: with one set, every route asks for it, but those that probes and scrapers call.

Who may call what stands in the table of routes (route.py). A request that matches no entry needs a key too, so that
nothing is open by mistake and a stranger cannot learn which routes there are.
"""

import hashlib
import hmac
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from octavo.config import ServerConfig
from octavo.server.errors import ApiError
from octavo.server.route import Access, Handler, route_of


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Keys:
    """Keys of which any one opens."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def shown_by(self, request: web.Request) -> bool:
        """Whether `Authorization: Bearer KEY` or `x-api-key: KEY` has one of them."""
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        presented = [bearer.strip()] if scheme.lower() == "bearer" else []
        presented += request.headers.getall("x-api-key", [])[:1]
        # Every key is compared, and as a digest: the time tells neither which one matched nor its length.
        matches = [hmac.compare_digest(digest(key), expected) for key in presented for expected in self._digests]
        return any(matches)


def require_key(config: ServerConfig) -> Middleware:
    """A middleware that lets a request pass when its route is open to it. Raises ApiError 401."""
    keys, admin_keys = Keys(config.api_keys), Keys(config.admin_api_keys)

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        route = route_of(request)
        access = Access.KEY if route is None else route.access
        if access is Access.ADMIN:
            if not admin_keys.shown_by(request):
                raise ApiError(401, "This route needs the admin key: send the header 'Authorization: Bearer KEY'.")
        elif access is Access.OPEN or (access is Access.SCRAPE and not config.protect_metrics):
            pass
        elif keys and not (keys.shown_by(request) or admin_keys.shown_by(request)):
            raise ApiError(401, "This server needs an API key: send the header 'Authorization: Bearer KEY'.")
        return await handler(request)

    return authenticate
