"""Log-probabilities in OpenAI's two shapes and vLLM's of prompts, and the text of single tokens they need."""

from collections.abc import Sequence

from octavo._core import Delta, Tokenizer, TokenLogprobs
from octavo.server.protocol import (
    ChatLogprob,
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)

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

    def is_special(self, token_id: int) -> bool:
        """Whether texts do not show the token."""
        return self._tokenizer is not None and not self._tokenizer.decode([token_id], skip_special_tokens=True)

    def _look_up(self, token_id: int) -> tuple[str, list[int]]:
        if self._tokenizer is None:
            return f"token_id:{token_id}", []
        try:
            data = self._tokenizer.token_bytes(token_id)
        except ValueError:
            return "", []
        return data.decode("utf-8", "replace"), list(data)


class LogprobFormatter:
    """The log-probabilities of one answer. `num_top` of the best are shown for each token; -1: all that came."""

    def __init__(self, texts: TokenTexts, num_top: int, *, as_token_ids: bool) -> None:
        self._texts = texts
        self._num_top = None if num_top == -1 else num_top
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

    def echo(self, token_ids: Sequence[int], scores: Sequence[TokenLogprobs], text: str) -> CompletionLogprobs:
        """The four arrays for a prompt that is echoed as `text`."""
        return CompletionLogprobs(
            text_offset=self._prompt_offsets(token_ids, text),
            token_logprobs=[None, *(finite(value.logprob) for value in scores)],
            tokens=[self._show(token_id)[0] for token_id in token_ids],
            top_logprobs=[None, *map(self._best, token_ids[1:], scores)],
        )

    def _prompt_offsets(self, token_ids: Sequence[int], text: str) -> list[int]:
        """Special tokens that the tokenizer put around the text have no room in it, nor has the space which some put
        before its first word."""
        rest = text.encode()
        offset, offsets = 0, []
        for token_id in token_ids:
            offsets.append(offset)
            data = bytes(self._texts(token_id)[1])
            if not rest.startswith(data):
                if self._texts.is_special(token_id):
                    continue
                data = data.removeprefix(b" ") if not offset else data
            rest = rest[len(data) :]
            offset += sum(byte & 0xC0 != 0x80 for byte in data)
        return offsets

    def _best(self, token_id: int, value: TokenLogprobs) -> dict[str, float]:
        best = {self._show(other)[0]: finite(logprob) for other, logprob in value.top[: self._num_top]}
        # Where tokens look alike, parts of characters say, the place is the token's own.
        best[self._show(token_id)[0]] = finite(value.logprob)
        return best

    def _named(self, token_id: int, logprob: float) -> tuple[str, float, list[int]]:
        text, data = self._show(token_id)
        return text, finite(logprob), data

    def _show(self, token_id: int) -> tuple[str, list[int]]:
        text, data = self._texts(token_id)
        return (f"token_id:{token_id}" if self._as_token_ids else text), data


def finite(logprob: float) -> float:
    return max(logprob, LEAST)


def list_prompt(
    texts: TokenTexts, token_ids: Sequence[int], scores: Sequence[TokenLogprobs], num_top: int
) -> PromptLogprobs:
    """vLLM's `prompt_logprobs`: each token of a prompt, and the `num_top` best in its place (-1: all that came)."""
    listed: PromptLogprobs = [None]
    for token_id, value in zip(token_ids[1:], scores, strict=True):
        best = enumerate(value.top if num_top == -1 else value.top[:num_top], start=1)
        ranked = [(token_id, value.rank, value.logprob), *((other, rank, logprob) for rank, (other, logprob) in best)]
        entries: dict[int, PromptLogprob] = {}
        for token, rank, logprob in ranked:
            entries.setdefault(token, PromptLogprob(finite(logprob), rank, texts(token)[0]))
        listed.append(entries)
    return listed


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
