"""An engine on the null backend with its front end, whose blocks are counted at the end of each test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from null_pair import EOS, TOKEN, VOCABULARY, Pair, word_tokenizer

from octavo._core import Endpoint, Engine, Frontend, Tokenizer
from octavo.backends.null import NullBackend


@pytest.fixture
def make_pair() -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(*, tokenizer: Tokenizer | None = None, token: int = TOKEN, **limits: Any) -> Pair:
        values: dict[str, Any] = {
            "num_blocks": 64,
            "block_size": 4,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 64,
            "max_model_len": 64,
            "vocab_size": len(VOCABULARY),
            "eos_token_ids": [EOS],
            **limits,
        }
        front, back = Endpoint.pair()
        engine = Engine(back, **values)
        backend = NullBackend(token)
        backend.bind(engine)
        frontend = Frontend(
            front, tokenizer, max_model_len=values["max_model_len"], vocab_size=values["vocab_size"], threads=1
        )
        made.append(Pair(frontend, engine, backend))
        return made[-1]

    yield make
    for pair in made:
        pair.engine.check_integrity()


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair(tokenizer=word_tokenizer())
