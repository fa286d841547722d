"""vLLM's beam search in plain Python, over a model of Transformers: what octavo's has to find."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass
class Beam:
    tokens: list[int]
    """With those of the prompt."""
    logprob: float = 0.0


def search(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    width: int,
    max_tokens: int,
    eos: int | None,
    length_penalty: float = 1.0,
) -> list[Beam]:
    """The best beams, best first. `eos` None: a token like others."""

    def score(beam: Beam) -> float:
        length = len(beam.tokens) - (beam.tokens[-1] == eos)
        return beam.logprob / float(length) ** length_penalty

    live, ended = [Beam(list(prompt))], []
    for _ in range(max_tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([beam.tokens for beam in live])).logits[:, -1].float()
        best = torch.log_softmax(logits, dim=-1).topk(2 * width)
        following = []
        for beam, logprobs, tokens in zip(live, best.values.tolist(), best.indices.tolist(), strict=True):
            for token, logprob in zip(tokens, logprobs, strict=True):
                child = Beam([*beam.tokens, token], beam.logprob + logprob)
                (ended if token == eos else following).append(child)
        live = sorted(following, key=score, reverse=True)[:width]
    return sorted(ended + live, key=score, reverse=True)[:width]
