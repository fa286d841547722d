"""Every field of a request that octavo knows, and what it does with it. Nothing is passed over in silence.

- enforced: the fields of the request's struct in protocol.py;
- inert: accepted with any value, since none can change the output;
- refused: a 400 that names the field, unless the value is one that asks for nothing;
- unknown: a 400 that names the field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from octavo.server.body import convert
from octavo.server.errors import ApiError, printable
from octavo.server.protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest

OPENAI_INERT = {
    "metadata": "kept by OpenAI beside the answer",
    "store": "octavo stores no answers",
    "service_tier": "there is one tier",
    "prompt_cache_key": "the prefix cache needs no hint",
    "prompt_cache_retention": "the prefix cache evicts by itself",
    "prompt_cache_options": "the prefix cache needs no hint",
    "safety_identifier": "names the end user",
    "user": "names the end user",
    "prediction": "only speeds up",
    "session_id": "routes between servers",
    "guided_decoding_backend": "chooses an implementation",
}
"""Field → why no value of it can change the output."""

SHARED_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "watermarking": (False,),
    "return_weight_versions": (False,),
    "routed_experts_prompt_start": (0,),
    "return_token_offsets": (False,),
    "mm_payload": ("tensors",),
    "return_mm_kwargs": (False,),
    "kv_transfer_params": ({},),
    "ec_transfer_params": ({},),
    "vllm_xargs": ({},),
}
"""Field → the values that ask for nothing, beside null."""

CHAT_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "verbosity": (),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "return_prompt_text": (False,),
}

COMPLETION_REFUSED: Mapping[str, tuple[Any, ...]] = {"suffix": ("",), "prompt_embeds": ()}

TOKENIZE_REFUSED: Mapping[str, tuple[Any, ...]] = {
    name: CHAT_REFUSED[name] for name in ("media_io_kwargs", "mm_processor_kwargs")
}

WHY = {
    "prompt_embeds": "a prompt is text or token ids",
}


@dataclass(frozen=True)
class FieldTable:
    """What one route does with each field. `keeps_null`: fields where null differs from leaving it out."""

    enforced: frozenset[str]
    inert: frozenset[str]
    refused: Mapping[str, tuple[Any, ...]]
    keeps_null: frozenset[str] = frozenset()

    def check(self, body: dict[str, Any]) -> dict[str, Any]:
        """The enforced fields of `body` that are set. Raises ApiError 400 for a field that must not be there."""
        kept = {}
        for name, value in body.items():
            if name in self.enforced:
                if value is not None or name in self.keeps_null:
                    kept[name] = value
            elif name in self.refused:
                if value is not None and not asks_nothing(value, self.refused[name]):
                    raise ApiError(400, f"{name}: {reason(name)}.", name)
            elif name not in self.inert:
                raise ApiError(400, f"{printable(name)}: this field is not known here.", printable(name))
        return kept


def asks_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether `value` is one of `neutral`, where true is not 1."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def reason(name: str) -> str:
    return WHY.get(name, "octavo cannot do this yet, and would have to ignore it")


def fields_of(struct: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(struct.__struct_fields__)


INERT = frozenset(OPENAI_INERT)
CHAT = FieldTable(
    fields_of(ChatRequest),
    INERT,
    {**SHARED_REFUSED, **CHAT_REFUSED},
    frozenset({"max_tokens", "max_completion_tokens"}),
)
COMPLETION = FieldTable(
    fields_of(CompletionRequest), INERT, {**SHARED_REFUSED, **COMPLETION_REFUSED}, frozenset({"max_tokens"})
)
TOKENIZE = FieldTable(fields_of(TokenizeRequest), frozenset({"user"}), TOKENIZE_REFUSED)
DETOKENIZE = FieldTable(fields_of(DetokenizeRequest), frozenset({"user"}), {})


def chat_request(body: dict[str, Any]) -> ChatRequest:
    """Raises ApiError 400 that names the field."""
    return convert(CHAT.check(body), ChatRequest)


def completion_request(body: dict[str, Any]) -> CompletionRequest:
    """Raises ApiError 400 that names the field."""
    return convert(COMPLETION.check(body), CompletionRequest)


def tokenize_request(body: dict[str, Any]) -> TokenizeRequest:
    """Raises ApiError 400 that names the field."""
    return convert(TOKENIZE.check(body), TokenizeRequest)


def detokenize_request(body: dict[str, Any]) -> DetokenizeRequest:
    """Raises ApiError 400 that names the field."""
    return convert(DETOKENIZE.check(body), DetokenizeRequest)
