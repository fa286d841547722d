"""POST /v1/embeddings, Cohere's /v2/embed, and /pooling: numbers for texts."""

import base64

from aiohttp import web
from msgspec import UNSET

from octavo._core import Pooled
from octavo.pooling import ANY_TASK, PoolingTask
from octavo.server.body import convert, read_object
from octavo.server.errors import ApiError
from octavo.server.pooling.encoding import answer, bytes_response, check_encoding, written
from octavo.server.pooling.fields import COHERE, EMBEDDING, POOLING
from octavo.server.pooling.inputs import MAX_INPUTS, prompts_of
from octavo.server.pooling.pool import Pool, choose_task, params_of
from octavo.server.pooling.protocol import (
    CohereEmbeddings,
    CohereEmbedRequest,
    CohereEmbedResponse,
    CohereMeta,
    CohereUnits,
    CohereVersion,
    Embedding,
    EmbeddingRequest,
    EmbeddingResponse,
    EncodedFields,
    PooledData,
    PoolingFields,
    PoolingRequest,
    PoolingResponse,
)
from octavo.server.request_id import request_id
from octavo.server.service import SERVICE
from octavo.server.whole import json_answer

MAX_HEADER_INPUTS = 64
"""With encoding_format bytes, whose header has an entry for each: clients take headers of 8 KiB."""


async def post_embeddings(request: web.Request) -> web.Response:
    """A vector for each text."""
    asked = convert(EMBEDDING.check(await read_object(request)), EmbeddingRequest)
    if asked.normalize is not None and asked.use_activation not in (None, asked.normalize):
        raise ApiError(400, "normalize: contradicts use_activation.", "normalize")
    normalize = asked.use_activation if asked.normalize is None else asked.normalize
    pool, results = await pool_inputs(request, asked, ("embed",), "embd", normalize)
    if asked.encoding_format.startswith("bytes"):
        return await answer(results, lambda: bytes_response(pool, results, asked))
    return await answer(
        results,
        lambda: json_answer(
            EmbeddingResponse(
                pool.id,
                pool.created,
                pool.model,
                [Embedding(index, written(pooled, asked)) for index, pooled in enumerate(results)],
                pool.usage,
            )
        ),
    )


async def post_pooling(request: web.Request) -> web.Response:
    """What the model makes of each text, whatever that is: a vector, or one for each token, or classes."""
    asked = convert(POOLING.check(await read_object(request)), PoolingRequest)
    tasks = ANY_TASK if asked.task is None else (asked.task,)
    pool, results = await pool_inputs(request, asked, tasks, "pool", asked.use_activation)
    if asked.encoding_format.startswith("bytes"):
        return await answer(results, lambda: bytes_response(pool, results, asked))
    return await answer(
        results,
        lambda: json_answer(
            PoolingResponse(
                pool.id,
                pool.created,
                pool.model,
                [PooledData(index, written(pooled, asked)) for index, pooled in enumerate(results)],
                pool.usage,
            )
        ),
    )


async def pool_inputs(
    request: web.Request,
    asked: EncodedFields,
    tasks: tuple[PoolingTask, ...],
    prefix: str,
    use_activation: bool | None,
) -> tuple[Pool, list[Pooled]]:
    """Has every input pooled. Raises ApiError."""
    service = request.app[SERVICE]
    service.health.check_serving()
    model = service.model_name(asked.model)
    task = choose_task(service, *tasks)
    check_encoding(asked)
    params = params_of(service, asked, use_activation=use_activation, dimensions=asked.dimensions)
    prompts, special = await prompts_of(service, asked)
    if asked.encoding_format == "bytes" and len(prompts) > MAX_HEADER_INPUTS:
        message = f"encoding_format: bytes takes {MAX_HEADER_INPUTS} inputs at most; bytes_only takes {MAX_INPUTS}."
        raise ApiError(400, message, "encoding_format")
    identity = f"{prefix}-{request_id(request, asked.request_id)}"
    with service.open_stream(asked.timeout) as stream:
        pool = Pool(service, stream, asked, id=identity, model=model, field="input")
        results = await pool.run(prompts, params.to_core(task), add_special_tokens=special)
    pool.log(prefix, len(prompts))
    return pool, results


async def post_cohere_embed(request: web.Request) -> web.Response:
    """A vector for each text, in Cohere's form."""
    service = request.app[SERVICE]
    service.health.check_serving()
    asked = convert(COHERE.check(await read_object(request)), CohereEmbedRequest)
    model = service.model_name(asked.model)
    task = choose_task(service, "embed")
    if not asked.texts or len(asked.texts) > MAX_INPUTS:
        raise ApiError(400, f"texts: must be 1 to {MAX_INPUTS} texts.", "texts")
    if asked.max_tokens is not None and asked.truncate == "NONE":
        raise ApiError(400, "max_tokens: needs truncate START or END.", "max_tokens")
    service.need_tokenizer()
    fields = PoolingFields(
        model=asked.model,
        truncate_prompt_tokens=None if asked.truncate == "NONE" else asked.max_tokens or -1,
        truncation_side="left" if asked.truncate == "START" else "right",
        priority=asked.priority,
    )
    params = params_of(service, fields, use_activation=None, dimensions=asked.output_dimension)
    with service.open_stream(None) as stream:
        pool = Pool(service, stream, fields, id=request_id(request, None), model=model, field="texts")
        results = await pool.run(asked.texts, params.to_core(task))
    pool.log("embed", len(results))
    return await answer(results, lambda: json_answer(cohere(pool, asked, results)))


def cohere(pool: Pool, asked: CohereEmbedRequest, results: list[Pooled]) -> CohereEmbedResponse:
    from octavo.vectors import array_of, signs

    vectors, kinds = [array_of(pooled) for pooled in results], set(asked.embedding_types)
    return CohereEmbedResponse(
        pool.id,
        CohereEmbeddings(
            [vector.tolist() for vector in vectors] if "float" in kinds else UNSET,
            [base64.b64encode(pooled.data).decode() for pooled in results] if "base64" in kinds else UNSET,
            [signs(vector, signed=True) for vector in vectors] if "binary" in kinds else UNSET,
            [signs(vector, signed=False) for vector in vectors] if "ubinary" in kinds else UNSET,
        ),
        asked.texts,
        CohereMeta(CohereVersion(), CohereUnits(pool.prompt_tokens)),
    )
