"""Writes titles for conversations that have none (`TITLES=auto`): after a reply, the reply's model is asked for a title.

If this fails, the next reply in the conversation tries again.
"""

import asyncio
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import Struct

from context.models import Models
from context.rendering import render
from domain.commands import CompleteReply, WriteTitle
from domain.errors import ModelFailed, Refused
from domain.events import Usage
from domain.items import from_stored, text_of
from infrastructure.access.principal import Principal
from infrastructure.event_log.append_request import Appended, AppendRequest, LogBusy, LogUnavailable
from infrastructure.event_log.command_size import command_bytes
from infrastructure.event_log.log import EventLog
from infrastructure.ids import mint_uuid
from infrastructure.observability.metrics import Metrics

if TYPE_CHECKING:
    from replies.provider.provider import ModelProvider

PROMPT = (
    "Write a title for this conversation, in its own language: at most six words, without quotation marks. "
    "Answer with the title alone."
)
MAX_QUESTION_LENGTH, MAX_ANSWER_LENGTH = 2_000, 1_000

MAX_TITLE_TOKENS = 64
MAX_TITLE_LENGTH = 80
MAX_AT_ONCE = 4
MAX_WAITING = 100
"""If this many titles wait or are being written, no other title is started."""

TIMEOUT_SECONDS = 60.0
MAX_FAILURES = 3
"""After this many failures in a conversation, this process does not try again there."""

MAX_REMEMBERED = 10_000

_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, surrogates, and separators of lines and paragraphs."""

_AROUND = " \t\"'`*_#“”„«»「」"

log = structlog.get_logger(__name__)


class TitleSource(Struct, frozen=True):
    question: str
    answer: str
    item_ids: tuple[str, ...]


class TitleRequest(Struct, frozen=True, kw_only=True):
    """What a title is written from.

    `version`: the conversation's version with the reply's items. `spend` gets the tokens of the call.
    """

    principal: Principal
    request_id: str
    conversation_id: str
    version: int
    model: str
    source: TitleSource
    spend: Callable[[int], None]


class TitleWriter:
    """Writes titles in tasks of its own. Close it before the log is closed."""

    def __init__(
        self, events_log: EventLog, provider: "ModelProvider", models: Models, metrics: Metrics, *, enabled: bool
    ) -> None:
        self._enabled = enabled
        self._log = events_log
        self._provider = provider
        self._models = models
        self._metrics = metrics
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}

    def after_reply(
        self,
        end: CompleteReply,
        appended: Appended,
        *,
        principal: Principal,
        request_id: str,
        model: str,
        spend: Callable[[int], None],
    ) -> None:
        """Starts to write a title, if the conversation needs one."""
        state = appended.conversation
        if not self._enabled or state.title is not None or not state.listed or state.id in self._tasks:
            return
        if self._failures.get(state.id, 0) >= MAX_FAILURES or (source := title_source(end)) is None:
            return
        if len(self._tasks) >= MAX_WAITING:
            self._metrics.titles.labels("skipped").inc()
            return
        request = TitleRequest(
            principal=principal,
            request_id=request_id,
            conversation_id=state.id,
            version=appended.version,
            model=model,
            source=source,
            spend=spend,
        )
        task = self._tasks[state.id] = asyncio.create_task(self._run(request))
        task.add_done_callback(lambda _: self._tasks.pop(state.id))

    async def close(self) -> None:
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, request: TitleRequest) -> None:
        try:
            async with self._slots, asyncio.timeout(TIMEOUT_SECONDS):
                outcome = "written" if await self._write(request) else "empty"
        except Refused as refused:  # a person gave a title, an item was retracted, the conversation was deleted …
            outcome = "refused"
            log.info("title_refused", conversation_id=request.conversation_id, code=refused.code)
        except (ModelFailed, LogBusy, LogUnavailable, TimeoutError) as error:
            outcome = "failed"
            code = error.code if isinstance(error, ModelFailed) else type(error).__name__
            log.warning("title_failed", conversation_id=request.conversation_id, code=code)
        except Exception:
            outcome = "failed"
            log.exception("title_crashed", conversation_id=request.conversation_id)
        self._metrics.titles.labels(outcome).inc()
        if outcome in ("failed", "empty"):
            self._note_failure(request.conversation_id)

    async def _write(self, request: TitleRequest) -> bool:
        """Returns False if the model wrote no title."""
        answer = await self._provider.complete_text(title_body(self._models.renderer, request.model, request.source))
        usage = answer.usage or Usage()
        request.spend(usage.input_tokens + usage.output_tokens)
        if not (title := clean_title(answer.text)):
            return False
        command = WriteTitle(
            title=title,
            title_items=request.source.item_ids,
            model=request.model,
            read_version=request.version,
            usage=usage,
            cost=self._models.cost(request.model, usage),
        )
        await self._log.append(
            AppendRequest(
                principal=request.principal,
                conversation_id=request.conversation_id,
                command=command,
                command_id=mint_uuid(),
                correlation_id=request.request_id,
                size=command_bytes(command),
            )
        )
        return True

    def _note_failure(self, conversation_id: str) -> None:
        failures = self._failures.pop(conversation_id, 0) + 1
        self._failures[conversation_id] = failures
        if len(self._failures) > MAX_REMEMBERED:
            del self._failures[next(iter(self._failures))]


def title_source(end: CompleteReply) -> TitleSource | None:
    """The texts for the title. None if the reply has no question, for example because the reply answers a tool's
    output.

    Copies of other conversations' items are left out, because the originals may be deleted.
    """
    new_items = [new for new in end.input if new.copy_of is None]
    question = _words([(new.item_id, new.item) for new in new_items], "user", MAX_QUESTION_LENGTH)
    answer = _words([(new.item_id, new.item) for new in end.output], "assistant", MAX_ANSWER_LENGTH)
    if not question:
        return None
    return TitleSource(" ".join(question.values()), " ".join(answer.values()), (*question, *answer))


def _words(stored: Sequence[tuple[str, bytes]], role: str, max_length: int) -> dict[str, str]:
    """The texts of the role's items by item id, at most `max_length` characters together."""
    words: dict[str, str] = {}
    for item_id, stored_item in stored:
        item = from_stored(stored_item)
        room = max_length - sum(map(len, words.values()))
        if item.get("role") == role and room > 0 and (text := text_of(item).strip()[:room]):
            words[item_id] = text
    return words


def title_body(renderer: int, model: str, source: TitleSource) -> Mapping[str, Any]:
    """The request to the provider."""
    content = f"Question:\n{source.question}\n\nAnswer:\n{source.answer}"
    return render(
        renderer,
        model=model,
        instructions=[PROMPT],
        summary=None,
        items=[{"type": "message", "role": "user", "content": content}],
        parameters={"max_output_tokens": MAX_TITLE_TOKENS},
    )


def clean_title(text: str) -> str:
    """The first line with words, without marks around it. Empty if no line has words."""
    _, end, answer = text.rpartition("</think>")
    if not end and text.lstrip().startswith("<think>"):
        return ""  # the model ran out of tokens while it thought
    for line in answer.splitlines():
        visible = "".join(" " if unicodedata.category(character) in _UNSEEN else character for character in line)
        title = " ".join(visible.split()).strip(_AROUND).removeprefix("Title:").strip(_AROUND)
        if title:
            return title if len(title) <= MAX_TITLE_LENGTH else f"{title[: MAX_TITLE_LENGTH - 1].rstrip()}…"
    return ""
