"""What a decoder is, as data: the executors read a `DecoderSpec`, never a Hugging Face config.

    RopeSpec      rotary frequencies, and how they are scaled
    DecoderSpec   sizes and switches of a decoder-only transformer
    EncoderSpec   sizes of a bidirectional transformer
    PoolerSpec    what is made of hidden states instead of text

No torch here: the memory plan and the native executor read the same structs.
"""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu"]
PoolingKind = Literal["first", "last", "mean", "max"]
LabelActivation = Literal["identity", "sigmoid", "softmax"]
RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary position embedding of the halves of each head (Llama's layout); `rope` computes its frequencies."""

    rotary_dim: int
    """Twice the rotated pairs; heads longer than this keep their other dimensions."""
    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    """What `kind` divides slow frequencies by."""
    low: float = 0.0
    high: float = 0.0
    """The ends of the ramp between divided and kept: llama3's turns in the original length, yarn's pairs."""
    original_length: int = 0
    magnitude: float = 1.0
    """Factor on cosines and sines (YaRN's attention factor)."""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A pre-norm decoder: RMS norm, attention, residual, RMS norm, gated MLP, residual; then a norm and the head."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """RMS norm over each query and key head before the rotation."""
    windows: tuple[int, ...]
    """For each layer, how many tokens back it sees, its own included; 0: all."""
    activation: Activation
    attention_scale: float
    rope: RopeSpec
    tied_head: bool
    """The head is the embedding matrix."""

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """BERT: word, position and type embeddings, added and normed; then layers of attention over the whole sequence and
    a GELU MLP, each added to the stream, which is normed (layer norm) after that."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    num_types: int
    """Rows of the table of token types; 0: there is none."""
    norm_eps: float


@dataclass(frozen=True, slots=True)
class PoolerSpec:
    """How a sequence's hidden states become what a request asked for."""

    tasks: tuple[str, ...]
    """As `_core.Pooling` names them."""
    whole: tuple[str, ...]
    """Those of them that need every hidden state of a prompt, in one step."""
    width: int
    """Elements of a vector."""
    kind: PoolingKind
    """Which tokens make the vector of a sequence."""
    normalize: bool
    """Vectors of length 1, unless a request says otherwise."""
    dense: bool = False
    """A product and a tanh before the classifier."""
    num_labels: int = 0
    """0: there is no classifier."""
    activation: LabelActivation = "softmax"
    """From the classifier's numbers to what is answered, unless a request says otherwise."""
