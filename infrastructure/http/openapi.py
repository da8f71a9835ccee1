"""Makes the OpenAPI document of each API, and combines both."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from infrastructure.access.principal import Scope
from infrastructure.http.operations import Operation, components

TITLE = "Conversation Store"
VERSION = "0.1.0"
DESCRIPTION = (
    "An event-sourced store for conversations with language models. The resources and shapes are those of the OpenAI Conversations and "
    "Responses APIs, so that official clients work when their base URL is changed. What this store adds is on the same resources."
)
SERVERS = [{"url": "/", "description": "The server that this document comes from."}]

Endpoint = Callable[[Request], Awaitable[Response]]


class DescribedRoute(APIRoute):
    """A route that FastAPI describes but never serves. `scope` None: no credential needed."""

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        method: str,
        name: str,
        tag: str,
        description: str | None,
        operation: Operation,
        scope: Scope | None = None,
    ) -> None:
        super().__init__(
            path,
            endpoint,
            methods=[method],
            name=name,
            operation_id=name,
            tags=[tag],
            description=description,
            response_class=Response,
            openapi_extra=operation.described(),
        )
        self.operation = operation
        self.scope = scope


def document_of(title: str, routes: Sequence[APIRoute]) -> dict[str, Any]:
    document = get_openapi(title=title, version=VERSION, description=DESCRIPTION, servers=SERVERS, routes=routes)
    operations = [route.operation for route in routes if isinstance(route, DescribedRoute)]
    return {**document, "components": components(operations), "security": [{"bearer": []}, {}]}


def combined(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """A path that is in several documents gets the methods of all these documents."""
    merged: dict[str, Any] = {}
    for document in documents:
        if not merged:
            merged = {**document, "info": {**document["info"], "title": TITLE}, "paths": {}, "components": {}}
        for path, operations in document["paths"].items():
            merged["paths"].setdefault(path, {}).update(operations)
        for component_type, of_type in document.get("components", {}).items():
            merged["components"].setdefault(component_type, {}).update(of_type)
    return merged
