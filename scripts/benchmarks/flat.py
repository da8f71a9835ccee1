"""What an append costs as a conversation grows, and as many write into one: the log without HTTP, in a scratch database.

The times are of one append by one writer, in milliseconds: warm (this process holds the conversation) on a conversation of
LONG items beside one of SHORT, by turns; and the first append of a process that holds nothing.
"""

import asyncio
import time
from statistics import median

from domain.commands import AppendItems, Command, NewItem, StartConversation
from domain.items import as_stored
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.work import Work
from infrastructure.ids import CONVERSATION, mint, mint_uuid
from infrastructure.metrics import Metrics
from infrastructure.principal import DEFAULT
from scripts.benchmarks.figures import Board
from scripts.benchmarks.over_http import TEXT

LONG = 100_000
SHORT = 10
TOGETHER = 1_000
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
        self._short = await _started(log, SHORT)
        self._long = await _started(log, self._long_items)
        await asyncio.to_thread(log.close)

    async def run(self, board: Board, appends: int = 300) -> None:
        one, other = EventLog(self._url, Metrics()), EventLog(self._url, Metrics())
        for log in (one, other):
            log.open()
        try:
            warm_up = await _started(one, 1)
            await _timed(one, warm_up)
            cold = await _timed(one, self._long)
            times = [(await _timed(one, self._short), await _timed(one, self._long)) for _ in range(appends)]
            short, long = (median(column) for column in zip(*times, strict=True))
            floor = f"append to a conversation of {SHORT} items"
            board.add(floor, short, unit="ms")
            board.add(f"append to a conversation of {self._long_items:,} items", long, unit="ms", floor=floor)
            board.add(f"first append of a process, {self._long_items:,} items", cold, unit="ms")
            await self._together(board, one, other)
        finally:
            for log in (one, other):
                await asyncio.to_thread(log.close)

    async def _together(self, board: Board, one: EventLog, other: EventLog) -> None:
        """TOGETHER appends at once by two writers, to as many conversations and to one."""
        many = await asyncio.gather(*(_started(one, 1) for _ in range(TOGETHER)))
        single = await _started(one, 1)
        floor = f"{TOGETHER:,} appends at once by two writers to {TOGETHER:,} conversations"
        for name, idents in (
            (floor, many),
            (floor.replace(f"to {TOGETHER:,} conversations", "to one"), [single] * TOGETHER),
        ):
            began = time.perf_counter()
            await asyncio.gather(*((one, other)[n % 2].append(_work(ident, _say())) for n, ident in enumerate(idents)))
            board.add(name, (time.perf_counter() - began) * 1000, unit="ms", floor=None if name == floor else floor)


async def _started(log: EventLog, items: int) -> str:
    ident = mint(CONVERSATION)
    await log.append(
        _work(ident, StartConversation(conversation_id=ident, tenant=DEFAULT.tenant, owner=DEFAULT.subject))
    )
    for begun in range(0, items, _AT_ONCE):
        await log.append(_work(ident, _say(min(_AT_ONCE, items - begun))))
    return ident


async def _timed(log: EventLog, ident: str) -> float:
    """Milliseconds of one append."""
    began = time.perf_counter()
    await log.append(_work(ident, _say()))
    return (time.perf_counter() - began) * 1000


def _say(items: int = 1) -> AppendItems:
    return AppendItems(items=tuple(NewItem(item_id=mint("msg"), item=_ITEM) for _ in range(items)), author="bench")


def _work(ident: str, command: Command) -> Work:
    return Work(
        principal=DEFAULT, conversation_id=ident, command=command, command_id=mint_uuid(), correlation_id="bench"
    )
