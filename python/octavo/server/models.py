"""GET /v1/models and /v1/models/{id}."""

import msgspec
from aiohttp import web

from octavo.server.protocol import ModelCard, ModelList, ModelPermission
from octavo.server.service import SERVICE, Service


def card(service: Service, name: str) -> ModelCard:
    created = service.created
    return ModelCard(
        id=name,
        created=created,
        root=service.root,
        max_model_len=service.max_model_len,
        permission=[ModelPermission(id=f"modelperm-{name}", created=created)],
    )


async def list_models(request: web.Request) -> web.Response:
    """Every name that the model is served under."""
    service = request.app[SERVICE]
    models = ModelList([card(service, name) for name in service.names])
    return web.Response(body=msgspec.json.encode(models), content_type="application/json")


async def retrieve_model(request: web.Request) -> web.Response:
    """One name; a name may contain slashes."""
    service = request.app[SERVICE]
    name = service.model_name(request.match_info["name"])
    return web.Response(body=msgspec.json.encode(card(service, name)), content_type="application/json")
