"""What scripts ask an engine about its model, by vLLM's names: `llm.llm_engine.model_config.max_model_len`."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from octavo.engine.start import Prepared


@dataclass(frozen=True)
class ModelInfo:
    model: str
    tokenizer: str
    max_model_len: int
    """Tokens of prompt and answer together."""
    dtype: str
    seed: int
    hf_config: Any
    """The model's config.json: a key is an attribute."""
    vocab_size: int
    is_multimodal_model: bool = False

    @classmethod
    def of(cls, prepared: Prepared) -> "ModelInfo":
        start, checkpoint = prepared.start, prepared.checkpoint
        asked = start.config.model
        return cls(
            model=asked.model,
            tokenizer=asked.tokenizer or asked.model,
            max_model_len=start.memory.max_model_len,
            dtype=start.memory.dtype,
            seed=asked.seed,
            hf_config=SimpleNamespace(**({} if checkpoint is None else checkpoint.config)),
            vocab_size=start.vocab_size,
        )

    @property
    def hf_text_config(self) -> Any:
        return self.hf_config

    def get_vocab_size(self) -> int:
        return self.vocab_size

    def get_hidden_size(self) -> int:
        return int(self.hf_config.hidden_size)
