"""Runs a planned walk against two apis, and checks the answers and the log."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import httpx
from msgspec import Struct
from msgspec.structs import replace as replace_fields

from infrastructure.ids import conversation_id as id_of
from tests.end_to_end.walk_answer import Received, plain_call, received
from tests.end_to_end.walk_checks import LogTail, RecordedRequest, WalkChecks
from tests.end_to_end.walk_messages import TENANT, Json, as_shown, meaning_of_item
from tests.end_to_end.walk_plan import Deletion, Kill, PlannedRequest, Round
from tests.end_to_end.walk_provider import PlannedAnswers
from tests.servers import wait_until_async
from tests.user_service import token

MODEL = "scripted"
READY_TIMEOUT_SECONDS = 60.0
END_TIMEOUT_SECONDS = 30.0
RECEIVED_TIMEOUT_SECONDS = 2.0
SAMPLE = 8
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("add", "weather")
]

_numbers = count(1)
"""Numbers the requests of all walks of this process."""

_names = count(1)


class WalkStore(Struct):
    """The running store. `kill(n)`: kills the api number n (from 0)."""

    http: httpx.AsyncClient
    api_urls: Sequence[str]
    log: LogTail
    answers: PlannedAnswers
    kill: Callable[[int], None]


class Walk:
    def __init__(self, store: WalkStore) -> None:
        run = next(_names)
        self._store = store
        self._subjects = {name: f"{name}-{run}" for name in ("ann", "bob")}
        self._tokens = {
            name: token(tenant=TENANT, sub=subject, exp=time.time() + 86_400)
            for name, subject in self._subjects.items()
        }
        self._requests: dict[int, PlannedRequest] = {}
        self._store_numbers: dict[int, int] = {}
        self.checks = WalkChecks(self._requests, self._subjects)
        self.sent = 0
        self._refused: set[int] = set()
        self._is_restarting = [False, False]

    async def run(self, planned: Round) -> None:
        if planned.deletion is not None:
            await self._run_and_delete(planned.requests, planned.deletion)
        elif planned.kill is not None:
            await self._run_and_kill(planned.requests, planned.kill)
        elif planned.hangs_up:
            await self._hang_up(planned.requests)
        else:
            answers = await asyncio.gather(
                *(self._send(request, is_keyed=planned.repeats) for request in planned.requests)
            )
            self.checks.observe(self._store.log.new())
            for request, answer in zip(planned.requests, answers, strict=True):
                await self._check(request, answer)

    async def finish(self) -> None:
        """Waits until no reply runs, and checks everything that was stored."""
        async with asyncio.timeout(END_TIMEOUT_SECONDS):
            while any(recorded.ended is None for recorded in self.checks.recorded.values()):
                await asyncio.sleep(0.1)
                self.checks.observe(self._store.log.new())
        await self._wait_until_ready()
        await _four_at_a_time(self._check_context, self.checks.recorded.values())
        await _four_at_a_time(self._check_conversation, self.checks.model.conversations)
        for subject in self._subjects:
            await self._check_list(subject)
        self._check_prefixes()

    async def _hang_up(self, requests: Sequence[PlannedRequest]) -> None:
        """The clients disconnect after the provider has got the requests."""
        sending = [asyncio.create_task(self._send(request, is_held=True)) for request in requests]
        await self._wait_until_received(requests, len(requests))
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        self._store.answers.release()
        self.checks.observe(self._store.log.new())

    async def _run_and_delete(self, requests: Sequence[PlannedRequest], deletion: Deletion) -> None:
        """Requests of a deleted conversation may fail."""
        sending = [asyncio.create_task(self._send(request, is_held=True)) for request in requests]
        await self._wait_until_received(requests, len(requests))
        await self._delete(deletion)
        self._store.answers.release()
        answers = await asyncio.gather(*sending)
        self.checks.observe(self._store.log.new())
        for request, answer in zip(requests, answers, strict=True):
            recorded = self.checks.recorded.get(self._store_numbers[request.number])
            if recorded is None or not self.checks.model.conversations[recorded.conversation_id].is_deleted:
                await self._check(request, answer)
        self._check_prefixes()

    async def _run_and_kill(self, requests: Sequence[PlannedRequest], kill: Kill) -> None:
        await self._wait_until_ready()
        to_killed = [request for request in requests if request.api == kill.api]
        to_hold = {request.number for request in to_killed if request.number % 2}
        sending = [asyncio.create_task(self._send(request, is_held=request.number in to_hold)) for request in requests]
        await self._wait_until_received(to_killed, kill.received)
        await asyncio.sleep(kill.seconds)
        self._is_restarting[kill.api] = True
        await asyncio.to_thread(self._store.kill, kill.api)
        self._store.answers.release()
        answers = await asyncio.gather(*sending)
        await asyncio.sleep(0.05)  # Postgres may still carry out a commit of the killed process
        self.checks.observe(self._store.log.new())
        for request, answer in zip(requests, answers, strict=True):
            if request.api != kill.api or answer.status == 200:
                await self._check(request, answer)

    async def _wait_until_received(self, requests: Sequence[PlannedRequest], count: int) -> None:
        """Gives up after RECEIVED_TIMEOUT_SECONDS, because a request may be refused."""
        with suppress(TimeoutError):
            await wait_until_async(
                lambda: sum(len(self._bodies(request)) for request in requests) >= count, RECEIVED_TIMEOUT_SECONDS, ""
            )

    async def _send(self, request: PlannedRequest, *, is_held: bool = False, is_keyed: bool = False) -> Received:
        number = next(_numbers)
        echoed = None
        if request.echoes is not None:
            echoed = self.checks.recorded.get(self._store_numbers.get(request.echoes, -1))
        if echoed is not None:
            request = replace_fields(request, name=echoed.conversation_id)
            if self.checks.model.conversations[echoed.conversation_id].is_deleted:
                self._refused.add(request.number)
        self._requests[number] = request
        self._store_numbers[request.number] = number
        self._store.answers.plan(number, request.answer, is_held=is_held)
        self.sent += 1
        body: Json = {"model": MODEL, "messages": [*request.instructions, *request.messages], "seed": number}
        body |= {"stream": request.stream} | ({} if request.store is None else {"store": request.store})
        if request.user is not None:
            body["safety_identifier" if request.by_safety_identifier else "user"] = request.user
        if request.has_tools:
            body["tools"] = TOOLS
        headers = self._headers(request.subject) | ({"x-conversation-id": request.name} if request.name else {})
        if is_keyed:
            headers["idempotency-key"] = f"walk-{number}"
        url = f"{await self._api_url(request.api)}/v1/chat/completions"
        try:
            answer = await self._store.http.post(url, json=body, headers=headers)
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            return Received(error=repr(error))
        if is_keyed and answer.status_code == 200 and request.store is not False:
            repeated = await self._store.http.post(url, json=body, headers=headers)
            assert repeated.text == answer.text, f"request {request.number}, repeated: {repeated.text}"
        return received(answer, is_stream=request.stream)

    async def _check(self, request: PlannedRequest, answer: Received) -> None:
        what = f"request {request.number} ({request.kind})"
        if request.number in self._refused:  # it names a deleted conversation by its id
            assert (answer.status, self._bodies(request)) == (404, []), f"{what}: {answer.status} {answer.error}"
            return
        assert answer.status == 200, f"{what}: {answer.status} {answer.error}"
        [body] = self._bodies(request)
        assert body["messages"] == [*request.instructions, *request.messages], (
            f"{what}: the provider got other messages"
        )
        expected = request.answer.message()
        assert (answer.message.get("content") or None) == expected["content"], f"{what}: {answer.message}"
        assert [plain_call(call) for call in answer.message.get("tool_calls") or []] == expected.get(
            "tool_calls", []
        ), what
        recorded = self.checks.recorded.get(self._store_numbers[request.number])
        if request.store is False:
            assert recorded is None
            return
        assert recorded is not None, f"{what} is not in the log"
        assert recorded.joined, f"{what} has an answer, but its items did not join"
        assert answer.headers["x-conversation-id"] == recorded.conversation_id, what
        assert answer.headers["x-response-id"] == recorded.response_id, what
        assert answer.completion_id.removeprefix("chatcmpl-") == recorded.response_id.removeprefix("resp_"), what
        if request.number % SAMPLE == 0:
            await self._check_context(recorded)
            await self._check_conversation(recorded.conversation_id)

    def _bodies(self, request: PlannedRequest) -> list[Json]:
        number = self._store_numbers.get(request.number)
        return [] if number is None else self._store.answers.received[number]

    async def _check_context(self, recorded: RecordedRequest) -> None:
        """Compares the request that the API shows with the sent one. A request with deleted items is shown blanked."""
        request = recorded.request
        what = f"request {request.number} ({request.kind})"
        bodies = self._bodies(request)
        assert len(bodies) <= 1, f"{what} was sent to the provider twice"
        answer = await self._get(request.subject, f"/v1/responses/{recorded.response_id}/context")
        if self.checks.model.conversations[recorded.conversation_id].is_deleted:
            assert answer.status_code == 404, f"{what}: {answer.text}"
            return
        assert answer.status_code == 200, f"{what}: {answer.text}"
        shown = answer.json()
        if "blanked" in shown:
            assert self.checks.may_be_blanked(recorded), f"{what} is blanked, but nothing of it is deleted"
            assert shown["request_sha256_matches"] is None
            return
        assert not self.checks.must_be_blanked(recorded), f"{what} shows deleted items"
        assert shown["request_sha256_matches"] is True, f"{what} renders as {json.dumps(shown['request'])}"
        assert shown["request"]["messages"] == as_shown([*request.instructions, *request.messages]), what
        if bodies:
            assert shown["request"] == as_shown(bodies[0]), what

    async def _check_conversation(self, conversation_id: str) -> None:
        """The API shows the conversation's items only to the owner."""
        model = self.checks.model
        conversation = model.conversations[conversation_id]
        path = f"/v1/conversations/{conversation_id}/items?limit=100&order=asc"
        for subject, stored_subject in self._subjects.items():
            if stored_subject != conversation.subject or conversation.is_deleted:
                answer = await self._get(subject, path)
                assert answer.status_code == 404, f"{conversation_id}: {answer.text}"
                continue
            shown = [(item["id"], meaning_of_item(item)) for item in await self._all(subject, path)]
            expected = [(item.item_id, item.meaning) for item in model.shown_items(conversation_id)]
            assert shown == expected, f"{conversation_id} shows {shown} instead of {expected}"

    async def _check_list(self, subject: str) -> None:
        expected = {
            conversation_id
            for conversation_id, conversation in self.checks.model.conversations.items()
            if conversation.subject == self._subjects[subject]
            and conversation.requests > 1
            and not conversation.is_deleted
        }
        shown = await self._all(subject, "/v1/conversations?limit=100")
        assert sorted(conversation["id"] for conversation in shown) == sorted(expected)

    def _check_prefixes(self) -> None:
        """An item has a row in the table if a transcript is recognised at the item, or if a name leads to the item."""
        items = self._items_with_rows()
        while new := [*self._store.log.new()]:  # a reply whose client disconnected may just have ended
            self.checks.observe(iter(new))
            items = self._items_with_rows()
        model = self.checks.model
        for conversation_id in model.conversations:
            found = items[conversation_id]
            expected = model.recognisable(conversation_id) | model.named_items(conversation_id)
            assert found <= expected, f"rows of {conversation_id} are left: {found - expected}"
            assert expected <= found, f"rows of {conversation_id} are missing: {expected - found}"

    def _items_with_rows(self) -> Mapping[str, set[str]]:
        """The items that have a row in the table, by conversation."""
        items: dict[str, set[str]] = defaultdict(set)
        for stream, item_id in self._store.log.rows("SELECT conversation_id, item_id FROM transcript_prefixes"):
            items[id_of(stream)].add(item_id)
        return items

    async def _delete(self, deletion: Deletion) -> None:
        """Does nothing if there is nothing to delete."""
        recorded = self.checks.recorded.get(self._store_numbers.get(deletion.number, -1))
        if recorded is None or self.checks.model.conversations[recorded.conversation_id].is_deleted:
            return
        path = f"/v1/conversations/{recorded.conversation_id}"
        if deletion.at is not None:
            items = self.checks.model.own_items(recorded.conversation_id)
            if not items:
                return
            path += f"/items/{items[int(deletion.at * len(items))].item_id}"
        url = f"{await self._api_url(deletion.number % 2)}{path}"
        answer = await self._store.http.delete(url, headers=self._headers(recorded.request.subject))
        assert answer.status_code == 200, f"DELETE {path}: {answer.text}"

    async def _all(self, subject: str, path: str) -> list[Json]:
        entries: list[Json] = []
        while True:
            after = f"&after={entries[-1]['id']}" if entries else ""
            answer = await self._get(subject, f"{path}{after}")
            assert answer.status_code == 200, f"{path}: {answer.text}"
            entries += answer.json()["data"]
            if not answer.json()["has_more"]:
                return entries

    async def _get(self, subject: str, path: str) -> httpx.Response:
        """Repeats a GET while the answer is a 503, because views may be behind for longer than an api waits."""
        url = await self._api_url(self.sent % 2)
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            while True:
                answer = await self._store.http.get(f"{url}{path}", headers=self._headers(subject))
                if answer.status_code != 503:
                    return answer
                await asyncio.sleep(0.1)

    def _headers(self, subject: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self._tokens[subject]}"}

    async def _api_url(self, api: int) -> str:
        """The URL of the api. While this api restarts, the URL of the other api."""
        if self._is_restarting[api] and not await self._is_ready(api):
            api = 1 - api
            assert not self._is_restarting[api]
        return self._store.api_urls[api]

    async def _is_ready(self, api: int) -> bool:
        try:
            answer = await self._store.http.get(f"{self._store.api_urls[api]}/health/ready")
        except httpx.TransportError:
            return False
        self._is_restarting[api] = answer.status_code != 200
        return answer.status_code == 200

    async def _wait_until_ready(self) -> None:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            for api in range(len(self._store.api_urls)):
                while not await self._is_ready(api):  # noqa: ASYNC110 - no event says when another process is ready
                    await asyncio.sleep(0.05)


async def _four_at_a_time(check: Callable[[Any], Awaitable[None]], values: Iterable[Any]) -> None:
    slots = asyncio.Semaphore(4)

    async def one(value: Any) -> None:
        async with slots:
            await check(value)

    async with asyncio.TaskGroup() as group:
        for value in values:
            group.create_task(one(value))
