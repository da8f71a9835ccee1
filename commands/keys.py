"""Makes and revokes the tenant's API keys, for administrators."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from commands.bodies import Body, examples
from commands.command_route import CommandContext, command_route
from infrastructure.access.api_key import MAX_EXPIRES_AT, MAX_NAME_LENGTH, ApiKey, CreatedApiKey, InvalidField, new_key
from infrastructure.access.principal import SCOPES
from infrastructure.event_log.log import utc_now
from infrastructure.http import shapes
from infrastructure.http.errors import ApiError

router = APIRouter()

NOT_REPEATABLE = "A key cannot be made with an `Idempotency-Key`: its secret is not kept for a repeat."


class CreateKey(Body):
    """A key of the administrator's own tenant. `scopes`: only scopes that the administrator has. `expires_at`: in seconds since 1970, UTC."""

    model_config = examples({"subject": "chat-backend", "scopes": ["read", "write", "reply"], "name": "The chat"})

    subject: Annotated[str, Field(min_length=1, max_length=255, examples=["chat-backend"])]
    scopes: Annotated[
        list[Annotated[str, Field(json_schema_extra={"enum": sorted(SCOPES)})]],
        Field(min_length=1, max_length=len(SCOPES)),
    ]
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)] | None = None
    expires_at: Annotated[int, Field(gt=0, le=MAX_EXPIRES_AT)] | None = None


@command_route(
    router, "POST", "/v1/keys", CreateKey, scope="admin", answer=CreatedApiKey, answer_headers=(), request_headers={}
)
async def create_key(context: CommandContext, body: CreateKey) -> Response:
    """Makes an API key. The answer shows its `secret`, which cannot be read again."""
    if context.idempotency is not None:
        raise ApiError(400, NOT_REPEATABLE, code="invalid_header", param="Idempotency-Key")
    principal = context.principal
    try:
        key = new_key(
            tenant=principal.tenant,
            subject=body.subject,
            scopes=body.scopes,
            name=body.name,
            expires_at=body.expires_at,
            now=utc_now(),
        )
    except InvalidField as error:
        raise ApiError(400, str(error), code="invalid_value", param=error.param) from error
    if lacking := [scope for scope in key.scopes if not principal.may(scope)]:
        message = f"You cannot give a key scopes that you do not have: {', '.join(map('`{}`'.format, lacking))}."
        raise ApiError(403, message, code="missing_scope", param="scopes")
    await context.dependencies.api_keys.add(key)
    return shapes.json_response(key)


@command_route(
    router, "DELETE", "/v1/keys/{key_id}", scope="admin", answer=ApiKey, answer_headers=(), request_headers={}
)
async def revoke_key(context: CommandContext, key_id: str) -> Response:
    """Revokes an API key of the tenant. Every process refuses it within 5 s. If it is revoked already, it stays as it is."""
    key = await context.dependencies.api_keys.revoke(key_id, context.principal.tenant)
    if key is None:
        raise ApiError(404, f"There is no API key {key_id}.", code="key_not_found", param="key_id")
    return shapes.json_response(key)
