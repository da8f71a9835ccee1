"""How a command is served: its request becomes a CommandContext, ids and a body, each checked, and the handler receives them."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from commands.command_context import CommandContext
from infrastructure.access.principal import DEFAULT
from infrastructure.http.body import MAX_BODY_BYTES, read_body, validate_body
from infrastructure.http.headers import idempotency_key, if_match
from infrastructure.http.openapi import parameters, request_body
from infrastructure.http.path_ids import id_names, path_ids

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Response]])

_HEADERS = {
    "If-Match": "The versions of the conversation that the command may be decided on.",
    "Idempotency-Key": "A repeat with the same key is answered with the first answer.",
}


def command_route(
    router: APIRouter,
    method: str,
    path: str,
    body: type[BaseModel] | None = None,
    *,
    body_required: bool = True,
    max_bytes: int = MAX_BODY_BYTES,
    streamed: bool = False,
) -> Callable[[Handler], Handler]:
    """Registers the handler of a command.

    The handler is called with the CommandContext, each id in the path, and the body: None when it is not required and empty,
    an iterator over its chunks when it is `streamed`.
    """
    names = id_names(path)

    def register(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            raw = b"" if streamed else await read_body(request, max_bytes)
            context = CommandContext(
                dependencies=request.app.state.dependencies,
                principal=DEFAULT,
                request_id=request.state.request_id,
                if_match=if_match(request.headers),
                idempotency=idempotency_key(request, raw),
                disconnected=partial(_disconnected, request),
            )
            arguments: list[Any] = [*path_ids(request.path_params, names)]
            if body is not None:
                arguments.append(validate_body(body, raw) if raw or body_required else None)
            if streamed:
                arguments.append(request.stream())
            return await handler(context, *arguments)

        described: dict[str, Any] = {"parameters": parameters(names, _HEADERS)}
        if body is not None:
            described["requestBody"] = request_body(body, required=body_required)
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=handler.__name__,
            tags=[_tag(path)],
            description=handler.__doc__,
            openapi_extra=described,
        )
        return handler

    return register


def _tag(path: str) -> str:
    return "items" if "/items" in path else "responses" if "/responses" in path else "conversations"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
