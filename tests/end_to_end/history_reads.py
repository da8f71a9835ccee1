"""Reads what the API shows of a log, and compares each answer with the log."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
from msgspec import Struct

from domain.items import without_listed_fields
from tests.end_to_end.log_copy import Json, LogCopy, text_of
from tests.fixtures.facts import MODEL

CATCH_UP_TIMEOUT_SECONDS = 60.0
PAUSE_SECONDS = 0.1
AT_ONCE = 64
NOT_COMPARED = frozenset(
    {"cached_tokens", "cache_write_tokens", "reasoning_tokens", "prefix_tokens", "cost_usd", "object"}
)


class Question(Struct, frozen=True):
    """A read and its right answer.

    `expected` returns what the answer must show, or None for a 404. `shown` returns the part to compare.
    """

    path: str
    expected: Callable[[LogCopy], Any]
    shown: Callable[[Json], Any]


class Findings(Struct):
    """What is wrong in the answers. `late`: missing answers, 503s, and unverified answers."""

    wrong: list[str]
    late: list[str]


class Reads:
    """Reads every conversation and response of the logs that `note` was given."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.conversations: dict[str, None] = {}
        self.responses: dict[str, None] = {}

    def note(self, log: LogCopy) -> None:
        self.conversations |= dict.fromkeys(log.streams)
        self.responses |= dict.fromkeys(log.responses)

    async def check(self, postgres_url: str, urls: Sequence[str], *, wait: bool) -> LogCopy:
        """Repeats all reads until the log does not change meanwhile. `wait`: also until no answer is late.

        No answer may be wrong. Returns the log that the answers were compared with.
        """
        deadline = time.monotonic() + CATCH_UP_TIMEOUT_SECONDS
        while True:
            log = LogCopy.read(postgres_url)
            findings = await self.compare(log, urls)
            if log == LogCopy.read(postgres_url):
                assert not findings.wrong, "\n".join(findings.wrong)
                if not findings.late or not wait:
                    return log
            assert time.monotonic() < deadline, "\n".join(["late:", *findings.late, *findings.wrong])
            await asyncio.sleep(PAUSE_SECONDS)

    async def compare(self, log: LogCopy, urls: Sequence[str]) -> Findings:
        findings = Findings([], [])
        permits = asyncio.Semaphore(AT_ONCE)

        async def ask(question: Question, url: str) -> None:
            async with permits:
                try:
                    answer = await self._http.get(f"{url}{question.path}")
                except (httpx.NetworkError, httpx.RemoteProtocolError) as error:  # the api is still starting
                    findings.late.append(f"{url}: {type(error).__name__}")
                    return
            if answer.status_code == 503 or "unverified" in answer.headers.get("x-consistency", ""):
                findings.late.append(f"{question.path}: {answer.status_code} {answer.text[:160]}")
            elif (fault := _fault(question, answer, log)) is not None:
                findings.wrong.append(f"{answer.request.url}: {fault}")

        await asyncio.gather(*(ask(question, url) for question, url in zip(self._questions(), itertools.cycle(urls))))
        return findings

    def _questions(self) -> Iterator[Question]:
        yield Question("/v1/conversations?limit=100", LogCopy.listed, lambda body: body["data"])
        yield Question("/v1/usage", LogCopy.usage, lambda body: [_without_prices(row) for row in body["data"]])
        for name in self.conversations:
            yield from _of_conversation(f"/v1/conversations/{name}", name)
        for name in self.responses:
            yield from _of_response(f"/v1/responses/{name}", name)


def _of_conversation(path: str, name: str) -> Iterator[Question]:
    yield Question(path, lambda log: log.conversation(name), lambda body: body)
    yield Question(f"{path}/items?order=asc&limit=100", lambda log: log.items(name), _listed_items)
    yield Question(f"{path}/events?limit=1000", lambda log: log.feed(name), lambda body: body["data"])
    yield Question(f"{path}/context?model={MODEL}", lambda log: _context(log, name), lambda body: body)


def _listed_items(body: Json) -> list[Json]:
    return [without_listed_fields(item) for item in body["data"]]


def _of_response(path: str, name: str) -> Iterator[Question]:
    yield Question(path, lambda log: log.response(name), lambda body: body)
    yield Question(f"{path}/input_items?order=asc", lambda log: log.input_items(name), lambda body: body["data"])


def _fault(question: Question, answer: httpx.Response, log: LogCopy) -> str | None:
    expected = question.expected(log)
    if answer.status_code == 404 and expected is None:
        return None
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text[:300]}"
    if expected is None:
        return f"shows what the log does not have: {answer.text[:300]}"
    shown = question.shown(answer.json())
    if question.path.endswith(f"/context?model={MODEL}"):
        return _context_fault(expected, shown)
    return None if shown == expected else _difference(expected, shown)


def _context(log: LogCopy, name: str) -> Any:
    """(version, (id, text) of each item of the active path). None: a 404."""
    items = log.items(name)
    if items is None:
        return None
    return log.version(name), [(item["id"], text_of(item)) for item in items]


def _context_fault(expected: Any, shown: Json) -> str | None:
    version, items = expected
    shown_items = [(entry["id"], text_of(entry["item"])) for entry in shown["items"]]
    if (shown["version"], shown_items) == (version, items):
        return None
    return _difference([version, *items], [shown["version"], *shown_items])


def _without_prices(row: Json) -> Json:
    return {name: value for name, value in row.items() if name not in NOT_COMPARED}


def _difference(expected: Any, shown: Any) -> str:
    if isinstance(expected, list) and isinstance(shown, list):
        pairs = itertools.zip_longest(expected, shown, fillvalue="nothing")
        number, (expected_entry, shown_entry) = next(
            (number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1]
        )
        lengths = f"{len(expected)} expected, {len(shown)} shown; entry {number}: "
        return lengths + _difference(expected_entry, shown_entry)
    if isinstance(expected, dict) and isinstance(shown, dict):
        names = [name for name in expected.keys() | shown.keys() if expected.get(name) != shown.get(name)]
        return "; ".join(f"{name}: expected {expected.get(name)}, shown {shown.get(name)}" for name in names)[:600]
    return f"expected {str(expected)[:300]}, shown {str(shown)[:300]}"
