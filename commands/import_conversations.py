"""POST /v1/import: conversations as JSON lines, any number of them, through the same rules as everything else.

A line is `{"metadata", "title", "instructions", "context_policy", "items": [...]}`, with any number of items. Lines are
read as they come, and a bounded number of them is under way at a time. A line that is refused is reported, and the rest goes
on. With an `Idempotency-Key` a repeat of the import adds only what the first one did not get to.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

from fastapi import APIRouter
from msgspec import Struct
from msgspec.structs import replace
from starlette.responses import Response

from commands.bodies import Body, Instructions, Metadata, Policy, Title, new_items
from commands.command_context import CommandContext
from commands.command_route import command_route
from domain.commands import AppendItems, NewItem, StartConversation
from domain.events import ContextPolicy
from infrastructure.event_log.append_request import Appended, IdempotencyKey
from infrastructure.http import shapes
from infrastructure.http.body import MAX_BATCH_BYTES, validate_body
from infrastructure.http.errors import ApiError, as_api_error
from infrastructure.ids import CONVERSATION, mint

router = APIRouter()

LINES_AT_ONCE = 32
LINE_BYTES_AT_ONCE = MAX_BATCH_BYTES
"""Of the lines under way: each takes about ten times its size while it is."""

ITEMS_AT_ONCE = 200
BYTES_AT_ONCE = 1024 * 1024
MAX_ERRORS = 100


class ImportedConversation(Body):
    items: list[Any] | None = None
    metadata: Metadata | None = None
    title: Title | None = None
    instructions: Instructions | None = None
    context_policy: Policy | None = None


class Report(Struct):
    """What became of an import so far. `errors` has the first MAX_ERRORS; `failed` counts all."""

    conversations: int = 0
    items: int = 0
    failed: int = 0
    errors: list[dict[str, Any]] = []


@command_route(router, "POST", "/v1/import", streamed=True)
async def import_conversations(context: CommandContext, body: AsyncIterator[bytes]) -> Response:
    """Answers when all is durable: `{object: "import", conversations, items, failed, errors: [{line, error}]}`."""
    report = Report(errors=[])
    under_way: dict[asyncio.Task[None], int] = {}

    async def take(number: int, line: bytes) -> None:
        try:
            items = await _import_line(context, number, line)
            report.items += items
            report.conversations += 1
        except Exception as error:  # noqa: BLE001 - what is wrong with a line is told of that line
            report.failed += 1
            if len(report.errors) < MAX_ERRORS:
                report.errors.append({"line": number, **as_api_error(error).body()})

    async for number, line in _lines(body):
        while _is_full(under_way.values(), len(line)):
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(take(number, line))
        under_way[task] = len(line)
        task.add_done_callback(under_way.pop)
    await asyncio.gather(*under_way)
    report.errors.sort(key=lambda error: int(error["line"]))
    return shapes.json_response(shapes.encode({"object": "import", **_fields(report)}))


def _is_full(under_way: Collection[int], size: int) -> bool:
    """Whether a line of this size has to wait for those under way; the first never does."""
    return len(under_way) >= LINES_AT_ONCE or (bool(under_way) and sum(under_way) + size > LINE_BYTES_AT_ONCE)


async def _import_line(context: CommandContext, number: int, line: bytes) -> int:
    """Makes one conversation durable, in as many commands as it takes, and returns how many items it has."""
    if len(line) > MAX_BATCH_BYTES:
        raise ApiError(413, f"The line is larger than {MAX_BATCH_BYTES} bytes.", code="request_too_large")
    asked = validate_body(ImportedConversation, line)
    chunks = _chunks(new_items(asked.items or []))
    conversation_id = mint(CONVERSATION)
    start = StartConversation(
        conversation_id=conversation_id,
        tenant=context.principal.tenant,
        owner=context.principal.subject,
        title=asked.title,
        instructions=asked.instructions,
        metadata=asked.metadata or {},
        context_policy=asked.context_policy.as_event() if asked.context_policy else ContextPolicy(),
        items=next(chunks),
    )
    first = await _keyed(context, number, 0, line).append(conversation_id, start, _remember)
    conversation_id = first.answer.decode() if first.answer is not None else conversation_id
    for part, items in enumerate(chunks, 1):
        command = AppendItems(items=items, author=context.principal.subject)
        await _keyed(context, number, part, line).append(conversation_id, command, _remember)
    return len(asked.items or [])


def _keyed(context: CommandContext, number: int, part: int, line: bytes) -> CommandContext:
    """The caller with the key of one command of one line; without one where the import has none."""
    if context.idempotency is None:
        return context
    key = IdempotencyKey(f"{context.idempotency.key}\n{number}.{part}", shapes.sha256(line))
    return replace(context, idempotency=key)


def _remember(appended: Appended) -> bytes:
    return appended.conversation.id.encode()


def _chunks(items: tuple[NewItem, ...]) -> Iterator[tuple[NewItem, ...]]:
    """The items in portions that fit a batch; at least one, though it may be empty."""
    chunk: list[NewItem] = []
    size = 0
    for new in items:
        if chunk and (len(chunk) == ITEMS_AT_ONCE or size + len(new.item) > BYTES_AT_ONCE):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(new)
        size += len(new.item)
    yield tuple(chunk)


async def _lines(body: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1; of one too long, no more than proves it."""
    number = 1
    line = bytearray()
    async for piece in body:
        *whole, rest = piece.split(b"\n")
        for end in whole:
            _grow(line, end)
            if line.strip():
                yield number, bytes(line)
            line.clear()
            number += 1
        _grow(line, rest)
    if line.strip():
        yield number, bytes(line)


def _grow(line: bytearray, piece: bytes) -> None:
    line += piece[: MAX_BATCH_BYTES + 1 - len(line)]


def _fields(report: Report) -> dict[str, Any]:
    return {
        "conversations": report.conversations,
        "items": report.items,
        "failed": report.failed,
        "errors": report.errors,
    }
