"""Sends many requests at once into one conversation, and kills one of two processes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
from msgspec import Struct

from domain.events import (
    REPLY_ENDS,
    Event,
    ReplyCancelled,
    ReplyCompleted,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
)
from domain.items import from_stored
from domain.reply_queue import MAX_QUEUED
from tests.commands.slow_answers import SlowAnswers
from tests.log import Log
from tests.scripted_provider import ScriptedProvider
from tests.servers import wait_until_async
from tests.system import System

BACKGROUND = 2
"""A request is in the background if its number modulo 4 is at least this."""


class Request(Struct, frozen=True):
    text: str
    process: int
    background: bool


class RequestsAtOnce:
    def __init__(
        self, running: System, http: httpx.AsyncClient, urls: Sequence[str], provider: ScriptedProvider
    ) -> None:
        self._running = running
        self._http = http
        self._urls = urls
        self._log = Log(running.env["POSTGRES_URL"])
        provider.script = self.answers = SlowAnswers()
        self._requests: dict[str, Request] = {}
        self._asking: dict[str, asyncio.Task[httpx.Response | None]] = {}
        self.conversation = ""

    async def open(self) -> None:
        self.conversation = (await self._http.post(f"{self._urls[1]}/v1/conversations", json={})).json()["id"]

    async def ask_first(self, process: int) -> None:
        self.ask(Request("first", process, background=False), on_busy="reject")
        await wait_until_async(lambda: "first" in self.answers.questions, 10, "the first reply to run")

    def ask_all(self, count: int, on_busy: str) -> None:
        for number in range(count):
            self.ask(Request(str(number), number % 2, number % 4 >= BACKGROUND), on_busy=on_busy)

    def ask(self, request: Request, *, on_busy: str) -> None:
        self._requests[request.text] = request
        self._asking[request.text] = asyncio.create_task(self._ask(request, on_busy))

    async def _ask(self, request: Request, on_busy: str) -> httpx.Response | None:
        body = {
            "input": request.text,
            "conversation": self.conversation,
            "on_busy": on_busy,
            "background": request.background,
        }
        try:
            return await self._http.post(f"{self._urls[request.process]}/v1/responses", json=body)
        except httpx.HTTPError:
            return None  # the process was killed

    def of(self, text: str) -> Request:
        return self._requests[text]

    @property
    def refused(self) -> int:
        answers = [task.result() for task in self._asking.values() if task.done()]
        return sum(answer is not None and answer.status_code == 409 for answer in answers)

    async def until(self, condition: Any, what: str) -> None:
        await wait_until_async(condition, 60, what)

    def kill(self) -> int:
        return self._running.kill("api")

    async def ended(self) -> dict[str, httpx.Response | None]:
        """Waits until all replies have ended. Returns the answer to each text. None: the process was killed first."""
        answers = dict(zip(self._asking, await asyncio.gather(*self._asking.values()), strict=True))
        await self.until(self._all_have_ended, "all replies to end")
        return answers

    def _all_have_ended(self) -> bool:
        return set(self.texts(ReplyQueued)) | set(self.texts(ReplyRequested)) == set(self.ends())

    @property
    def events(self) -> list[Event]:
        return self._log.events(self.conversation)

    def texts(self, kind: type[ReplyQueued] | type[ReplyRequested]) -> list[str]:
        return [self._names()[event.response_id] for event in self.events if isinstance(event, kind)]

    def ends(self) -> dict[str, Event]:
        """The end of each reply, by the text of its request."""
        names = self._names()
        return {names[event.response_id]: event for event in self.events if isinstance(event, REPLY_ENDS)}

    def _names(self) -> dict[str, str]:
        requests = (event for event in self.events if isinstance(event, ReplyQueued | ReplyRequested))
        return {event.response_id: from_stored(event.input[0].item)["content"] for event in requests}


async def check_queue(requests: RequestsAtOnce, count: int) -> None:
    """Foreground requests that wait in the killed process end as interrupted.

    The other waiting requests run in the order of the log.
    """
    await requests.ask_first(process=1)
    requests.ask_all(count, "queue")
    waiting = min(count, MAX_QUEUED)
    await requests.until(
        lambda: len(requests.texts(ReplyQueued)) == waiting and requests.refused == count - waiting, "all to wait"
    )
    requests.kill()
    requests.answers.release()
    answers = await requests.ended()
    queued, ends = requests.texts(ReplyQueued), requests.ends()
    lost = [text for text in queued if requests.of(text).process == 0 and not requests.of(text).background]
    assert {text for text, end in ends.items() if isinstance(end, ReplyInterrupted)} == set(lost)
    assert requests.texts(ReplyRequested) == ["first", *(text for text in queued if text not in lost)]
    assert requests.answers.questions == requests.texts(ReplyRequested)
    for text, answer in answers.items():
        if text in queued and requests.of(text).process == 1:
            assert answer is not None
            assert answer.json()["status"] == ("queued" if requests.of(text).background else "completed")
        elif text not in queued and text != "first":
            assert answer is not None
            assert answer.json()["error"]["code"] == "too_many_queued"


async def check_reject(requests: RequestsAtOnce, count: int) -> None:
    requests.ask_all(count, "reject")
    await requests.until(lambda: requests.refused == count - 1, "all but one to be refused")
    requests.kill()
    requests.answers.release()
    await requests.ended()
    [(text, end)] = requests.ends().items()
    assert isinstance(end, ReplyInterrupted if requests.of(text).process == 0 else ReplyCompleted)


async def check_interrupt(requests: RequestsAtOnce, count: int) -> None:
    await requests.ask_first(process=1)
    requests.ask_all(count, "interrupt")
    await requests.until(lambda: len(requests.texts(ReplyQueued)) == count, "all to be recorded")
    requests.kill()
    requests.ask(Request("last", 1, background=False), on_busy="interrupt")
    await requests.until(lambda: requests.answers.questions[-1] == "last", "the last one to run")
    requests.answers.release()
    answers = await requests.ended()
    ends = requests.ends()
    assert isinstance(ends.pop("last"), ReplyCompleted)
    last_answer = answers["last"]
    assert last_answer is not None
    assert last_answer.json()["status"] == "completed"
    for text, end in ends.items():
        is_lost = requests.of(text).process == 0
        assert isinstance(end, ReplyCancelled | ReplyInterrupted if is_lost else ReplyCancelled), text
    requested = [text for text in requests.texts(ReplyRequested) if text != "first"]
    assert requested == [text for text in requests.texts(ReplyQueued) if text in requested], (
        "they did not run in the order of the log"
    )
