"""Every field that a pooling route knows, and what it does with it: see server/fields.py."""

from collections.abc import Mapping
from typing import Any

from octavo.server.fields import FieldTable, fields_of
from octavo.server.pooling.protocol import (
    ClassificationRequest,
    CohereEmbedRequest,
    EmbeddingRequest,
    PoolingRequest,
    RerankRequest,
    ScoreRequest,
)

INERT = frozenset({"user", "safety_identifier", "session_id", "metadata"})
SHARED_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "padding": ("do_not_pad", False),
    "mm_processor_kwargs": ({},),
}
"""Field → the values that ask for nothing, beside null."""
INPUT_REFUSED: Mapping[str, tuple[Any, ...]] = {**SHARED_REFUSED, "chat_template": (), "media_io_kwargs": ({},)}
PAIR_REFUSED: Mapping[str, tuple[Any, ...]] = {**SHARED_REFUSED, "instruction": ("",), "chat_template_kwargs": ({},)}

EMBEDDING = FieldTable(fields_of(EmbeddingRequest), INERT, INPUT_REFUSED)
POOLING = FieldTable(fields_of(PoolingRequest), INERT, INPUT_REFUSED)
CLASSIFICATION = FieldTable(fields_of(ClassificationRequest), INERT, INPUT_REFUSED)
SCORE = FieldTable(fields_of(ScoreRequest), INERT, PAIR_REFUSED)
RERANK = FieldTable(
    fields_of(RerankRequest), INERT, {**PAIR_REFUSED, "rank_fields": ([], ["text"]), "max_chunks_per_doc": ()}
)
COHERE = FieldTable(fields_of(CohereEmbedRequest), INERT, {"images": ([],), "inputs": ([],)})
