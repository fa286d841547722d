"""The one torch decoder, built from a spec.

A batch is flat: the tokens of all requests one after another, without padding. Norms, activation and attention are the
device's (`DeviceOps`, `Attention`), products are torch's; the residual stream is float32.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from octavo.models.spec import DecoderSpec

Product = Callable[[torch.Tensor], torch.Tensor]
"""[rows, in] -> [rows, out], in the type of the device's activations."""


class Attention(Protocol):
    """The step's attention over what the cache holds of each request. Knows the positions of the step's tokens."""

    def __call__(
        self, layer: int, qkv: torch.Tensor, query_norm: torch.Tensor | None, key_norm: torch.Tensor | None
    ) -> torch.Tensor:
        """qkv [rows, query_size + 2 kv_size] -> [rows, query_size].

        Normalises the heads of query and key where there are weights for it, rotates both, stores key and value, and
        attends. Rows behind the step's tokens give anything.
        """


class DeviceOps(Protocol):
    """What a decoder asks of a device beside attention. Tensors are contiguous; x is of the activations' type."""

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        """x Wᵀ + b. Owns the weight [out, in], which may be reordered."""

    def head(self, weight: torch.Tensor, *, is_embedding: bool) -> Product:
        """The same to float32 logits. The embedding itself is not reordered."""

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        """x and the residual f32: the rows of the embedding, each divided by its root mean square, times weight."""

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """residual += x, in place; returns rms_norm(residual). May overwrite x."""

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu of the first half of gate_up [rows, 2 I], times the second. Valid until the next call."""


class Decoder:
    """`parameters` (see layout.py) are taken over: the dict is emptied as the layers are built."""

    def __init__(self, spec: DecoderSpec, parameters: dict[str, torch.Tensor], ops: DeviceOps) -> None:
        self.spec = spec
        self._ops = ops
        self._embedding = parameters.pop("embedding")
        self._layers = [_Layer(spec, index, parameters, ops) for index in range(spec.num_layers)]
        self._final_norm = parameters.pop("final_norm")
        head = self._embedding if spec.tied_head else parameters.pop("head")
        self._head = ops.head(head, is_embedding=spec.tied_head)
        following = [layer.attention_norm for layer in self._layers[1:]]
        self._next_norms = [*following, self._final_norm]

    def forward(self, input_ids: torch.Tensor, logits_index: torch.Tensor | None, attention: Attention) -> torch.Tensor:
        """f32 [S, vocab_size]: the logits of the tokens logits_index i32[S]; None: of all.

        input_ids i32[rows] may be longer than the step (see MIN_ROWS): what it holds behind is computed and never read.
        """
        ops, eps = self._ops, self.spec.norm_eps
        rows = torch.index_select(self._embedding, 0, input_ids)
        x, residual = ops.rms_norm(rows, self._layers[0].attention_norm, eps)
        for index, layer in enumerate(self._layers):
            x = layer.output(attention(index, layer.qkv(x), layer.query_norm, layer.key_norm))
            x = ops.add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = layer.down(ops.silu_mul(layer.gate_up(x)))
            x = ops.add_rms_norm(x, residual, self._next_norms[index], eps)
        return self._head(x if logits_index is None else torch.index_select(x, 0, logits_index))


class _Layer:
    __slots__ = ("attention_norm", "down", "gate_up", "key_norm", "mlp_norm", "output", "qkv", "query_norm")

    def __init__(self, spec: DecoderSpec, index: int, parameters: dict[str, torch.Tensor], ops: DeviceOps) -> None:
        def linear(name: str) -> Product:
            weight = parameters.pop(f"layers.{index}.{name}")
            return ops.linear(weight, parameters.pop(f"layers.{index}.{name}.bias", None))

        def norm(name: str) -> torch.Tensor:
            return parameters.pop(f"layers.{index}.{name}")

        self.attention_norm = norm("attention_norm")
        self.qkv = linear("qkv")
        self.query_norm = norm("query_norm") if spec.qk_norm else None
        self.key_norm = norm("key_norm") if spec.qk_norm else None
        self.output = linear("output")
        self.mlp_norm = norm("mlp_norm")
        self.gate_up = linear("gate_up")
        self.down = linear("down")
