"""What crosses the wire on the pooling routes. See server/protocol.py for the rules."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from octavo.pooling import ElementType, Endianness, PoolingTask
from octavo.server.protocol import Int32, RequestId

Truncation = Annotated[int, Meta(ge=-1, le=(1 << 31) - 1)]
Positive = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
NonNegative = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
EncodingFormat = Literal["float", "base64", "bytes", "bytes_only"]
InputType = Literal["search_document", "search_query", "classification", "clustering"]
CohereType = Literal["float", "base64", "binary", "ubinary"]

# ---------------------------------------------------------------- requests


class PoolingFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that all of them share."""

    model: str | None = None
    truncate_prompt_tokens: Truncation | None = None
    truncation_side: Literal["left", "right"] = "right"
    priority: Int32 = 0
    cache_salt: Annotated[str, Meta(max_length=4096)] = ""
    request_id: RequestId | None = None
    timeout: float | None = None
    use_activation: bool | None = None


class InputFields(PoolingFields, frozen=True, kw_only=True):
    """Either `input` or `messages`."""

    input: Any = UNSET
    """A string, a list of strings, token ids, or a list of lists of token ids."""
    messages: list[dict[str, Any]] | UnsetType = UNSET
    add_special_tokens: bool | UnsetType = UNSET
    """Unset: true for `input`, false for messages, whose template writes them."""
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}


class EncodedFields(InputFields, frozen=True, kw_only=True):
    """With how the numbers are written. `embed_dtype` and `endianness` are for base64 and bytes."""

    encoding_format: EncodingFormat = "float"
    embed_dtype: ElementType = "float32"
    endianness: Endianness = "native"
    dimensions: Positive | None = None


class EmbeddingRequest(EncodedFields, frozen=True, kw_only=True):
    normalize: bool | None = None
    """Older name of use_activation."""


class PoolingRequest(EncodedFields, frozen=True, kw_only=True):
    task: PoolingTask | None = None


class ClassificationRequest(InputFields, frozen=True, kw_only=True):
    pass


class PairFields(PoolingFields, frozen=True, kw_only=True):
    max_tokens_per_query: NonNegative = 0
    """Texts are cut to so many tokens first; 0: they are not."""
    max_tokens_per_doc: NonNegative = 0


class ScoreRequest(PairFields, frozen=True, kw_only=True):
    """One of the three pairs of names. A text is a string or an object with `text`; each side one, or a list."""

    text_1: Any = UNSET
    text_2: Any = UNSET
    queries: Any = UNSET
    documents: Any = UNSET
    data_1: Any = UNSET
    data_2: Any = UNSET


class RerankRequest(PairFields, frozen=True, kw_only=True):
    query: Any
    documents: Any
    top_n: NonNegative = 0
    """0: all."""
    return_documents: bool = True


class CohereEmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Cohere's."""

    model: str | None = None
    texts: list[str]
    input_type: InputType | None = None
    """What the texts are for. Changes nothing: octavo reads no prompts for it from a model."""
    embedding_types: list[CohereType] = msgspec.field(default_factory=lambda: ["float"])
    output_dimension: Positive | None = None
    max_tokens: Positive | None = None
    truncate: Literal["NONE", "START", "END"] = "END"
    priority: Int32 = 0


# ---------------------------------------------------------------- answers


class PoolingUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class Embedding(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingResponse(msgspec.Struct):
    id: str
    created: int
    model: str
    data: list[Embedding]
    usage: PoolingUsage
    object: Literal["list"] = "list"


class PooledData(msgspec.Struct):
    index: int
    data: list[float | list[float]] | str
    object: Literal["pooling"] = "pooling"


class PoolingResponse(msgspec.Struct):
    id: str
    created: int
    model: str
    data: list[PooledData]
    usage: PoolingUsage
    object: Literal["list"] = "list"


class BytesItem(msgspec.Struct):
    """Where the numbers of one input lie in a body of bytes."""

    index: int
    embed_dtype: str
    endianness: str
    start: int
    end: int
    shape: list[int]


class BytesMetadata(msgspec.Struct):
    """The header `metadata` of an answer in bytes."""

    id: str
    created: int
    model: str
    data: list[BytesItem]
    usage: PoolingUsage


class Classification(msgspec.Struct):
    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassificationResponse(msgspec.Struct):
    id: str
    created: int
    model: str
    data: list[Classification]
    usage: PoolingUsage
    object: Literal["list"] = "list"


class Score(msgspec.Struct):
    index: int
    score: float
    object: Literal["score"] = "score"


class ScoreResponse(msgspec.Struct):
    id: str
    created: int
    model: str
    data: list[Score]
    usage: PoolingUsage
    object: Literal["list"] = "list"


class RerankDocument(msgspec.Struct):
    text: str
    multi_modal: None = None


class RerankResult(msgspec.Struct):
    index: int
    relevance_score: float
    document: RerankDocument | UnsetType = UNSET


class RerankUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class RerankResponse(msgspec.Struct):
    id: str
    model: str
    usage: RerankUsage
    results: list[RerankResult]
    """Best first."""


class CohereEmbeddings(msgspec.Struct):
    floats: list[list[float]] | UnsetType = msgspec.field(default=UNSET, name="float")
    base64: list[str] | UnsetType = UNSET
    binary: list[list[int]] | UnsetType = UNSET
    ubinary: list[list[int]] | UnsetType = UNSET


class CohereVersion(msgspec.Struct):
    version: str = "2"


class CohereUnits(msgspec.Struct):
    input_tokens: int


class CohereMeta(msgspec.Struct):
    api_version: CohereVersion
    billed_units: CohereUnits


class CohereEmbedResponse(msgspec.Struct):
    id: str
    embeddings: CohereEmbeddings
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"
