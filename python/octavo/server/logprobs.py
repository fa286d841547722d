"""Log-probabilities in OpenAI's two shapes, and the text of single tokens they need."""

from collections.abc import Sequence

from octavo._core import Delta, Tokenizer, TokenLogprobs
from octavo.server.protocol import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob

LEAST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class TokenTexts:
    """Text and bytes of single tokens, remembered: a token that is part of a character shows as U+FFFD."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, tuple[str, list[int]]] = {}

    def __call__(self, token_id: int) -> tuple[str, list[int]]:
        entry = self._known.get(token_id)
        if entry is None:
            entry = self._known[token_id] = self._look_up(token_id)
        return entry

    def _look_up(self, token_id: int) -> tuple[str, list[int]]:
        if self._tokenizer is None:
            return f"token_id:{token_id}", []
        try:
            data = self._tokenizer.token_bytes(token_id)
        except ValueError:
            return "", []
        return data.decode("utf-8", "replace"), list(data)


class LogprobFormatter:
    """The log-probabilities of one answer. `num_top` of the best are shown for each token."""

    def __init__(self, texts: TokenTexts, num_top: int, *, as_token_ids: bool) -> None:
        self._texts = texts
        self._num_top = num_top
        self._as_token_ids = as_token_ids
        self._offsets: dict[int, int] = {}

    def start(self, choice: int, offset: int) -> None:
        """Where the generated text of a choice begins in its text: behind an echoed prompt."""
        self._offsets[choice] = offset

    def chat(self, choice: int, delta: Delta) -> ChatLogprobs:
        """One entry for each token of `delta`."""
        entries = []
        for token_id, values in zip(delta.token_ids, delta.logprobs or (), strict=True):
            text, data = self._show(token_id)
            top = [TopLogprob(*self._named(other, logprob)) for other, logprob in values.top[: self._num_top]]
            entries.append(ChatLogprob(text, finite(values.logprob), data, top))
        return ChatLogprobs(entries)

    def completion(self, choice: int, delta: Delta) -> CompletionLogprobs:
        """The four arrays for the tokens of `delta`; offsets go on from the choice's earlier deltas."""
        token_ids, values = delta.token_ids, delta.logprobs or ()
        shown = [self._show(token_id) for token_id in token_ids]
        offset = self._offsets.get(choice, 0)
        offsets = []
        for _, data in shown:
            offsets.append(offset)
            # Counting the bytes that begin a character keeps offsets right where tokens split characters.
            offset += sum(byte & 0xC0 != 0x80 for byte in data)
        self._offsets[choice] = offset
        return CompletionLogprobs(
            text_offset=offsets,
            token_logprobs=[finite(value.logprob) for value in values],
            tokens=[text for text, _ in shown],
            top_logprobs=[self._best(token_id, value) for token_id, value in zip(token_ids, values, strict=True)],
        )

    def _best(self, token_id: int, value: TokenLogprobs) -> dict[str, float]:
        best = {self._show(other)[0]: finite(logprob) for other, logprob in value.top[: self._num_top]}
        best.setdefault(self._show(token_id)[0], finite(value.logprob))
        return best

    def _named(self, token_id: int, logprob: float) -> tuple[str, float, list[int]]:
        text, data = self._show(token_id)
        return text, finite(logprob), data

    def _show(self, token_id: int) -> tuple[str, list[int]]:
        text, data = self._texts(token_id)
        return (f"token_id:{token_id}" if self._as_token_ids else text), data


def finite(logprob: float) -> float:
    return max(logprob, LEAST)


def join_chat(parts: Sequence[ChatLogprobs]) -> ChatLogprobs:
    """The entries of a whole answer from those of its deltas."""
    return ChatLogprobs([entry for part in parts for entry in part.content])


def join_completion(parts: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    """The arrays of a whole answer from those of its deltas."""
    whole = CompletionLogprobs([], [], [], [])
    for part in parts:
        whole.text_offset += part.text_offset
        whole.token_logprobs += part.token_logprobs
        whole.tokens += part.tokens
        whole.top_logprobs += part.top_logprobs
    return whole
