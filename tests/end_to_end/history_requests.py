"""Random requests that write, and a record of what each answer acknowledged.

Only a repeat with the same key sends a text again. So the log may have each text only once.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from msgspec import Struct

from tests.end_to_end.log_copy import Json, LogCopy
from tests.fixtures.facts import MODEL
from tests.scripted_provider import Exchange

SLOW = "slow"

MAX_ITEMS = 3
STREAM_TIMEOUT_SECONDS = 30.0


class Acknowledged(Struct, frozen=True):
    version: int
    topic: str
    item_id: str | None = None


class Request(Struct, kw_only=True):
    """A request and its answer. `status` is None if there was no answer.

    `after_move` is False if the request was sent before the end of a restore, failover or removal of rows in this step.
    """

    kind: str
    conversation_id: str
    body: Json
    key: str | None = None
    after_move: bool
    status: int | None = None
    code: str | None = None
    replayed: bool = False
    response_id: str | None = None
    events: tuple[Acknowledged, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.conversation_id} {self.status} {self.code} {self.events} {json.dumps(self.body)[:120]}"
        )


class RequestSender:
    """Sends random requests. `sent`: the requests of this step. `texts`: all texts that a request may have sent."""

    def __init__(self, http: httpx.AsyncClient, urls: Callable[[], Sequence[str]], name: str) -> None:
        self._http = http
        self._urls = urls
        self._name = name
        self._count = 0
        self._keyed: list[Request] = []
        self.sent: list[Request] = []
        self.texts: set[str] = set()
        self.move_is_over = True

    def start_step(self, *, moves: bool) -> None:
        self.sent = []
        self.move_is_over = not moves

    async def send_any(self, rng: random.Random, log: LogCopy) -> None:
        conversations = [
            *log.conversations,
            *(request.conversation_id for request in self.sent if request.kind == "create"),
        ]
        conversations = [name for name in conversations if name]
        kinds = {
            "create": 3,
            "append": 12,
            "repeat": 3,
            "retract": 2,
            "reply": 3,
            "stream": 2,
            "background": 2,
            "continue": 3,
            "delete": 1,
        }
        [kind] = rng.choices(list(kinds), list(kinds.values()))
        if not conversations or kind == "create":
            await self.create(rng.randint(0, 2), rng)
        elif kind == "repeat" and self._keyed:
            earlier = rng.choice(self._keyed)
            await self._append(earlier.conversation_id, earlier.body, earlier.key, rng)
        elif kind == "retract" and (items := _items_of(log)):
            await self._retract(*rng.choice(items), rng)
        elif kind == "continue" and log.responses:
            await self.reply("reply", "", rng, previous=rng.choice(sorted(log.responses)))
        elif kind in ("reply", "stream", "background"):
            await self.reply(kind, rng.choice(conversations), rng, slow=kind == "background" and rng.random() < 0.5)
        elif kind == "delete" and len(conversations) > 2:
            await self._delete(rng.choice(conversations), rng)
        else:
            await self.append(rng.choice(conversations), rng.randint(1, MAX_ITEMS), rng, keyed=rng.random() < 0.4)

    async def create(self, items: int, rng: random.Random) -> None:
        body = {"items": [_message(text) for text in self._new_texts(items)]}
        request = self._note(Request(kind="create", conversation_id="", body=body, after_move=self.move_is_over))
        answer = await self._post(request, "/v1/conversations", rng)
        if answer is not None:
            request.conversation_id = answer.json()["id"]
            request.events = (Acknowledged(1, "conversation.started"),)

    async def append(self, conversation_id: str, items: int, rng: random.Random, *, keyed: bool = False) -> Request:
        body = {"items": [_message(text) for text in self._new_texts(items)]}
        return await self._append(conversation_id, body, rng.randbytes(8).hex() if keyed else None, rng)

    async def _append(self, conversation_id: str, body: Json, key: str | None, rng: random.Random) -> Request:
        request = Request(
            kind="append", conversation_id=conversation_id, body=body, key=key, after_move=self.move_is_over
        )
        answer = await self._post(self._note(request), f"/v1/conversations/{conversation_id}/items", rng)
        if answer is not None:
            ids = [item["id"] for item in answer.json()["data"]]
            first = _version(answer) - len(ids) + 1
            request.events = tuple(Acknowledged(first + n, "item.appended", name) for n, name in enumerate(ids))
        if key is not None and key not in {earlier.key for earlier in self._keyed}:
            self._keyed.append(request)
        return request

    async def _retract(self, conversation_id: str, item_id: str, rng: random.Random) -> None:
        request = Request(kind="retract", conversation_id=conversation_id, body={}, after_move=self.move_is_over)
        path = f"/v1/conversations/{conversation_id}/items/{item_id}"
        answer = await self._send(self._note(request), "DELETE", path, rng)
        if answer is not None:
            request.events = (Acknowledged(_version(answer), "item.retracted", item_id),)

    async def _delete(self, conversation_id: str, rng: random.Random) -> None:
        request = Request(kind="delete", conversation_id=conversation_id, body={}, after_move=self.move_is_over)
        answer = await self._send(self._note(request), "DELETE", f"/v1/conversations/{conversation_id}", rng)
        if answer is not None:
            request.events = (Acknowledged(_version(answer), "conversation.deleted"),)

    async def reply(
        self, kind: str, conversation_id: str, rng: random.Random, *, previous: str | None = None, slow: bool = False
    ) -> Request:
        """Requests a reply. `kind`: reply, stream or background."""
        [text] = self._new_texts(1)
        target = {"previous_response_id": previous} if previous else {"conversation": conversation_id}
        body: Json = {"model": MODEL, "input": f"{SLOW} {text}" if slow else text, **target}
        self.texts.add(body["input"])
        body |= {"stream": {"stream": True}, "background": {"background": True}}.get(kind, {})
        request = self._note(
            Request(kind=kind, conversation_id=conversation_id, body=body, after_move=self.move_is_over)
        )
        answer = await self._post(request, "/v1/responses", rng)
        if answer is None:
            return request
        response = _last_response(answer) if kind == "stream" else answer.json()
        if response is None or response["conversation"] is None:
            request.code = "no response in the stream"
            return request
        request.conversation_id = response["conversation"]["id"]
        request.response_id = response["id"]
        if kind == "background":
            request.events = (Acknowledged(_version(answer), "reply.requested", response["id"]),)
        elif kind == "reply" and response["status"] == "completed":
            request.events = (Acknowledged(_version(answer), "reply.completed", response["id"]),)
        return request

    def _new_texts(self, count: int) -> list[str]:
        texts = [f"{self._name} text {self._count + n}" for n in range(count)]
        self._count += count
        self.texts |= set(texts)
        return texts

    def _note(self, request: Request) -> Request:
        self.sent.append(request)
        return request

    async def _post(self, request: Request, path: str, rng: random.Random) -> httpx.Response | None:
        return await self._send(request, "POST", path, rng)

    async def _send(self, request: Request, method: str, path: str, rng: random.Random) -> httpx.Response | None:
        """Returns an answer with status 200, otherwise None. Raises TimeoutException if the request hangs."""
        headers = {"content-type": "application/json"}
        if request.key is not None:
            headers["idempotency-key"] = request.key
        content: Any = json.dumps(request.body) if method == "POST" else None
        urls = self._urls()
        if not urls:
            return None
        try:
            answer = await self._http.request(
                method, f"{rng.choice(urls)}{path}", content=content, headers=headers, timeout=STREAM_TIMEOUT_SECONDS
            )
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            return None
        request.status = answer.status_code
        request.replayed = "idempotent-replayed" in answer.headers
        if answer.status_code != 200:
            request.code = answer.json()["error"]["code"]
            return None
        return answer


def answer_by_number(numbers: Callable[[], int]) -> Callable[[Exchange], None]:
    """Each answer contains a number from `numbers`. Slow answers take about two seconds."""

    def script(exchange: Exchange) -> None:
        number = numbers()
        question = exchange.body["messages"][-1]["content"]
        words = [f"answer {number}", *(f" {n}" for n in range(20 if SLOW in question else 2))]
        exchange.begin_stream()
        for word in words:
            exchange.text_chunk(word)
            if SLOW in question:
                time.sleep(0.1)
        exchange.text_chunk(finish_reason="stop")
        exchange.chunk(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
        exchange.end_stream()

    return script


def _message(text: str) -> Json:
    return {"type": "message", "role": "user", "content": text}


def _version(answer: httpx.Response) -> int:
    return int(answer.headers["etag"].strip('"'))


def _items_of(log: LogCopy) -> list[tuple[str, str]]:
    return [(name, item["id"]) for name in log.conversations for item in log.items(name) or ()]


def _last_response(answer: httpx.Response) -> Json | None:
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    return next((event["response"] for event in reversed(events) if "response" in event), None)
