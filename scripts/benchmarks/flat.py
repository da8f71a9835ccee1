"""What an append costs as a conversation grows: the log without HTTP, in a scratch database.

The times are of one append by one writer, in milliseconds: warm (this process holds the conversation) on a conversation of
LONG items beside one of SHORT, by turns; and the first append of a process that holds nothing.
"""

import time
from statistics import median

from domain.commands import AppendItems, Command, NewItem, StartConversation
from domain.items import as_stored
from infrastructure.access.principal import DEFAULT
from infrastructure.event_log.append_request import AppendRequest
from infrastructure.event_log.log import EventLog
from infrastructure.ids import CONVERSATION, mint, mint_uuid
from infrastructure.observability.metrics import Metrics
from scripts.benchmarks.figures import Board
from scripts.benchmarks.over_http import TEXT

LONG = 100_000
SHORT = 10
_AT_ONCE = 500
_ITEM = as_stored({"type": "message", "role": "user", "content": TEXT})


class Flat:
    """Grows its conversations once; `run` adds one run to the board."""

    def __init__(self, postgres_url: str, long: int = LONG) -> None:
        self._url = postgres_url
        self._long_items = long
        self._short = self._long = ""

    async def prepare(self) -> None:
        log = EventLog(self._url, Metrics())
        log.open()
        self._short = await started(log, SHORT)
        self._long = await started(log, self._long_items)
        await log.close()

    async def run(self, board: Board, appends: int = 300) -> None:
        log = EventLog(self._url, Metrics())
        log.open()
        try:
            warm_up = await started(log, 1)
            await _timed(log, warm_up)
            cold = await _timed(log, self._long)
            times = [(await _timed(log, self._short), await _timed(log, self._long)) for _ in range(appends)]
            short, long = (median(column) for column in zip(*times, strict=True))
            floor = f"append to a conversation of {SHORT} items"
            board.add(floor, short, unit="ms")
            board.add(f"append to a conversation of {self._long_items:,} items", long, unit="ms", floor=floor)
            board.add(f"first append of a process, {self._long_items:,} items", cold, unit="ms")
        finally:
            await log.close()


async def started(log: EventLog, items: int) -> str:
    """A new conversation with so many items; its id."""
    ident = mint(CONVERSATION)
    await log.append(
        work(ident, StartConversation(conversation_id=ident, tenant=DEFAULT.tenant, owner=DEFAULT.subject))
    )
    for begun in range(0, items, _AT_ONCE):
        await log.append(work(ident, _say(min(_AT_ONCE, items - begun))))
    return ident


async def _timed(log: EventLog, ident: str) -> float:
    """Milliseconds of one append."""
    began = time.perf_counter()
    await log.append(work(ident, _say()))
    return (time.perf_counter() - began) * 1000


def _say(items: int = 1) -> AppendItems:
    return AppendItems(items=tuple(NewItem(item_id=mint("msg"), item=_ITEM) for _ in range(items)), author="bench")


def work(ident: str, command: Command) -> AppendRequest:
    """A command of the one who measures."""
    return AppendRequest(
        principal=DEFAULT, conversation_id=ident, command=command, command_id=mint_uuid(), correlation_id="bench"
    )
