"""The one torch decoder, built from a spec.

A batch is flat: the tokens of all requests one after another, without padding. Norms, rotation, activation and
attention are the device's (`DeviceOps`), products are torch's; the residual stream is float32.
"""

from typing import Protocol

import torch

from octavo.layers.linear import Linear
from octavo.models.rope import cos_sin_table
from octavo.models.spec import DecoderSpec


class Attention(Protocol):
    """The step's attention over what the cache holds of each request."""

    def __call__(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: int
    ) -> torch.Tensor:
        """query f32[T, query_size], key, value f32[T, kv_size] -> f32[rows, query_size]; rows behind T are finite."""


class DeviceOps(Protocol):
    """What a decoder asks of a device beside products. All tensors are float32 and contiguous."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, eps: float) -> None:
        """out = x, each row of len(weight) divided by its root mean square, times weight. `out` may be `x`."""

    def add_rms_norm(self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        """residual += x, then x = rms_norm(residual), both in place."""

    def rope(self, x: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, head_dim: int) -> None:
        """Rotates the heads of x [T, heads * head_dim] in place."""

    def silu_mul(self, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        """out [rows, I] = silu of the first half of gate_up [rows, 2 I], times the second."""


class Decoder:
    """`parameters` (see layout.py) are taken over: the dict is emptied as the layers are built."""

    def __init__(
        self, spec: DecoderSpec, parameters: dict[str, torch.Tensor], ops: DeviceOps, *, max_model_len: int
    ) -> None:
        self.spec = spec
        self._ops = ops
        self._embedding = parameters.pop("embedding")
        self._layers = [_Layer(spec, index, parameters) for index in range(spec.num_layers)]
        self._final_norm = parameters.pop("final_norm")
        self._head = Linear(self._embedding, reorder=False) if spec.tied_head else Linear(parameters.pop("head"))
        self._cos_sin = torch.from_numpy(cos_sin_table(spec.rope, max_model_len))
        following = [layer.attention_norm for layer in self._layers[1:]]
        self._next_norms = [*following, self._final_norm]

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, logits_index: torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        """f32 [S, vocab_size]: the logits of the tokens logits_index i32[S].

        input_ids i32[rows] may be longer than positions i32[T] (see MIN_ROWS): what it holds behind T is computed
        and never read.
        """
        spec, ops, eps = self.spec, self._ops, self.spec.norm_eps
        tokens, rows = positions.shape[0], input_ids.shape[0]
        sizes = [spec.query_size, spec.kv_size, spec.kv_size]
        residual = torch.index_select(self._embedding, 0, input_ids).float()
        x = torch.empty_like(residual)
        activated = x.new_empty(rows, spec.intermediate_size)
        ops.rms_norm(residual, self._layers[0].attention_norm, x, eps)
        for index, layer in enumerate(self._layers):
            query, key, value = (part.contiguous() for part in torch.split(layer.qkv(x)[:tokens], sizes, dim=1))
            if layer.query_norm is not None and layer.key_norm is not None:
                ops.rms_norm(query, layer.query_norm, query, eps)
                ops.rms_norm(key, layer.key_norm, key, eps)
            ops.rope(query, positions, self._cos_sin, spec.head_dim)
            ops.rope(key, positions, self._cos_sin, spec.head_dim)
            x = layer.output(attention(index, query, key, value, rows))
            ops.add_rms_norm(x, residual, layer.mlp_norm, eps)
            ops.silu_mul(layer.gate_up(x), activated)
            x = layer.down(activated)
            ops.add_rms_norm(x, residual, self._next_norms[index], eps)
        return self._head(torch.index_select(x, 0, logits_index))


class _Layer:
    __slots__ = ("attention_norm", "down", "gate_up", "key_norm", "mlp_norm", "output", "qkv", "query_norm")

    def __init__(self, spec: DecoderSpec, index: int, parameters: dict[str, torch.Tensor]) -> None:
        def linear(name: str) -> Linear:
            return Linear(parameters.pop(f"layers.{index}.{name}"), parameters.pop(f"layers.{index}.{name}.bias", None))

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
