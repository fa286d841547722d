"""Every answer has the fields that were recorded, in their order, and no others: see wire.py."""

import json
from collections.abc import Iterator

import pytest
from compat_servers import CHAT_MODEL, EMBEDDING_MODEL, READY_SECONDS
from wire import CHAT_FLAGS, EMBEDDING_FLAGS, Example, ask_all, examples

from octavo.cli.child import running_server


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
