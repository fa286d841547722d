"""The routes of models that pool, and /invocations, which serves any model by the shape of its body."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from octavo.server.body import read_object
from octavo.server.chat import post_chat_completion
from octavo.server.completions import post_completion
from octavo.server.errors import ApiError
from octavo.server.pooling import fields
from octavo.server.pooling.classify import post_classify
from octavo.server.pooling.embeddings import post_cohere_embed, post_embeddings, post_pooling
from octavo.server.pooling.protocol import (
    ClassificationRequest,
    ClassificationResponse,
    CohereEmbedRequest,
    CohereEmbedResponse,
    EmbeddingRequest,
    EmbeddingResponse,
    PoolingRequest,
    PoolingResponse,
    RerankRequest,
    RerankResponse,
    ScoreRequest,
    ScoreResponse,
)
from octavo.server.pooling.scoring import PAIRS_OF_NAMES, post_rerank, post_score
from octavo.server.protocol import Invocation
from octavo.server.route import Handler, Route
from octavo.server.service import SERVICE, Service


async def post_invocation(request: web.Request) -> web.StreamResponse:
    """SageMaker's one route: the request is taken by the route that its fields belong to."""
    body = await read_object(request)
    return await handler_for(body, request.app[SERVICE])(request)


def handler_for(body: Mapping[str, Any], service: Service) -> Handler:
    """Raises ApiError 400 for a body that no route takes."""
    if "query" in body and "documents" in body:
        return post_rerank
    if any(first in body and second in body for first, second in PAIRS_OF_NAMES):
        return post_score
    if "input" in body or ("messages" in body and service.pooling.tasks):
        if "embed" in service.pooling.tasks or not service.pooling.tasks:
            return post_embeddings
        return post_classify if {"classify", "score"} & service.pooling.tasks else post_pooling
    if "messages" in body:
        return post_chat_completion
    if "prompt" in body:
        return post_completion
    raise ApiError(400, "The body has none of messages, prompt, input, query and documents, text_1 and text_2.")


EMBEDDINGS: dict[str, Any] = {"request": EmbeddingRequest, "fields": fields.EMBEDDING, "answer": EmbeddingResponse}
SCORE: dict[str, Any] = {"request": ScoreRequest, "fields": fields.SCORE, "answer": ScoreResponse}
RERANK: dict[str, Any] = {"request": RerankRequest, "fields": fields.RERANK, "answer": RerankResponse}

POOLING_ROUTES = (
    Route("POST", "/v1/embeddings", post_embeddings, **EMBEDDINGS),
    Route(
        "POST",
        "/v2/embed",
        post_cohere_embed,
        request=CohereEmbedRequest,
        fields=fields.COHERE,
        answer=CohereEmbedResponse,
    ),
    Route("POST", "/pooling", post_pooling, request=PoolingRequest, fields=fields.POOLING, answer=PoolingResponse),
    Route(
        "POST",
        "/classify",
        post_classify,
        request=ClassificationRequest,
        fields=fields.CLASSIFICATION,
        answer=ClassificationResponse,
    ),
    Route("POST", "/score", post_score, **SCORE),
    Route("POST", "/v1/score", post_score, **SCORE),
    Route("POST", "/rerank", post_rerank, **RERANK),
    Route("POST", "/v1/rerank", post_rerank, **RERANK),
    Route("POST", "/v2/rerank", post_rerank, **RERANK),
    Route("POST", "/invocations", post_invocation, request=Invocation, answer=dict[str, Any], events=True),
)
