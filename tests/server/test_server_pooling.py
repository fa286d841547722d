"""The routes of models that pool: what they say where a model generates."""

from typing import Any

import pytest
from server_process import Client


@pytest.mark.parametrize(
    ("path", "body", "flag"),
    [
        ("/v1/embeddings", {"input": "cat"}, "--convert embed"),
        ("/v2/embed", {"texts": ["cat"]}, "--convert embed"),
        ("/pooling", {"input": "cat"}, "--runner pooling"),
        ("/classify", {"input": "cat"}, "classifier"),
        ("/score", {"text_1": "a", "text_2": "b"}, "--convert"),
        ("/rerank", {"query": "a", "documents": ["b"]}, "--convert"),
    ],
)
async def test_a_model_that_generates_says_what_it_takes(client: Client, path: str, body: Any, flag: str) -> None:
    status, answer = await client.post(path, body)
    assert status == 400
    assert flag in answer["error"]["message"]
