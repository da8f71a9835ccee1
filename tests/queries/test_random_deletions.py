"""Random histories of replies, forks, references, summaries and deletions.

Deleted content is in no later model request and in no later answer.

scripts/test tests/queries/test_random_deletions.py -m endless     runs sixty histories
"""

import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import Struct

from context.rendering import request_sha256
from context.summaries import PROMPT
from infrastructure.settings import Settings
from tests.commands.api_client import events_of, message, open_api
from tests.projections.world import World
from tests.queries.conftest import open_api as open_query_api
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider

REFUSED = {
    *("context_length_exceeded", "response_in_progress", "model_error", "previous_response_not_found"),
    *("item_not_found", "input_already_in_conversation", "not_found", "nothing_to_compact", "summary_changed"),
}


class Written(Struct):
    """A text that was written.

    `mark`: a word that only this text has. `item_id`: None if unknown, as for the input of a reply.
    """

    mark: str
    conversation_id: str
    item_id: str | None = None
    response_id: str | None = None


class History:
    """Sends random requests, and remembers what was written and deleted.

    `deleted`: the marks of deleted texts.
    """

    def __init__(self, seed: int, commands: httpx.AsyncClient, world: World, provider: ScriptedProvider) -> None:
        self.chance = random.Random(seed)
        self._commands = commands
        self._world = world
        self._provider = provider
        self._seen_requests = len(provider.requests)
        self._marks = seed * 10_000
        self._answer = ""
        self.conversations: list[str] = []
        self.listed: set[str] = set()
        self.responses: dict[str, str] = {}
        self.written: list[Written] = []
        self.deleted: list[str] = []
        provider.script = self._script

    def _script(self, exchange: Exchange) -> None:
        if self.chance.random() < 0.1:
            exchange.json(400, {"error": {"message": "no", "code": "x"}})
            return
        self._answer = self._text()
        if PROMPT in str(exchange.body):  # a summary has at most twelve marks
            self._answer = " ".join(re.findall(r"mark\d{7}x", str(exchange.body))[:12])
        exchange.stream_text(self._answer)

    async def run(self, steps: int) -> None:
        actions: tuple[Callable[[], Awaitable[None]], ...] = (
            *[self._reply] * 4,
            *[self._continue] * 6,
            *[self._refer] * 3,
            *[self._retract] * 3,
            *[self._compact] * 2,
            *(self._start, self._append, self._delete_response, self._delete_conversation),
            *(self._world.catch_up, self._lose_redis),
        )
        await self._start()
        for action in (self._reply, *self.chance.choices(actions, k=steps)):
            await action()
            for request in self._provider.requests[self._seen_requests :]:
                self.check(str(request))
            self._seen_requests = len(self._provider.requests)

    def check(self, text: str) -> None:
        """Nothing deleted may be in this text."""
        assert [mark for mark in self.deleted if mark in text] == []

    async def _start(self) -> None:
        policy: dict[str, Any] = {"strategy": self.chance.choice(("newest_turns", "rolling_summary"))}
        policy |= self.chance.choice(({}, {"budget": 250}))
        started = await self._post("/v1/conversations", {"context_policy": policy})
        self.conversations.append(started.json()["id"])
        self.listed.add(self.conversations[-1])
        await self._append()

    async def _append(self) -> None:
        conversation_id = self.chance.choice(self.conversations[-2:])
        texts = [self._text() for _ in range(self.chance.randint(1, 4))]
        answer = await self._post(
            f"/v1/conversations/{conversation_id}/items", {"items": [message(text) for text in texts]}
        )
        if answer.status_code != 200:
            return  # the conversation was deleted with its last response
        for text, item in zip(texts, answer.json()["data"], strict=True):
            self.written.append(Written(text.split()[0], conversation_id, item["id"]))

    async def _reply(self, *others: Any, **fields: Any) -> None:
        text = self._text()
        fields = fields or self.chance.choice(({}, {"conversation": self.chance.choice(self.conversations)}))
        body = {"input": [*others, message(text)], "stream": True, **fields}
        answer = await self._post("/v1/responses", body)
        if answer.status_code != 200:
            return
        response = events_of(answer)[-1]["response"]
        conversation_id = response["conversation"]["id"]
        self.responses[response["id"]] = conversation_id
        if conversation_id not in self.conversations:
            self.conversations.append(conversation_id)
        if response["status"] == "completed":
            [item] = response["output"]
            self.written.append(Written(text.split()[0], conversation_id, None, response["id"]))
            self.written.append(Written(self._answer.split()[0], conversation_id, item["id"], response["id"]))

    async def _continue(self) -> None:
        if self.responses:
            await self._reply(previous_response_id=self.chance.choice([*self.responses][-6:]))

    async def _refer(self) -> None:
        named = [text.item_id for text in self.written if text.item_id is not None]
        where = self.chance.choice(({}, {"conversation": self.chance.choice(self.conversations)}))
        await self._reply({"type": "item_reference", "id": self.chance.choice(named)}, **where)

    async def _compact(self) -> None:
        await self._post(f"/v1/conversations/{self.chance.choice(self.conversations)}/compact", {})

    async def _retract(self) -> None:
        text = self.chance.choice([text for text in self.written if text.item_id is not None])
        await self._delete(f"/v1/conversations/{text.conversation_id}/items/{text.item_id}", lambda one: one is text)

    async def _delete_response(self) -> None:
        if self.responses:
            response_id = self.chance.choice([*self.responses])
            is_listed = self.responses.pop(response_id) in self.listed
            await self._delete(
                f"/v1/responses/{response_id}", lambda text: not is_listed and text.response_id == response_id
            )

    async def _delete_conversation(self) -> None:
        if len(self.conversations) > 3:
            conversation_id = self.chance.choice(self.conversations)
            self.conversations.remove(conversation_id)
            for response_id in [one for one, where in self.responses.items() if where == conversation_id]:
                del self.responses[response_id]
            await self._delete(
                f"/v1/conversations/{conversation_id}", lambda text: text.conversation_id == conversation_id
            )

    async def _lose_redis(self) -> None:
        await self._world.redis.flushall()

    async def _delete(self, path: str, applies: Callable[[Written], bool]) -> None:
        answer = await self._commands.delete(path)
        assert answer.status_code in (200, 404), answer.text
        if answer.status_code == 200:
            self.deleted += [text.mark for text in self.written if applies(text)]

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        answer = await self._commands.post(path, json=body)
        assert answer.status_code == 200 or answer.json()["error"]["code"] in REFUSED, answer.text
        return answer

    def _text(self) -> str:
        self._marks += 1
        return f"mark{self._marks:07d}x " + "word " * self.chance.randint(1, 20)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def world(settings: Settings) -> AsyncIterator[World]:
    world = World(settings)
    await world.pool.open()
    yield world
    await world.close()


@pytest.mark.parametrize("histories", [2, pytest.param(60, marks=pytest.mark.endless)])
async def test_nothing_deleted_is_shown_to_people_or_models(
    histories: int, settings: Settings, world: World, provider: ScriptedProvider
) -> None:
    settings = settings.model_copy(update={"openai_base_url": provider.url, "model_window": 900})
    async with open_api(settings) as commands, open_query_api(settings) as queries:
        for seed in range(histories):
            history = History(seed, commands, world, provider)
            await history.run(40)
            assert history.deleted, seed
            await world.catch_up()
            for conversation_id in history.conversations:
                for resource in ("items?limit=100", "responses?limit=100", "context"):
                    answer = await queries.get(f"/v1/conversations/{conversation_id}/{resource}")
                    assert answer.status_code in (200, 404), answer.text
                    history.check(answer.text)
            sent = {request_sha256(body) for body in provider.requests}
            for response_id in history.responses:
                for resource in ("", "/input_items?limit=100", "?stream=true"):
                    answer = await queries.get(f"/v1/responses/{response_id}{resource}")
                    assert answer.status_code in (200, 404), answer.text
                    history.check(answer.text)
                context = await queries.get(f"/v1/responses/{response_id}/context")
                if context.status_code == 200:
                    body = msgspec.json.decode(context.content)
                    assert body["request_sha256_matches"] is True, (seed, response_id)
                    assert request_sha256(body["request"]) in sent
