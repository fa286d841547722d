"""POST /v1/responses, and what may be done with stored ones: get, cancel, delete, list their input."""

import asyncio
import contextlib
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import web

from octavo.server.body import read_object
from octavo.server.connections import CONNECTIONS
from octavo.server.conversation import Conversation
from octavo.server.errors import ApiError, printable
from octavo.server.request_id import request_id
from octavo.server.responses.items import as_items
from octavo.server.responses.making import Making
from octavo.server.responses.protocol import DeletedResponse, ItemList, Response, ResponsesRequest
from octavo.server.responses.request import FIELDS, names_of, responses_request, to_chat
from octavo.server.responses.store import STORE, Store, Stored, encode
from octavo.server.route import Query, Route
from octavo.server.service import SERVICE
from octavo.server.stream import mid_stream_error, send
from octavo.server.whole import json_answer

NOT_STORED = "this server stores no responses: start it with --enable-responses-store"
MAX_LISTED = 100


async def post_response(request: web.Request) -> web.StreamResponse:
    """Answers a conversation of items, whole, streamed, or in the background."""
    service, store = request.app[SERVICE], request.app[STORE]
    service.health.check_serving()
    asked = responses_request(await read_object(request))
    model = service.model_name(asked.model)
    stored = check_store(asked, store)
    items = [*earlier(asked, store), *as_items(asked.input)]
    template = service.template
    chat = to_chat(asked, items, knows_developer=template is not None and "developer" in template.source)
    # What is stored is found by its id: one that nobody can guess, nor choose twice.
    identity = f"resp_{uuid4().hex if stored else request_id(request, asked.request_id)}"
    kept = encode(items) if stored else b""

    def done(response: Response) -> None:
        if stored:
            store.put(identity, Stored(encode(response), kept, encode(response.output)))

    with names_of(asked).of_client(), contextlib.ExitStack() as streams:
        stream = streams.enter_context(service.open_stream(None))
        # Here the limit is an upper bound: an answer may end at the context's end before.
        conversation = await Conversation.start(service, chat, stream, id=identity, model=model, clamp_max_tokens=True)
        making = Making(asked, conversation, stored=stored, done=done)
        making.answer.log_start("response", request.remote)
        if asked.background:
            return begin_background(request, making, kept, streams.pop_all())
        if asked.stream:
            return await send(request, making.answer, making)
        return json_answer(await making.whole())


def check_store(asked: ResponsesRequest, store: Store) -> bool:
    """Whether the answer is stored: unless the client declines, where this server stores any. Raises ApiError 400."""
    stored = store.enabled and asked.store is not False
    if asked.background and not stored:
        why = NOT_STORED if not store.enabled else "needs store to be true"
        raise ApiError(400, f"background: {why}.", "background")
    if asked.background and asked.stream:
        raise ApiError(400, "background: cannot be combined with stream.", "background")
    return stored


def earlier(asked: ResponsesRequest, store: Store) -> list[dict[str, Any]]:
    """The conversation that the request goes on with. Raises ApiError 400 or 404."""
    name = asked.previous_response_id
    if name is None:
        return []
    if not store.enabled:
        raise ApiError(400, f"previous_response_id: {NOT_STORED}.", "previous_response_id")
    previous = store.get(name)
    if previous is None:
        raise ApiError(404, f"There is no stored response {printable(name)!r}.", "previous_response_id")
    if previous.task is not None:
        raise ApiError(400, "previous_response_id: this response is still being made.", "previous_response_id")
    return previous.conversation()


def begin_background(
    request: web.Request, making: Making, kept: bytes, streams: contextlib.ExitStack
) -> web.StreamResponse:
    """Answers at once that the response is being made; a task goes on with it, and `streams` are its own."""
    store, connections = request.app[STORE], request.app[CONNECTIONS]
    name = making.response.id

    async def work() -> None:
        try:
            await making.whole()
        except asyncio.CancelledError:
            cancelled = msgspec.structs.replace(making.response, status="cancelled")
            store.put(name, Stored(encode(cancelled), kept, b"[]"))
            raise
        except Exception as error:
            making.fail(mid_stream_error(error).message)

    def ended(_: asyncio.Task[None]) -> None:
        streams.close()
        connections.end(True)

    stored = Stored(encode(making.response), kept, b"[]")
    stored.task = asyncio.get_running_loop().create_task(work())
    # A server that is told to end waits for this as for a request.
    connections.hold(True)
    stored.task.add_done_callback(ended)
    store.put(name, stored)
    return json_answer(making.response)


async def get_response(request: web.Request) -> web.Response:
    """A stored response; one that is made in the background as far as it is."""
    if request.query.get("stream", "false").lower() not in ("false", "0") or "starting_after" in request.query:
        raise ApiError(400, "stream: a stored response is not streamed again.", "stream")
    if "include" in request.query or "include[]" in request.query:
        raise ApiError(400, "include: a stored response has what was included when it was made.", "include")
    return as_json(find(request).response)


async def cancel_response(request: web.Request) -> web.Response:
    """Ends a response that is made in the background."""
    stored = find(request)
    if not msgspec.json.decode(stored.response)["background"]:
        raise ApiError(400, "Only a response made in the background can be cancelled.", "response_id")
    if stored.task is not None:
        stored.task.cancel()
        await asyncio.wait([stored.task])
    return as_json(find(request).response)


async def delete_response(request: web.Request) -> web.Response:
    """Forgets a stored response, and ends it where it is still being made."""
    stored = find(request)
    if stored.task is not None:
        stored.task.cancel()
        await asyncio.wait([stored.task])
    name = request.match_info["response_id"]
    request.app[STORE].delete(name)
    return json_answer(DeletedResponse(name))


async def list_input_items(request: web.Request) -> web.Response:
    """The items that a stored response answers, a page at a time."""
    query = request.query
    for name in query:
        if name not in ("limit", "order", "after"):
            raise ApiError(400, f"{printable(name)}: this parameter is not known here.", printable(name))
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= MAX_LISTED:
        raise ApiError(400, f"limit: must be 1 to {MAX_LISTED}.", "limit")
    if order not in ("asc", "desc"):
        raise ApiError(400, "order: must be asc or desc.", "order")
    items = shown_items(msgspec.json.decode(find(request).items))
    if order == "desc":
        items.reverse()
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ApiError(400, f"after: there is no item {printable(after)!r}.", "after")
        items = items[places[0] + 1 :]
    page = items[: int(limit)]
    ids = [item["id"] for item in page] or [None]
    return json_answer(ItemList(page, ids[0], ids[-1], has_more=len(items) > len(page)))


def shown_items(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as the API lists them: with an id, and a message's content as parts."""
    shown = []
    for index, item in enumerate(items):
        whole: dict[str, Any] = {"id": f"item_{index}", "type": "message", "status": "completed", **item}
        if isinstance(whole.get("content"), str):
            part: dict[str, Any] = {"type": "input_text", "text": whole["content"]}
            if whole.get("role") == "assistant":
                part = {"type": "output_text", "text": whole["content"], "annotations": []}
            whole["content"] = [part]
        shown.append(whole)
    return shown


def find(request: web.Request) -> Stored:
    """Raises ApiError 404."""
    store, name = request.app[STORE], request.match_info["response_id"]
    stored = store.get(name)
    if stored is None:
        why = "" if store.enabled else f" {NOT_STORED[0].upper()}{NOT_STORED[1:]}."
        raise ApiError(404, f"There is no stored response {printable(name)!r}.{why}", "response_id")
    return stored


def as_json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


RESPONSES_ROUTES = (
    Route(
        "POST",
        "/v1/responses",
        post_response,
        request=ResponsesRequest,
        fields=FIELDS,
        answer=Response,
        events=True,
    ),
    Route("GET", "/v1/responses/{response_id}", get_response, answer=Response),
    Route("DELETE", "/v1/responses/{response_id}", delete_response, answer=DeletedResponse),
    Route("POST", "/v1/responses/{response_id}/cancel", cancel_response, answer=Response),
    Route(
        "GET",
        "/v1/responses/{response_id}/input_items",
        list_input_items,
        answer=ItemList,
        query=(
            Query("limit", {"type": "integer", "minimum": 1, "maximum": 100}),
            Query("order", {"enum": ["asc", "desc"]}),
            Query("after", {"type": "string"}),
        ),
    ),
)
