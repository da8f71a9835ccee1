"""Cases of a reply that is stopped in the middle of its answer. Each case says what must be stored.

The provider pauses the answer of each case until the store disconnects, or until `Stops` lets the answer continue or
fail.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import httpx
from msgspec import Struct
from websockets.asyncio.client import connect

from tests.principals import HEADER
from tests.scripted_provider import Exchange, ScriptedProvider

StopReason = Literal[
    "cancel",
    "leave stream",
    "leave",
    "leave socket",
    "leave chat",
    "provider error",
    "delete response",
    "delete conversation",
    "kill",
]
AnswerStep = Callable[[Exchange], None]
LEAVING: tuple[StopReason, ...] = ("leave stream", "leave", "leave socket", "leave chat")
STOP_REASONS: tuple[StopReason, ...] = (
    "cancel",
    *LEAVING,
    "provider error",
    "delete response",
    "delete conversation",
)
"""All but `kill`, which stops many replies at once."""


def text(value: str) -> AnswerStep:
    return lambda exchange: exchange.text_chunk(value)


def thought(value: str) -> AnswerStep:
    return lambda exchange: exchange.delta(reasoning_content=value)


def call(index: int, arguments: str) -> AnswerStep:
    start = {"index": index, "id": f"call_{index}", "type": "function"}
    return lambda exchange: exchange.delta(tool_calls=[{**start, "function": {"name": "look", "arguments": arguments}}])


ANSWERS: dict[str, Sequence[AnswerStep]] = {
    "nothing": (),
    "text": (text("one "), text("two ")),
    "long text": (text("one " * 400),),
    "thought": (thought("I should"),),
    "thought, text": (thought("I should"), text("one ")),
    "half call": (text("I look. "), call(0, '{"at": "sk')),
    "two calls": (call(0, '{"at": "sky"}'), call(1, '{"at": "se')),
}
"""What the provider sends before the stop."""

DELTAS = {answer: len(steps) for answer, steps in ANSWERS.items()} | {"two calls": 1}
"""How many deltas arrive before the stop. The store sends a second call only after the first call has ended."""

JOINING: dict[str, list[tuple[str, str, str]]] = {
    "nothing": [],
    "text": [("message", "one two ", "incomplete")],
    "long text": [("message", "one " * 400, "incomplete")],
    "thought": [],
    "thought, text": [("reasoning", "I should", "completed"), ("message", "one ", "incomplete")],
    "half call": [("message", "I look. ", "completed")],
    "two calls": [],
}
"""The items that join the conversation with `stopped: keep`, each as (type, text, status)."""

REST: dict[str, list[tuple[str, str, str]]] = {
    "thought": [("reasoning", "I should", "incomplete")],
    "half call": [("function_call", '{"at": "sk', "incomplete")],
    "two calls": [("function_call", '{"at": "sky"}', "incomplete")],
}
"""Items that are only in the Response, because they cannot be shown to a model."""

FINISHED = [("message", "one two three", "completed")]
"""The answer `text` if the reply is not stopped."""


class Case(Struct, frozen=True):
    number: int
    reason: StopReason
    stopped: str
    on_disconnect: str
    answer: str

    @property
    def question(self) -> str:
        return f"Question {self.number} ({self.reason}, {self.answer})"

    @property
    def is_not_stopped(self) -> bool:
        return self.reason in LEAVING and self.on_disconnect == "finish"

    @property
    def status(self) -> str | None:
        """None if the Response is deleted."""
        if self.reason in ("delete response", "delete conversation"):
            return None
        if self.is_not_stopped:
            return "completed"
        return {"cancel": "cancelled", "provider error": "failed"}.get(self.reason, "incomplete")

    @property
    def joins(self) -> bool:
        """Whether the question and the answer join the conversation."""
        return self.is_not_stopped or (self.stopped == "keep" and self.status in ("cancelled", "incomplete"))

    @property
    def answered(self) -> list[tuple[str, str, str]]:
        """The items of the answer that join the conversation."""
        return (FINISHED if self.is_not_stopped else JOINING[self.answer]) if self.joins else []

    @property
    def output(self) -> list[tuple[str, str, str]]:
        """The output of the Response."""
        return FINISHED if self.is_not_stopped else [*JOINING[self.answer], *REST.get(self.answer, [])]


def cases(count: int, reasons: Sequence[StopReason] = STOP_REASONS) -> list[Case]:
    """Combines every reason with every policy, repeatedly, until there are `count` cases. The answers take turns.

    A case in which the reply is not stopped has the answer `text`.
    """
    answers = itertools.cycle(ANSWERS)
    every = itertools.cycle(itertools.product(reasons, ("drop", "keep"), ("stop", "finish")))
    created: list[Case] = []
    for number, (reason, stopped, on_disconnect) in enumerate(itertools.islice(every, count)):
        case = Case(number, reason, stopped, on_disconnect, next(answers))
        created.append(Case(number, reason, stopped, on_disconnect, "text") if case.is_not_stopped else case)
    return created


class Stops:
    """Begins, stops and checks the replies of the cases.

    `urls`: the API processes, over which the cases are spread.
    """

    def __init__(self, provider: ScriptedProvider, http: httpx.AsyncClient, urls: Sequence[str]) -> None:
        self.http = http
        self.urls = urls
        self.provider = provider
        self.conversations: dict[int, str] = {}
        self.responses: dict[int, str] = {}
        self._reached: set[str] = set()
        self._may_go_on: set[str] = set()
        self._fails: set[str] = set()
        self._answer_of: dict[str, str] = {}
        provider.script = self._answer

    def url(self, case: Case) -> str:
        return self.urls[case.number % len(self.urls)]

    async def begin(self, case: Case) -> "asyncio.Task[None]":
        """Asks the question. Returns the client's request when the parts of the answer have arrived."""
        policy = {"stopped": case.stopped, "on_disconnect": case.on_disconnect}
        answer = await self.http.post(f"{self.url(case)}/v1/conversations", json={"context_policy": policy})
        assert answer.status_code == 200, answer.text
        self.conversations[case.number] = answer.json()["id"]
        self._answer_of[case.question] = case.answer
        asking = asyncio.create_task(self._ask(case))
        async with asyncio.timeout(60):
            self.responses[case.number] = await self._until_arrived(case)
        return asking

    async def stop(self, case: Case, asking: "asyncio.Task[None]") -> None:
        """Does what the case says, and returns when the reply has ended. Not for the reason `kill`."""
        url, response_id, conversation_id = self.url(case), self.responses[case.number], self.conversations[case.number]
        if case.reason in LEAVING:
            asking.cancel()
            await asyncio.wait({asking})
            if case.is_not_stopped:
                self.let_finish(case)
        elif case.reason == "cancel":
            await self._ok("POST", f"{url}/v1/responses/{response_id}/cancel")
        elif case.reason == "provider error":
            self._fails.add(case.question)
        elif case.reason == "delete response":
            await self._ok("DELETE", f"{url}/v1/responses/{response_id}")
        elif case.reason == "delete conversation":
            await self._ok("DELETE", f"{url}/v1/conversations/{conversation_id}")
        await self.until_ended(case)
        await asyncio.wait({asking})

    def let_finish(self, case: Case) -> None:
        """The provider now finishes its answers to this question."""
        self._may_go_on.add(case.question)
        self._fails.discard(case.question)

    async def until_ended(self, case: Case) -> None:
        async with asyncio.timeout(60):
            while (response := await self._get(case, f"responses/{self.responses[case.number]}")) is not None:
                if response["status"] != "in_progress":
                    return
                await asyncio.sleep(0.05)

    async def check(self, case: Case) -> None:
        """The items, the Response and the next model request must be as the case says."""
        question_items = [("message", case.question, "completed")]
        if case.reason == "delete conversation":
            conversation_id = self.conversations[case.number]
            for path in ("", "/items", "/responses", "/context"):
                assert await self._get(case, f"conversations/{conversation_id}{path}") is None, path
            assert await self._get(case, f"responses/{self.responses[case.number]}") is None
            return
        conversation = f"conversations/{self.conversations[case.number]}"
        items = await self._list(case, f"{conversation}/items?order=asc")
        assert [_facts(item) for item in items] == ([*question_items, *case.answered] if case.joins else []), case
        listed = await self._list(case, f"{conversation}/responses")
        response = await self._get(case, f"responses/{self.responses[case.number]}")
        if case.status is None:
            assert (listed, response) == ([], None), case
        else:
            [entry] = listed
            assert [_facts(item) for item in entry.pop("input")] == question_items, case
            assert entry == response
            assert response is not None
            assert (response["status"], [_facts(item) for item in response["output"]]) == (case.status, case.output), (
                case
            )
            input_items = await self._list(case, f"responses/{response['id']}/input_items")
            assert [_facts(item) for item in input_items] == question_items
            if case.joins:
                assert [item["id"] for item in items[1:]] == [item["id"] for item in response["output"]][
                    : len(items) - 1
                ]
        await self._check_next_request(case)

    async def _check_next_request(self, case: Case) -> None:
        following = f"Next after {case.number}"
        body = {"input": following, "conversation": self.conversations[case.number]}
        answer = await self.http.post(f"{self.url(case)}/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        [sent] = [request for request in self.provider.requests if _last_text(request) == following]
        answer_messages = [("assistant", value) for kind, value, _ in case.answered if kind == "message"]
        question_items = [("user", case.question), *answer_messages] if case.joins else []
        assert [(message["role"], message["content"]) for message in sent["messages"]] == [
            *question_items,
            ("user", following),
        ]

    def _answer(self, exchange: Exchange) -> None:
        question = _last_text(exchange.body)
        self._reached.add(question)
        exchange.begin_stream()
        if question not in self._answer_of:
            exchange.text_chunk("Fine.")
        else:
            for step in ANSWERS[self._answer_of[question]]:
                step(exchange)
            while question not in self._may_go_on:
                if question in self._fails:
                    return
                exchange.wfile.write(b": waiting\n\n")
                time.sleep(0.05)
            exchange.text_chunk("three")
        exchange.text_chunk(finish_reason="stop")
        exchange.end_stream()

    async def _ask(self, case: Case) -> None:
        conversation_id, url = self.conversations[case.number], self.url(case)
        body = {"input": case.question, "conversation": conversation_id, "model": "scripted"}
        if case.reason == "leave socket":
            headers = {name: value for name, value in self.http.headers.items() if name == HEADER}
            async with connect(f"{url}/v1/responses".replace("http", "ws", 1), additional_headers=headers) as socket:
                await socket.send(json.dumps({"type": "response.create", **body}))
                async for _ in socket:
                    pass
        elif case.reason == "leave chat":
            messages = [{"role": "user", "content": case.question}]
            chat = {"model": "scripted", "messages": messages, "stream": case.number % 3 > 0}
            await self._read(f"{url}/v1/chat/completions", chat, {"X-Conversation-Id": conversation_id})
        else:
            is_streamed = case.reason == "leave stream" or (case.reason != "leave" and case.number % 2 > 0)
            await self._read(f"{url}/v1/responses", {**body, "stream": is_streamed}, {})

    async def _read(self, url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        async with self.http.stream("POST", url, json=body, headers=headers) as answer:
            async for _ in answer.aiter_bytes():
                pass

    async def _until_arrived(self, case: Case) -> str:
        """Returns the response's id when all parts have arrived."""
        while case.question not in self._reached:  # noqa: ASYNC110 - the provider's thread sets it
            await asyncio.sleep(0.02)
        [running] = await self._list(case, f"conversations/{self.conversations[case.number]}/responses")
        response_id, missing = str(running["id"]), DELTAS[case.answer]
        if missing:
            url = f"{self.url(case)}/v1/responses/{response_id}?stream=true"
            async with self.http.stream("GET", url) as answer:
                async for line in answer.aiter_lines():
                    missing -= line.startswith("event: ") and line.endswith(".delta")
                    if missing == 0:
                        break
        return response_id

    async def _list(self, case: Case, path: str) -> list[dict[str, Any]]:
        page = await self._get(case, path)
        assert page is not None, path
        return list(page["data"])

    async def _get(self, case: Case, path: str) -> dict[str, Any] | None:
        for _ in range(20):
            answer = await self.http.get(f"{self.url(case)}/v1/{path}")
            if answer.status_code != 503:  # on a busy machine the views may be late
                break
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, (path, answer.text)
        body: dict[str, Any] = answer.json()
        return body

    async def _ok(self, method: str, url: str) -> None:
        answer = await self.http.request(method, url)
        assert answer.status_code == 200, answer.text


def _facts(item: dict[str, Any]) -> tuple[str, str, str]:
    if item["type"] == "message":
        return "message", "".join(part["text"] for part in item["content"]), item["status"]
    if item["type"] == "reasoning":
        return "reasoning", "".join(part["text"] for part in item["content"]), item["status"]
    return item["type"], item["arguments"], item["status"]


def _last_text(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"])
