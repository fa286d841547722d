"""The bytes of a stream: what a client parses, field by field, and as vLLM orders it."""

import json
from typing import Any

from octavo.server.chunks import DONE, ChunkEncoder
from octavo.server.protocol import Usage


def chat_chunks(**fields: Any) -> ChunkEncoder:
    given = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": 'a"b',
        "num_choices": 2,
        "before": b',"delta":{"content":',
        "after": b"}",
    }
    return ChunkEncoder(**{**given, **fields})


def parsed(chunk: bytes) -> dict[str, Any]:
    assert chunk.startswith(b"data: ")
    assert chunk.endswith(b"}\n\n")
    assert chunk.count(b"\n") == 2
    return json.loads(chunk[6:])


def test_a_token() -> None:
    assert chat_chunks().text(1, 'x"\n\u00e9') == (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"a\\"b","choices":'
        b'[{"index":1,"delta":{"content":"x\\"\\n\xc3\xa9"},"logprobs":null,"finish_reason":null}]}\n\n'
    )


def test_the_role_comes_with_empty_content() -> None:
    choice = parsed(chat_chunks().role(0, "assistant"))["choices"][0]
    assert choice == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert parsed(chat_chunks().role(0, "assistant", prompt_token_ids=[1, 2]))["prompt_token_ids"] == [1, 2]


def test_the_end_of_a_choice() -> None:
    choice = parsed(chat_chunks().full(0, "", finish=("stop", "END")))["choices"][0]
    assert choice == {
        "index": 0,
        "delta": {"content": ""},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": "END",
    }
    assert parsed(chat_chunks().full(0, "", finish=("length", None)))["choices"][0]["stop_reason"] is None


def test_completions_have_text() -> None:
    chunks = chat_chunks(id="cmpl-1", object="text_completion", before=b',"text":', after=b"")
    choice = parsed(chunks.full(0, "x", token_ids=[5], usage=Usage(1, 2, 1)))
    assert choice["choices"] == [{"index": 0, "text": "x", "logprobs": None, "finish_reason": None, "token_ids": [5]}]
    assert choice["usage"] == {"prompt_tokens": 1, "total_tokens": 2, "completion_tokens": 1}


def test_usage_comes_without_choices() -> None:
    chunk = parsed(chat_chunks().usage(Usage(3, 5, 2)))
    assert chunk["choices"] == []
    assert chunk["usage"] == {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}
    assert DONE == b"data: [DONE]\n\n"
