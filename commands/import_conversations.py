"""POST /v1/import: imports conversations from JSON lines, which are read as they arrive.

With an `Idempotency-Key`, a repeat adds only what the first import did not add.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import closing

import structlog
from fastapi import APIRouter
from msgspec import Struct, structs
from msgspec.structs import replace
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from commands.bodies import Body, Instructions, Metadata, Policy, Title, examples, new_items
from commands.command_route import CommandContext, command_route, parse_body, stage_body, validated
from commands.content_intake import StagedBody
from domain.commands import AppendItems, NewItem, StartConversation
from infrastructure.event_log.append_request import Appended, IdempotencyKey
from infrastructure.http import shapes
from infrastructure.http.body import LARGE_BODY_BYTES, MAX_ITEMS_BODY_BYTES, MAX_READ_BYTES, LargeBody
from infrastructure.http.errors import ApiError, ErrorDetail, as_api_error
from infrastructure.http.item_schemas import InputItemJson
from infrastructure.http.operations import JSON_LINES
from infrastructure.ids import CONVERSATION, mint

log = structlog.get_logger(__name__)
router = APIRouter()

MAX_CONCURRENT_LINES = 32
MAX_CONCURRENT_BYTES = MAX_ITEMS_BODY_BYTES
"""A line takes about ten times its size in memory."""

MAX_COMMAND_ITEMS = 200
MAX_COMMAND_BYTES = 1024 * 1024
MAX_ERRORS = 100
LINES_PER_TURN = 500
"""After this many lines, blank ones included, other requests are served."""


class ImportedConversation(Body):
    """A line: one conversation, with any number of items."""

    model_config = examples({"title": "Oslo", "items": [{"role": "user", "content": "Hello!"}]})

    items: list[InputItemJson] | None = None
    metadata: Metadata | None = None
    title: Title | None = None
    instructions: Instructions | None = None
    context_policy: Policy | None = None


class LineError(Struct, frozen=True):
    """A line that was not imported, and why. `line`: its number, from 1."""

    line: int
    error: ErrorDetail


class ImportReport(Struct, frozen=True, kw_only=True, tag_field="object", tag="import"):
    """How many conversations and items were imported, and how many lines failed. `errors`: the first 100 errors."""

    conversations: int
    items: int
    failed: int
    errors: list[LineError]


class FailedImport(ImportReport, frozen=True, kw_only=True, tag_field="object", tag="import"):
    """The answer if there are lines and none was imported. `error` says why."""

    error: ErrorDetail


class Progress(Struct):
    """What was imported so far.

    `failure` gives the status of the answer if no line was imported. The most severe failure of this store wins.
    Refusals with different statuses become a 400.
    """

    conversations: int = 0
    items: int = 0
    failed: int = 0
    errors: list[LineError] = []
    failure: ApiError | None = None

    def refuse(self, line_number: int, error: Exception) -> None:
        api_error = as_api_error(error)
        self.failed += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(LineError(line_number, api_error.body().error))
        if self.failure is None or _severity(api_error) > _severity(self.failure):
            self.failure = api_error
        elif api_error.status < 500 and api_error.status != self.failure.status < 500:
            self.failure = ApiError(400, "")

    def answer(self) -> Response:
        """Returns the report. If lines failed and none was imported, returns an error with the same fields."""
        errors = sorted(self.errors, key=lambda error: error.line)
        report = ImportReport(conversations=self.conversations, items=self.items, failed=self.failed, errors=errors)
        if self.failure is None or self.conversations:
            return shapes.json_response(report)
        message = f"No line was imported; {self.failed} failed. Line {errors[0].line}: {errors[0].error.message}"
        code = self.failure.code if self.failure.status >= 500 else "nothing_imported"
        error = ApiError(self.failure.status, message, code=code, retry=self.failure.retry)
        return error.response(FailedImport(**structs.asdict(report), error=error.body().error))


def _severity(error: ApiError) -> int:
    """0 for a refusal, 1 for a failure after which a retry can help, 2 for other failures."""
    return 0 if error.status < 500 else 1 if error.retry else 2


@command_route(
    router,
    "POST",
    "/v1/import",
    ImportedConversation,
    streamed=True,
    body_media=JSON_LINES,
    answer=ImportReport,
    answer_headers=(),
    error_bodies=dict.fromkeys((400, 409, 413, 422, 500, 503), FailedImport),
)
async def import_conversations(context: CommandContext, body: AsyncIterator[bytes]) -> Response:
    """Answers when everything is durable: `{object: "import", conversations, items, failed, errors: [{line, error}]}`.

    If there are lines and none could be imported, the answer is an error, with the same fields beside `error`: a 5xx if this store
    failed, otherwise a 4xx.
    """
    report = Progress()
    importing: dict[asyncio.Task[None], int] = {}

    async def import_and_report(line_number: int, line: bytes | LargeBody) -> None:
        try:
            items = await _import_line(context, line_number, line)
            report.items += items
            report.conversations += 1
        except Exception as error:  # noqa: BLE001 - an error is reported for its line
            report.refuse(line_number, error)

    lines = _lines(body)
    try:
        async for line_number, line in lines:
            if line is None:
                message = f"The line is larger than {MAX_READ_BYTES} bytes."
                report.refuse(line_number, ApiError(413, message, code="request_too_large"))
                continue
            size = line.size if isinstance(line, LargeBody) else len(line)
            while _is_full(importing.values(), size):
                await asyncio.wait(importing, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(import_and_report(line_number, line))
            importing[task] = size
            task.add_done_callback(importing.pop)
            await asyncio.sleep(0)  # other requests are served between two lines
    except ClientDisconnect as error:
        raise ApiError(400, "The client disconnected before its import was complete.", code="client_closed") from error
    finally:
        await lines.aclose()
        await asyncio.gather(*importing)  # lines whose import has begun are finished, also after an error
        log.info("import_ended", conversations=report.conversations, items=report.items, failed=report.failed)
    return report.answer()


def _is_full(importing: Collection[int], size: int) -> bool:
    """A line never waits when no other line is being imported."""
    return len(importing) >= MAX_CONCURRENT_LINES or (bool(importing) and sum(importing) + size > MAX_CONCURRENT_BYTES)


async def _import_line(context: CommandContext, line_number: int, line: bytes | LargeBody) -> int:
    if isinstance(line, LargeBody):
        with closing(line):
            async with context.dependencies.large_bodies.turn():
                staged, line_hash = await _read_line(context, line.read())
    else:
        staged, line_hash = await _read_line(context, line)
    body = await validated(context, ImportedConversation, staged)
    chunks = _chunks(new_items(body.items or []))
    conversation_id = mint(CONVERSATION)
    start = StartConversation(
        conversation_id=conversation_id,
        tenant=context.principal.tenant,
        owner=context.principal.subject,
        title=body.title,
        instructions=body.instructions,
        metadata=body.metadata or {},
        context_policy=context.policy(body.context_policy),
        items=next(chunks),
    )
    started = await _keyed(context, line_number, 0, line_hash).append(conversation_id, start, _conversation_id)
    conversation_id = started.answer.decode() if started.answer is not None else conversation_id
    for chunk_number, items in enumerate(chunks, 1):
        command = AppendItems(items=items, author=context.principal.subject)
        await _keyed(context, line_number, chunk_number, line_hash).append(conversation_id, command, _conversation_id)
    return len(body.items or [])


async def _read_line(context: CommandContext, line: bytes) -> tuple[StagedBody, bytes]:
    """The conversation, and the line's SHA-256."""
    line_hash = shapes.sha256(line)
    parsed = parse_body(line, MAX_ITEMS_BODY_BYTES)
    del line
    return await stage_body(context, parsed, MAX_ITEMS_BODY_BYTES), line_hash


def _keyed(context: CommandContext, line_number: int, chunk_number: int, line_hash: bytes) -> CommandContext:
    if context.idempotency is None:
        return context
    key = IdempotencyKey(f"{context.idempotency.key}\n{line_number}.{chunk_number}", line_hash)
    return replace(context, idempotency=key)


def _conversation_id(appended: Appended) -> bytes:
    return appended.conversation.id.encode()


def _chunks(items: tuple[NewItem, ...]) -> Iterator[tuple[NewItem, ...]]:
    """At least one chunk, which may be empty."""
    chunk: list[NewItem] = []
    size = 0
    for new in items:
        if chunk and (len(chunk) == MAX_COMMAND_ITEMS or size + len(new.item) > MAX_COMMAND_BYTES):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(new)
        size += len(new.item)
    yield tuple(chunk)


async def _lines(body: AsyncIterator[bytes]) -> AsyncGenerator[tuple[int, bytes | LargeBody | None], None]:
    """The lines that are not blank, with their numbers from 1. None stands for a line that is too long. Raises NoSpace."""
    number = 1
    line = _PartialLine()
    is_too_long = False
    try:
        async for chunk in body:
            start = 0
            while start < len(chunk):
                end = chunk.find(b"\n", start)
                part = memoryview(chunk)[start : len(chunk) if end < 0 else end]
                if not is_too_long and line.size + len(part) > MAX_READ_BYTES:
                    is_too_long = True
                    line.clear()
                    yield number, None
                elif not is_too_long:
                    line.add(part)
                if end < 0:
                    break
                if complete := line.take():
                    yield number, complete
                is_too_long = False
                number += 1
                start = end + 1
                if number % LINES_PER_TURN == 0:
                    await asyncio.sleep(0)
        if complete := line.take():
            yield number, complete
    finally:
        line.clear()


class _PartialLine:
    """A line while it arrives. A large line is kept on disk."""

    def __init__(self) -> None:
        self._small = bytearray()
        self._large: LargeBody | None = None

    @property
    def size(self) -> int:
        return len(self._small) if self._large is None else self._large.size

    def add(self, part: memoryview) -> None:
        """Raises NoSpace."""
        if self._large is None and len(self._small) + len(part) > LARGE_BODY_BYTES:
            self._large = LargeBody()
            self._large.write(self._small)
            self._small = bytearray()
        if self._large is None:
            self._small += part
        else:
            self._large.write(part)

    def take(self) -> bytes | LargeBody | None:
        """Returns the line, and starts an empty one. None for a small blank line."""
        if self._large is not None:
            large, self._large = self._large, None
            return large
        small = bytes(self._small) if self._small.strip() else None
        self._small.clear()
        return small

    def clear(self) -> None:
        if self._large is not None:
            self._large.close()
        self._small, self._large = bytearray(), None
