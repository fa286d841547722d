"""POST /score and /rerank: how well texts go together.

A cross-encoder reads each pair as one prompt and gives its score. Of a model for embeddings the score is the cosine of
the two vectors, and each text is read once.
"""

from typing import Any

from aiohttp import web
from msgspec import UNSET

from octavo.pooling import PoolingParams, pair_up
from octavo.server.body import convert, read_object
from octavo.server.errors import ApiError
from octavo.server.pooling.fields import RERANK, SCORE
from octavo.server.pooling.inputs import cut, texts_of
from octavo.server.pooling.pool import Pool, choose_task, params_of
from octavo.server.pooling.protocol import (
    PairFields,
    RerankDocument,
    RerankRequest,
    RerankResponse,
    RerankResult,
    RerankUsage,
    Score,
    ScoreRequest,
    ScoreResponse,
)
from octavo.server.request_id import request_id
from octavo.server.service import SERVICE
from octavo.server.whole import json_answer

PAIRS_OF_NAMES = (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2"))


async def post_score(request: web.Request) -> web.Response:
    """How well each pair of texts goes together: one text with several, or each with the one of its number."""
    asked = convert(SCORE.check(await read_object(request)), ScoreRequest)
    pool, scores = await score(request, asked, *sides_of(asked), "score")
    data = [Score(index, value) for index, value in enumerate(scores)]
    return json_answer(ScoreResponse(pool.id, pool.created, pool.model, data, pool.usage))


async def post_rerank(request: web.Request) -> web.Response:
    """Documents by how well they go with a query, best first."""
    asked = convert(RERANK.check(await read_object(request)), RerankRequest)
    if isinstance(asked.query, list):
        raise ApiError(400, "query: must be one text.", "query")
    documents = texts_of("documents", asked.documents)
    pool, scores = await score(request, asked, ("query", asked.query), ("documents", asked.documents), "rerank")
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results = [
        RerankResult(index, scores[index], RerankDocument(documents[index]) if asked.return_documents else UNSET)
        for index in order[: asked.top_n or None]
    ]
    usage = RerankUsage(pool.prompt_tokens, pool.prompt_tokens)
    return json_answer(RerankResponse(pool.id, pool.model, usage, results))


def sides_of(asked: ScoreRequest) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """The names and values of the two sides. Raises ApiError 400 unless exactly one pair of names is there."""
    given = [names for names in PAIRS_OF_NAMES if any(getattr(asked, name) is not UNSET for name in names)]
    if len(given) != 1:
        spelled = ", or ".join(" and ".join(names) for names in PAIRS_OF_NAMES)
        raise ApiError(400, f"text_1: the texts must be in {spelled}.", "text_1")
    first, second = given[0]
    for name in (first, second):
        if getattr(asked, name) is UNSET:
            raise ApiError(400, f"{name}: is missing.", name)
    return (first, getattr(asked, first)), (second, getattr(asked, second))


async def score(
    request: web.Request, asked: PairFields, one: tuple[str, Any], other: tuple[str, Any], prefix: str
) -> tuple[Pool, list[float]]:
    """The score of each pair. Raises ApiError."""
    service = request.app[SERVICE]
    service.health.check_serving()
    model = service.model_name(asked.model)
    task = choose_task(service, "score", "embed")
    service.need_tokenizer()
    first, second = texts_of(*one), texts_of(*other)
    try:
        pairs = pair_up(len(first), len(second))
    except ValueError as error:
        raise ApiError(400, f"{other[0]}: {error}.", other[0]) from None
    params = params_of(service, asked, use_activation=asked.use_activation)
    first, second = await cut(service, asked, first, second)
    identity = f"{prefix}-{request_id(request, asked.request_id)}"
    with service.open_stream(asked.timeout) as stream:
        pool = Pool(service, stream, asked, id=identity, model=model, field=other[0])
        if task == "score":
            scores = await by_cross_encoder(pool, params, [(first[i], second[j]) for i, j in pairs])
        else:
            scores = await by_cosine(pool, params, first, second, pairs)
    pool.log(prefix, len(scores))
    return pool, scores


async def by_cross_encoder(pool: Pool, params: PoolingParams, pairs: list[tuple[str, str]]) -> list[float]:
    results = await pool.run(pairs, params.to_core("score"))
    from octavo.vectors import array_of

    return [float(array_of(pooled).flat[0]) for pooled in results]


async def by_cosine(
    pool: Pool, params: PoolingParams, first: list[str], second: list[str], pairs: list[tuple[int, int]]
) -> list[float]:
    results = await pool.run([*first, *second], params.to_core("embed"))
    from octavo.vectors import array_of, cosines

    vectors = [array_of(pooled) for pooled in results]
    return cosines(vectors[: len(first)], vectors[len(first) :], pairs)
