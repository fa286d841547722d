"""What a page from another origin may do here: nothing, unless --allowed-origins names that origin.

The browser asks first (a preflight, which carries no key and is answered before authentication), and reads from the
headers of each answer whether the page may see it. https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from aiohttp import web
from aiohttp.typedefs import Middleware

from octavo.config import ServerConfig
from octavo.server.route import Handler

MAX_AGE = "600"
METHODS = "DELETE, GET, HEAD, OPTIONS, POST"


class Cors:
    """The answers to browsers, by the options of one server."""

    def __init__(self, config: ServerConfig) -> None:
        self.origins = frozenset(config.allowed_origins)
        self.methods = frozenset(config.allowed_methods)
        self.headers = frozenset(name.lower() for name in config.allowed_headers)
        self.credentials = config.allow_credentials

    def origin_headers(self, origin: str) -> dict[str, str]:
        """For an answer to a page of this origin; empty when it must not see the answer."""
        if "*" in self.origins and not self.credentials:
            return {"Access-Control-Allow-Origin": "*"}
        if "*" not in self.origins and origin not in self.origins:
            return {}
        headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if self.credentials:
            headers["Access-Control-Allow-Credentials"] = "true"
        return headers

    def preflight(self, request: web.Request) -> web.Response:
        """May a page send this method with these headers?"""
        headers = self.origin_headers(request.headers["Origin"])
        if not headers:
            return web.Response(status=400, text="Disallowed CORS origin")
        method = request.headers["Access-Control-Request-Method"]
        asked = request.headers.get("Access-Control-Request-Headers", "")
        names = {name.strip().lower() for name in asked.split(",") if name.strip()}
        if "*" not in self.methods and method not in self.methods:
            return web.Response(status=400, text="Disallowed CORS method", headers=headers)
        if "*" not in self.headers and not names <= self.headers:
            return web.Response(status=400, text="Disallowed CORS headers", headers=headers)
        headers["Access-Control-Allow-Methods"] = METHODS if "*" in self.methods else ", ".join(sorted(self.methods))
        if names:
            headers["Access-Control-Allow-Headers"] = ", ".join(sorted(names))
        headers["Access-Control-Max-Age"] = MAX_AGE
        return web.Response(headers=headers)

    def middleware(self) -> Middleware:
        """Stands before authentication."""

        @web.middleware
        async def answer_preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
            asks = "Origin" in request.headers and "Access-Control-Request-Method" in request.headers
            return self.preflight(request) if asks and request.method == "OPTIONS" else await handler(request)

        return answer_preflights

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """A signal handler: streams have sent their headers before a middleware sees them again."""
        origin = request.headers.get("Origin")
        if origin is not None and "Access-Control-Allow-Origin" not in response.headers:
            response.headers.update(self.origin_headers(origin))
