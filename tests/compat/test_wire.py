"""Every answer has the fields that were recorded, in their order, and no others: see wire.py."""

import json
import re
from collections.abc import Iterator

import pytest
from compat_servers import CHAT_MODEL, EMBEDDING_MODEL, READY_SECONDS
from wire import CHAT_FLAGS, EMBEDDING_FLAGS, Example, ask_all, examples

from octavo.cli.child import running_server
from octavo.config import ServerConfig
from octavo.server.routes import routes_for


@pytest.fixture(scope="module")
def answers() -> Iterator[dict[str, Example]]:
    """Name of an example → what the server says now."""
    asked = examples()
    with (
        running_server(CHAT_MODEL, *CHAT_FLAGS, ready_within=READY_SECONDS) as chat,
        running_server(EMBEDDING_MODEL, *EMBEDDING_FLAGS, ready_within=READY_SECONDS) as embedding,
    ):
        got = ask_all({"chat": chat.address, "embedding": embedding.address}, asked)
        yield {example["name"]: answer for example, answer in zip(asked, got, strict=True)}


@pytest.mark.parametrize("example", examples(), ids=lambda example: example["name"])
def test_an_answer_is_as_recorded(example: Example, answers: dict[str, Example]) -> None:
    answer = answers[example["name"]]
    expected = {name: example[name] for name in ("status", "answer", "events") if name in example}
    # As text: the order of fields counts too, and a difference shows at its place.
    assert json.dumps(answer, indent=1) == json.dumps(expected, indent=1)


def test_every_route_is_recorded() -> None:
    recorded = {(example["method"], example["path"]) for example in examples()}
    for route in routes_for(ServerConfig(admin_api_keys=("key",))):
        # What these two say depends on the machine and on every option.
        if route.path not in ("/openapi.json", "/server_info"):
            path = re.compile(re.sub(r"\{[^}]+\}", ".+", route.path))
            assert any(method == route.method and path.fullmatch(asked) for method, asked in recorded), route.path
