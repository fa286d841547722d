"""/openapi.json describes every route by its types; /docs shows the same to people."""

import json
from typing import Any

import pytest
from server_process import Client

from octavo.server.admin import ADMIN_ROUTES
from octavo.server.routes import DOCUMENT_ROUTES, ROUTES


@pytest.fixture
async def document(client: Client) -> Any:
    status, document = await client.get("/openapi.json")
    assert status == 200
    return document


def test_every_route_has_a_description() -> None:
    for route in (*ROUTES, *ADMIN_ROUTES, *DOCUMENT_ROUTES):
        assert (route.handler.__doc__ or "").strip(), route
    paths = [(route.method, route.path) for route in (*ROUTES, *ADMIN_ROUTES, *DOCUMENT_ROUTES)]
    assert len(set(paths)) == len(paths)


async def test_every_route_is_there(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    names = []
    for route in (*ROUTES, *DOCUMENT_ROUTES):
        path = route.path.replace(":.+", "")
        operation = document["paths"][path][route.method.lower()]
        names.append(operation["operationId"])
        assert operation["description"]
        assert ("requestBody" in operation) == (route.request is not None)
        assert set(operation["responses"]) == {"200", "4XX", "5XX"}
    assert len(set(names)) == len(names)


async def test_every_reference_has_its_schema(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for part in text.split('"$ref": "#/components/schemas/')[1:]:
        assert part.partition('"')[0] in schemas


async def test_fields_are_told_with_their_limits_and_defaults(document: dict[str, Any]) -> None:
    completion = document["components"]["schemas"]["CompletionRequest"]
    assert completion["required"] == ["prompt"]
    assert completion["additionalProperties"] is False
    fields = completion["properties"]
    assert {"temperature", "n", "metadata", "extra_body"} <= set(fields)
    assert fields["echo"] == {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": False}


async def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    async with client.session.get("/docs") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        text = await response.text()
    assert "/v1/chat/completions" in text
    assert "repetition_penalty" in text
    for outside in ("http:", "https:", "<script", "<img", "<link", "@import"):
        assert outside not in text
