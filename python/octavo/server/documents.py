"""GET /openapi.json and /docs: what this server can do, made from the table of routes and the types of protocol.py."""

import html
import inspect
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec
from aiohttp import web

import octavo
from octavo.config import ServerConfig
from octavo.server.errors import AnthropicErrorBody, ErrorBody, ErrorShape
from octavo.server.route import JSON, Access, Route

Schema = dict[str, Any]

ERRORS: dict[ErrorShape, type[msgspec.Struct]] = {
    ErrorShape.OPENAI: ErrorBody,
    ErrorShape.ANTHROPIC: AnthropicErrorBody,
}
SECURITY: Schema = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key of this server."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
    "admin": {"type": "http", "scheme": "bearer", "description": "The admin key."},
    "x-admin-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The admin key."},
}
PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")
STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#222}
summary{cursor:pointer;padding:.3em}code,pre{font:13px/1.4 ui-monospace,monospace}b{display:inline-block;width:5em}
details{border:1px solid #ccc;border-radius:4px;margin:.5em 0;padding:.2em .6em}table{border-collapse:collapse}
td,th{text-align:left;vertical-align:top;padding:.15em 1em .15em 0}"""


class Documents:
    """The document and the page of one server; each is made when it is first asked for."""

    def __init__(self, routes: Sequence[Route], config: ServerConfig) -> None:
        self.routes = routes
        self.config = config

    @cached_property
    def openapi(self) -> bytes:
        return msgspec.json.encode(self.document)

    @cached_property
    def page(self) -> str:
        return page(self.document)

    @cached_property
    def document(self) -> Schema:
        """OpenAPI 3.1."""
        types: list[Any] = [ErrorBody]
        for route in self.routes:
            types += [each for each in (route.request, route.answer, ERRORS[route.errors]) if each is not None]
        schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        # By identity: a union, or a list of structs, need not be hashable.
        schema_of = {id(each): schema for each, schema in zip(types, schemas, strict=True)}
        paths: dict[str, Schema] = {}
        for route in self.routes:
            if route.request is not None and route.fields is not None:
                name = schema_of[id(route.request)]["$ref"].rpartition("/")[2]
                components[name] = with_all_fields(components[name], route)
            methods = paths.setdefault(PARAMETER.sub(r"{\1}", route.path), {})
            methods[route.method.lower()] = self.operation(route, schema_of)
        return {
            "openapi": "3.1.0",
            "info": {"title": "octavo", "version": octavo.__version__},
            "servers": [{"url": self.config.root_path or "/"}],
            "paths": paths,
            "components": {"schemas": components, "securitySchemes": SECURITY},
        }

    def operation(self, route: Route, schema_of: dict[int, Schema]) -> Schema:
        content: Schema = {}
        if route.answer is not None:
            content[JSON] = {"schema": schema_of[id(route.answer)]}
        if route.content_type is not None:
            content[route.content_type] = {"schema": {"type": "string"}}
        if route.events:
            content["text/event-stream"] = {"schema": {"type": "string"}}
        error = {"content": {JSON: {"schema": schema_of[id(ERRORS[route.errors])]}}}
        method = "" if route.method != "GET" else "get "
        operation: Schema = {
            "operationId": f"{method}{route.path}".strip("/").replace("/", "_"),
            "description": " ".join((inspect.getdoc(route.handler) or "").partition("\n\n")[0].split()),
            "parameters": [
                *(
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                    for name in PARAMETER.findall(route.path)
                ),
                *({"name": query.name, "in": "query", "schema": query.schema} for query in route.query),
            ],
            "responses": {
                "200": {"description": "The answer.", **({"content": content} if content else {})},
                "4XX": {"description": "The request is at fault; the message says why.", **error},
                "5XX": {"description": "The server is at fault, or busy.", **error},
            },
            "security": self.security(route),
        }
        if route.request is not None:
            body = {"schema": schema_of[id(route.request)]}
            operation["requestBody"] = {"required": True, "content": {JSON: body}}
        return operation

    def security(self, route: Route) -> list[Schema]:
        if route.access is Access.ADMIN:
            return [{"admin": []}, {"x-admin-key": []}]
        protected = route.access is Access.KEY or (route.access is Access.SCRAPE and self.config.protect_metrics)
        return [{"bearer": []}, {"x-api-key": []}] if protected and self.config.api_keys else []


def with_all_fields(schema: Schema, route: Route) -> Schema:
    """A request's schema, with what its route accepts beside the enforced fields: null, and fields without effect."""
    table = route.fields
    assert table is not None  # noqa: S101  the caller asked
    required = schema.get("required", [])
    properties = {name: value if name in required else nullable(value) for name, value in schema["properties"].items()}
    for name in sorted(table.inert):
        properties[name] = {"description": "Accepted; it cannot change the answer."}
    properties["extra_body"] = {"type": ["object", "null"], "description": "Further fields of this object."}
    return {**schema, "properties": properties, "additionalProperties": False}


def nullable(schema: Schema) -> Schema:
    """A null in a request is as if the field were not there."""
    if not schema or {"type": "null"} in schema.get("anyOf", ()):
        return schema
    inner = {name: value for name, value in schema.items() if name != "default"}
    outer = {"default": schema["default"]} if "default" in schema else {}
    return {"anyOf": [inner, {"type": "null"}], **outer}


def page(document: Schema) -> str:
    """The document for people: one page without scripts, fonts or images from elsewhere."""
    schemas = document["components"]["schemas"]
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<details><summary><b>{method.upper()}</b><code>{html.escape(path)}</code> "
                f"{html.escape(operation['description'])}</summary>"
            )
            body = operation.get("requestBody", {}).get("content", {}).get(JSON)
            if body is not None:
                parts.append(f"<p>It takes {type_link(body['schema'], schemas)}.</p>")
            for query in operation["parameters"]:
                parts.append(f"<p>Parameter <code>{query['name']}</code>: {type_link(query['schema'], schemas)}</p>")
            for kind, content in operation["responses"]["200"].get("content", {}).items():
                parts.append(f"<p>It answers with {kind}: {type_link(content['schema'], schemas)}.</p>")
            parts.append("</details>")
    parts.append("<h2>Types</h2>")
    parts += [struct_table(name, schemas) for name in schemas]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>octavo</title><style>{STYLE}</style>'
        f"<h1>octavo {html.escape(document['info']['version'])}</h1>"
        f'<p>The same as JSON: <a href="openapi.json">openapi.json</a></p>{"".join(parts)}</html>'
    )


def struct_table(name: str, schemas: Schema) -> str:
    """The fields of a struct, a line each."""
    struct = schemas[name]
    required = struct.get("required", [])
    rows = [
        f"<tr><td><code>{html.escape(field)}</code><td>{type_link(value, schemas)}"
        f"<td>{'required' if field in required else html.escape(remark_on(value))}</tr>"
        for field, value in struct.get("properties", {}).items()
    ]
    return f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3><table>{"".join(rows)}</table>'


def remark_on(schema: Schema) -> str:
    if schema.get("default") is not None:
        return f"default {msgspec.json.encode(schema['default']).decode()}"
    return str(schema.get("description", ""))


def type_link(schema: Schema, schemas: Schema) -> str:
    """A type's name, with links to the structs in it."""

    def linked(word: re.Match[str]) -> str:
        return f'<a href="#{word[0]}">{word[0]}</a>' if word[0] in schemas else word[0]

    return re.sub(r"[A-Za-z_]\w*", linked, html.escape(type_name(schema)))


def type_name(schema: Schema) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_name(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(msgspec.json.encode(each).decode() for each in schema["enum"])
    if "const" in schema:
        return msgspec.json.encode(schema["const"]).decode()
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {type_name(schema.get('items') or {})}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


DOCUMENTS = web.AppKey("documents", Documents)


async def get_openapi(request: web.Request) -> web.Response:
    """This description, as an OpenAPI document."""
    return web.Response(body=request.app[DOCUMENTS].openapi, content_type=JSON)


async def get_docs(request: web.Request) -> web.Response:
    """This description, as a page."""
    return web.Response(
        text=request.app[DOCUMENTS].page,
        content_type="text/html",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )
