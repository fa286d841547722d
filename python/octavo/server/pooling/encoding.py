"""How pooled numbers are written: as JSON, as base64, or as a body of bytes."""

import asyncio
import base64
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from octavo._core import Pooled
from octavo.server.errors import ApiError
from octavo.server.pooling.pool import LARGE_ANSWER, Pool
from octavo.server.pooling.protocol import BytesItem, BytesMetadata, EncodedFields

T = TypeVar("T")


def check_encoding(asked: EncodedFields) -> None:
    """Raises ApiError 400 for a way of writing bytes where none are written."""
    if asked.encoding_format == "float":
        if asked.embed_dtype != "float32":
            raise ApiError(400, "embed_dtype: needs encoding_format base64 or bytes.", "embed_dtype")
        if asked.endianness != "native":
            raise ApiError(400, "endianness: needs encoding_format base64 or bytes.", "endianness")


async def answer(results: list[Pooled], make: Callable[[], T]) -> T:
    """What `make` makes of the results: beside the event loop where there is much to write."""
    numbers = sum(len(pooled.data) for pooled in results[:1]) * len(results) // 4
    return await asyncio.to_thread(make) if numbers >= LARGE_ANSWER else make()


def written(pooled: Pooled, asked: EncodedFields) -> Any:
    """For JSON: nested lists of numbers, or base64."""
    from octavo.vectors import array_of, to_bytes

    values = array_of(pooled)
    if asked.encoding_format == "float":
        return values.tolist()
    return base64.b64encode(to_bytes(values, asked.embed_dtype, asked.endianness)).decode()


def bytes_response(pool: Pool, results: list[Pooled], asked: EncodedFields) -> web.Response:
    """All numbers one after the other; with `bytes` a header says which are whose."""
    from octavo.vectors import array_of, to_bytes

    bodies = [to_bytes(array_of(pooled), asked.embed_dtype, asked.endianness) for pooled in results]
    headers = {}
    if asked.encoding_format == "bytes":
        items, start = [], 0
        order = sys.byteorder if asked.endianness == "native" else asked.endianness
        for index, (pooled, body) in enumerate(zip(results, bodies, strict=True)):
            end = start + len(body)
            items.append(BytesItem(index, asked.embed_dtype, order, start, end, list(pooled.shape)))
            start = end
        metadata = BytesMetadata(pool.id, pool.created, pool.model, items, pool.usage)
        headers["metadata"] = msgspec.json.encode(metadata).decode()
    return web.Response(body=b"".join(bodies), content_type="application/octet-stream", headers=headers)
