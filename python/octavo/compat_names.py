"""What scripts import from vllm's utilities, for `octavo.compat`."""

import argparse
import enum
import logging
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class FlexibleArgumentParser(argparse.ArgumentParser):
    """argparse which takes `--max_num_seqs` for `--max-num-seqs`."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        return super().parse_known_args([_dashed(word) for word in (sys.argv[1:] if args is None else args)], namespace)


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def random_uuid() -> str:
    return uuid.uuid4().hex


def init_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)


class UsageContext(enum.StrEnum):
    """Where vLLM was called from; octavo reports nothing to anybody."""

    UNKNOWN_CONTEXT = "UNKNOWN_CONTEXT"
    LLM_CLASS = "LLM_CLASS"
    API_SERVER = "API_SERVER"
    OPENAI_API_SERVER = "OPENAI_API_SERVER"
    OPENAI_BATCH_RUNNER = "OPENAI_BATCH_RUNNER"
    ENGINE_CONTEXT = "ENGINE_CONTEXT"


@dataclass
class LoRARequest:
    """An adapter, for scripts that may name one: octavo refuses a request that does."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
