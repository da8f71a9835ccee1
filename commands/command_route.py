"""Routes of commands. A route makes a CommandContext. The handler appends its command through this context."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from datetime import timedelta
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter
from msgspec import Struct, structs
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from commands.content_intake import Contents, Keep, StagedBody, keep_contents, may_have_contents, stage_contents
from commands.open_sockets import OpenSockets
from commands.repeated_answers import without_deleted
from commands.unstored_replies import UnstoredReply
from context.assembly import Contexts, SharedContexts
from context.learnt_models import LearntModels
from context.models import Models
from domain.commands import Command
from domain.errors import ConversationNotFound, ModelFailed, Refused
from domain.events import ContextPolicy
from infrastructure.access.key_store import KeyStore
from infrastructure.access.principal import Principal, Scope
from infrastructure.contents.file_store import FileStore
from infrastructure.event_log.append_request import (
    Appended,
    AppendRequest,
    IdempotencyKey,
    KeyReused,
    LogUnavailable,
    VersionMismatch,
)
from infrastructure.event_log.command_size import command_bytes
from infrastructure.event_log.log import EventLog, utc_now
from infrastructure.event_log.reader import EventReader, FirstAnswer, PrincipalReader
from infrastructure.http import shapes
from infrastructure.http.body import (
    MAX_BODY_BYTES,
    MAX_READ_BYTES,
    check_content_type,
    parse_json,
    read_body,
    too_large,
    validate,
)
from infrastructure.http.door import principal_with
from infrastructure.http.errors import ApiError
from infrastructure.http.headers import command_headers, idempotency_key, if_match, position_headers
from infrastructure.http.large_bodies import LargeBodies
from infrastructure.http.limits import count_request
from infrastructure.http.openapi import DescribedRoute
from infrastructure.http.operations import (
    JSON,
    JSON_LINES,
    Operation,
    header_parameters,
    path_parameters,
    query_parameters,
)
from infrastructure.http.path_ids import id_names, path_ids
from infrastructure.http.query_parameters import QueryParameters, check_names
from infrastructure.ids import mint_uuid
from infrastructure.limits.allowance import Allowance
from infrastructure.limits.limiter import Limiter
from infrastructure.settings import ChatCompletionsStore
from infrastructure.tenant_defaults import PolicyFields, TenantDefaults
from replies.active_replies import ActiveReplies
from replies.following import ReplyStreams
from replies.queued_reply import ReplyQueue
from replies.running_reply import ReplyServices

if TYPE_CHECKING:  # the provider client is slow to import
    from replies.provider.provider import ModelProvider


class SharedDependencies(Struct, frozen=True, kw_only=True):
    """The dependencies that all handlers of a process share."""

    log: EventLog
    provider: "ModelProvider"
    models: Models
    learnt: LearntModels
    shared_contexts: SharedContexts
    keep_keys: timedelta
    """How long the first answer to an idempotency key is kept."""
    reply_services: ReplyServices
    active_replies: ActiveReplies
    reply_streams: ReplyStreams
    reply_queue: ReplyQueue
    sockets: OpenSockets
    api_keys: KeyStore
    files: FileStore
    large_bodies: LargeBodies
    limiter: Limiter
    comment_seconds: float
    """After this long without an event, a stream sends a comment."""
    tenant_defaults: Mapping[str, TenantDefaults]
    chat_completions_store: ChatCompletionsStore


class Dependencies(SharedDependencies, frozen=True, kw_only=True):
    """The dependencies of one request. `reader` reads only for its principal."""

    reader: PrincipalReader

    @property
    def contexts(self) -> Contexts:
        return self.shared_contexts.of(self.reader)


class ProcessDependencies(SharedDependencies, frozen=True, kw_only=True):
    """The dependencies of the process. `reader` reads all tenants."""

    reader: EventReader

    def of(self, principal: Principal) -> Dependencies:
        shared = {name: getattr(self, name) for name in SharedDependencies.__struct_fields__}
        return Dependencies(**shared, reader=self.reader.of(principal))


class CommandContext(Struct, frozen=True, kw_only=True):
    """What a handler knows of a request."""

    dependencies: Dependencies
    principal: Principal
    allowance: Allowance
    request_id: str
    if_match: frozenset[int] | None
    idempotency: IdempotencyKey | None
    disconnected: Callable[[], Awaitable[object]]
    """Returns when the client has disconnected. Call this only after the body was read."""
    unstored: UnstoredReply | None = None
    """The last reply of the client's socket, if that reply was not stored."""
    headers: Headers = Headers()

    def policy(self, given: PolicyFields | None = None) -> ContextPolicy:
        """The tenant's default context policy. The fields of `given` replace the policy's fields."""
        defaults = self.dependencies.tenant_defaults.get(self.principal.tenant)
        of_tenant = defaults.context_policy.applied_to(ContextPolicy()) if defaults else ContextPolicy()
        return given.applied_to(of_tenant) if given else of_tenant

    @property
    def contents(self) -> Contents:
        return Contents(self.principal, self.dependencies.reader, self.dependencies.files)

    async def append(
        self,
        conversation_id: str,
        command: Command,
        answer: Callable[[Appended], bytes] | None = None,
        *,
        only_at: int | None = None,
    ) -> Appended:
        """Appends the events of the command, and returns when they are durable.

        `answer` renders the body that is stored for repeats. `only_at`: the version that the conversation must have;
        ignored with If-Match.

        Raises the errors of EventLog.append. LogUnavailable has `outcome_unknown=False` if the client can repeat the
        request safely.
        """
        request = AppendRequest(
            principal=self.principal,
            conversation_id=conversation_id,
            command=command,
            command_id=mint_uuid(),
            correlation_id=self.request_id,
            size=command_bytes(command),
            if_match=frozenset({only_at}) if self.if_match is None and only_at is not None else self.if_match,
            idempotency=self.idempotency if answer is not None else None,
            answer=answer,
        )
        try:
            return await self.dependencies.log.append(request)
        except LogUnavailable as error:
            repeatable = self.if_match is not None or request.idempotency is not None
            raise LogUnavailable(outcome_unknown=error.outcome_unknown and not repeatable) from error

    async def execute(self, conversation_id: str, command: Command, answer: Callable[[Appended], bytes]) -> Response:
        """Appends the command, and answers. A repeat gets the first answer, without deleted content."""
        appended = await self.append(conversation_id, command, answer)
        body = appended.answer if appended.answer is not None else answer(appended)
        if appended.replayed:
            body = await without_deleted(self.dependencies.reader, appended.conversation.id, appended.version, body)
        return shapes.json_response(body, headers=command_headers(appended))

    async def first_answer(self) -> FirstAnswer | None:
        """The answer to the first request with this idempotency key, without deleted content. None if there was no
        such request.

        Raises KeyReused if that request differs from this one, and ConversationNotFound if the caller can no longer read the
        conversation.
        """
        if self.idempotency is None:
            return None
        reader = self.dependencies.reader
        since = utc_now() - self.dependencies.keep_keys
        first = await reader.first_answer(self.idempotency, since=since)
        if first is None:
            return None
        if await reader.readable_head(first.conversation_id) is None:
            raise ConversationNotFound(first.conversation_id)
        answer = await without_deleted(reader, first.conversation_id, first.version, first.answer)
        return structs.replace(first, answer=answer)

    async def repeated_answer(self) -> Response | None:
        """`first_answer` as a Response."""
        first = await self.first_answer()
        if first is None:
            return None
        headers = {**position_headers(first.position, first.version), "idempotent-replayed": "true"}
        return shapes.json_response(first.answer, headers=headers)


def command_context(
    connection: HTTPConnection,
    scope: Scope,
    body: bytes,
    disconnected: Callable[[], Awaitable[object]],
    unstored: UnstoredReply | None = None,
    *,
    allowance: Allowance,
) -> CommandContext:
    """Makes the context of a request, or of a WebSocket's message.

    `body`: the bytes that a repeat with the same idempotency key must send again. Raises ApiError and NotPermitted.
    """
    principal = principal_with(connection, scope)
    dependencies: ProcessDependencies = connection.app.state.dependencies
    return CommandContext(
        dependencies=dependencies.of(principal),
        principal=principal,
        allowance=allowance,
        request_id=connection.state.request_id,
        if_match=if_match(connection.headers),
        idempotency=idempotency_key(connection, body),
        disconnected=disconnected,
        unstored=unstored,
        headers=connection.headers,
    )


Model = TypeVar("Model", bound=BaseModel)
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Response]])

REQUEST_HEADERS = {
    "If-Match": "Entity tags of conversation versions, or `*`. If the conversation has another version, the answer is 412.",
    "Idempotency-Key": "A repeated request with the same key gets the first answer.",
}
APPEND_HEADERS = ("X-Position", "ETag", "Idempotent-Replayed")

ERRORS = (400, 401, 403, 409, 412, 413, 422, 429, 500, 503)
"""The status codes of errors that any command may have."""

REFUSALS = (ApiError, Refused, VersionMismatch, ModelFailed)
"""After one of these errors, a request's idempotency key is looked up again, because the first request with this key may have been
recorded meanwhile.
"""


def command_route(
    router: APIRouter,
    method: str,
    path: str,
    body: type[BaseModel] | None = None,
    *,
    scope: Scope = "write",
    query: type[QueryParameters] | None = None,
    body_required: bool = True,
    max_bytes: int = MAX_BODY_BYTES,
    streamed: bool = False,
    keeps_answer: bool = True,
    keep: Callable[[SharedDependencies, Any], Keep] = lambda _, __: "stored",
    body_media: str = JSON,
    answer: type,
    events: type | None = None,
    request_headers: Mapping[str, str] = REQUEST_HEADERS,
    answer_headers: tuple[str, ...] = APPEND_HEADERS,
    errors: tuple[int, ...] = (),
    error_bodies: Mapping[int, type] = MappingProxyType({}),
) -> Callable[[Handler], Handler]:
    """Registers the handler of a command. The caller needs `scope`.

    The handler gets the CommandContext, each id in the path, and the body or the query. With `body_required=False`,
    an empty body is None. With `streamed`, the handler gets an iterator over the body's chunks, and
    checks the type of a body that is not JSON lines.

    `max_bytes`: the maximum for a body without its images and files. `keep`: what happens to these images and files.

    `keeps_answer`: the answer that is stored with the idempotency key is the body that the client gets. A request that
    the handler refuses gets this answer, if another request with the key has stored one meanwhile.

    `errors`: status codes besides ERRORS. The arguments after `body_media` are only for the OpenAPI document.
    """
    names = id_names(path)

    def register(handler: Handler) -> Handler:
        async def endpoint(request: Request) -> Response:
            principal_with(request, scope)
            allowance = await count_request(request)
            if query is None and request.scope["query_string"]:
                check_names(request, lambda _: False)
            limit = max_bytes if max_bytes <= MAX_BODY_BYTES else MAX_READ_BYTES
            received = b"" if streamed else await read_body(request, limit)
            if isinstance(received, bytes):
                context, arguments, staged = await prepare(request, received, allowance)
            else:
                with closing(received):
                    dependencies: ProcessDependencies = request.app.state.dependencies
                    async with dependencies.large_bodies.turn():
                        context, arguments, staged = await prepare(request, received.read(), allowance)
            if body is not None and staged is not None:
                arguments.append(await validated(context, body, staged))
            answering = handler(context, *arguments)
            return await (_answer_of_first(context, answering) if keeps_answer else answering)

        async def prepare(
            request: Request, raw: bytes, allowance: Allowance
        ) -> tuple[CommandContext, list[Any], StagedBody | None]:
            arguments: list[Any] = [*path_ids(request, names)]
            context = command_context(
                request,
                scope,
                # The same idempotency key with another query is refused.
                raw if query is None else request.scope["query_string"],
                partial(_disconnected, request),
                allowance=allowance,
            )
            staged: StagedBody | None = None
            if query is not None:
                arguments.append(query.from_request(request))
            elif streamed:
                if body_media == JSON_LINES:
                    check_content_type(request.headers, lines=True)
                arguments.append(request.stream())
            elif body is not None:
                if raw:
                    check_content_type(request.headers)
                if raw or body_required:
                    parsed = parse_body(raw, max_bytes)
                    del raw
                    staged = await stage_body(context, parsed, max_bytes, keep)
                else:
                    arguments.append(None)
            return context, arguments, staged

        operation = Operation(
            parameters=(
                *path_parameters(names),
                *(query_parameters(query) if query is not None else ()),
                *header_parameters(request_headers),
            ),
            body=body,
            body_required=body_required,
            body_media=body_media,
            answer=answer,
            events=events,
            answer_headers=answer_headers,
            error_bodies=error_bodies,
            errors=tuple(sorted({*ERRORS, *((404,) if names else ()), *((415,) if body is not None else ()), *errors})),
        )
        router.routes.append(
            DescribedRoute(
                path,
                endpoint,
                method=method,
                name=handler.__name__,
                tag=_tag(path),
                description=inspect.getdoc(handler),
                operation=operation,
                scope=scope,
            )
        )
        return handler

    return register


class ParsedBody(Struct, frozen=True):
    """`size`: of its JSON text."""

    value: Any
    size: int
    may_have_contents: bool


def parse_body(raw: bytes, max_bytes: int) -> ParsedBody:
    """Raises ApiError (400, 413)."""
    has_contents = may_have_contents(raw)
    if len(raw) > max_bytes and not has_contents:
        raise too_large(max_bytes)
    return ParsedBody(parse_json(raw), len(raw), has_contents)


async def stage_body(
    context: CommandContext,
    parsed: ParsedBody,
    max_bytes: int,
    keep: Callable[[SharedDependencies, Any], Keep] = lambda _, __: "stored",
) -> StagedBody:
    """`max_bytes`: the maximum for what remains in the body. Raises ApiError (400, 413) and NoSpace."""
    if not parsed.may_have_contents:
        return StagedBody(parsed.value)
    kept = keep(context.dependencies, parsed.value)
    tenant = context.principal.tenant
    return await stage_contents(tenant, parsed.value, size=parsed.size, max_bytes=max_bytes, keep=kept)


async def validated(context: CommandContext, model: type[Model], staged: StagedBody) -> Model:
    """The body, with references in place of images and files. Raises ApiError (400, 404), and psycopg.Error."""
    return validate(model, await keep_contents(context.contents, staged))


def _tag(path: str) -> str:
    return next((tag for tag in ("items", "responses", "chat", "files", "keys") if f"/{tag}" in path), "conversations")


async def _answer_of_first(context: CommandContext, answering: Awaitable[Response]) -> Response:
    """A refused request gets the answer that another request with its idempotency key has stored meanwhile."""
    try:
        return await answering
    except REFUSALS:
        with suppress(KeyReused):
            if (repeated := await context.repeated_answer()) is not None:
                return repeated
        raise


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
