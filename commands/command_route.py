"""How a verb is served: its request becomes a caller, ids and a body, each checked, and its handler gets them.

FastAPI describes the routes (`/docs`); that its dependencies are not asked at each request is a third of an append's time.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from commands.command_context import CommandContext
from infrastructure.access.principal import DEFAULT
from infrastructure.http.app import DirectRoute
from infrastructure.http.body import MAX_BODY_BYTES, read, validated
from infrastructure.http.headers import idempotency, if_match
from infrastructure.http.paths import checked
from infrastructure.ids import CONVERSATION, RESPONSE

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Response]])

_PREFIXES = {"conversation_id": CONVERSATION, "item_id": None, "response_id": RESPONSE}
_HEADERS = {"If-Match": "Versions the command may be decided on.", "Idempotency-Key": "Makes the command repeatable."}


def command_router() -> APIRouter:
    """The router of one file of routes; `main.py` includes it."""
    return APIRouter(route_class=DirectRoute)


def command_route(
    router: APIRouter,
    method: str,
    path: str,
    body: type[BaseModel] | None = None,
    *,
    optional: bool = False,
    largest: int = MAX_BODY_BYTES,
    streamed: bool = False,
) -> Callable[[Handler], Handler]:
    """Registers the decorated handler in `router`.

    The handler is called with the CommandContext, each id in the path, and the body: None where it is `optional` and there is none,
    its chunks as they arrive where it is `streamed`.
    """
    names = re.findall(r"{(\w+)}", path)

    def register(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            raw = b"" if streamed else await read(request, largest)
            context = CommandContext(
                dependencies=request.app.state.dependencies,
                principal=DEFAULT,
                request_id=request.scope["state"]["request_id"],
                if_match=if_match(request.headers),
                idempotency=idempotency(request, raw),
                disconnected=partial(_disconnected, request),
            )
            given: list[Any] = [checked(request.path_params[name], _PREFIXES[name], name) for name in names]
            if body is not None:
                given.append(None if optional and not raw else validated(body, raw))
            if streamed:
                given.append(request.stream())
            return await handler(context, *given)

        tag = "items" if "/items" in path else "responses" if "/responses" in path else "conversations"
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=handler.__name__,
            tags=[tag],
            description=handler.__doc__,
            openapi_extra=_described(names, body, optional=optional),
        )
        return handler

    return register


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _described(names: Sequence[str], body: type[BaseModel] | None, *, optional: bool) -> dict[str, Any]:
    """What FastAPI can not read off the endpoint: ids, headers and the body."""
    text = {"type": "string"}
    described: dict[str, Any] = {
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": text} for name in names),
            *({"name": name, "in": "header", "schema": text, "description": said} for name, said in _HEADERS.items()),
        ]
    }
    if body is not None:
        content = {"application/json": {"schema": _inlined(body.model_json_schema())}}
        described["requestBody"] = {"required": not optional, "content": content}
    return described


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its own definitions where they are named: an operation of OpenAPI has no place for them."""
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if (name := value.get("$ref")) is not None:
                return inline(definitions[name.rpartition("/")[2]])
            return {key: inline(inner) for key, inner in value.items()}
        return [inline(inner) for inner in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(schema)
    return inlined
