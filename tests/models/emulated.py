"""Transformers' float32 model with octavo's roundings put in, and nothing else changed.

    round_inputs(model, choose)   before each product: its input, as weights of that kind take it
    round_weights(model, how)     --quantization int8 and int4
    logits(model, tokens, kv)     one pass, keys and values rounded to the cache's type

So the bounds of the tests are float32's, and a scale that is wrong by a few percent cannot hide behind int8.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

Rounding = Callable[[torch.Tensor], torch.Tensor]


def to_int8(values: torch.Tensor, block: int) -> torch.Tensor:
    """Each block of the last dimension as a scale times -127 … 127."""
    size = values.shape[-1]
    padded = torch.nn.functional.pad(values, (0, -size % block)).unflatten(-1, (-1, block))
    largest = padded.abs().amax(-1, keepdim=True)
    codes = torch.where(largest > 0, padded * (127 / largest), 0).round()
    return (codes * (largest / 127)).flatten(-2)[..., :size]


def round_inputs(model: PreTrainedModel, choose: Callable[[str], Rounding]) -> None:
    """Puts a rounding before each product; `choose` gives it for the name of a matrix."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            rounding = choose(name)
            module.register_forward_pre_hook(lambda _, arguments, rounding=rounding: (rounding(arguments[0]),))


def blocks_of_32(values: torch.Tensor) -> torch.Tensor:
    """The input of quantised weights."""
    return to_int8(values, 32)


ROUNDINGS: dict[str, Rounding] = {
    "float32": lambda values: values,
    "float16": lambda values: values.half().float(),
    "bfloat16": lambda values: values.bfloat16().float(),
    "int8": lambda values: to_int8(values, values.shape[-1]),
}
"""By the cache's element type: what it gives back of keys and values [..., head_dim]."""


class _RoundingCache(DynamicCache):
    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._rounding = rounding

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *others: Any, **more: Any
    ) -> Any:
        return super().update(self._rounding(key_states), self._rounding(value_states), layer_idx, *others, **more)


def to_int4(values: torch.Tensor, group: int) -> torch.Tensor:
    """Each group of the last dimension as a float16 minimum and 0 … 15 times a float16 scale: numbers int4 can hold."""
    size = values.shape[-1]
    padded = torch.cat([values, values[:, -1:].expand(-1, -size % group)], dim=-1).unflatten(-1, (-1, group))
    lowest, highest = padded.amin(-1, keepdim=True), padded.amax(-1, keepdim=True)
    scale, minimum = ((highest - lowest) / 15).half().float(), lowest.half().float()
    codes = torch.where(scale > 0, (padded - minimum) / scale, 0).round().clamp(0, 15)
    return (codes * scale + minimum).flatten(-2)[..., :size]


def round_weights(model: PreTrainedModel, how: str) -> None:
    """int4 leaves 8 bits to the embedding and the head."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                four = how == "int4" and "embed_tokens" not in name and "lm_head" not in name
                parameter.copy_(to_int4(parameter, 32) if four else to_int8(parameter, parameter.shape[-1]))


def logits(model: PreTrainedModel, tokens: list[int], kv: str = "float32") -> torch.Tensor:
    """f32 [tokens, vocab_size]."""
    with torch.inference_mode():
        cache = _RoundingCache(ROUNDINGS[kv])
        return model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True).logits[0]
