"""Random shares, deletions, forks, references and reads of several users, compared with an AccessModel.

Everybody is shown what they may see, and nothing else.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import count
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from infrastructure.access.principal import Principal
from infrastructure.ids import mint
from infrastructure.settings import Settings
from infrastructure.stores import redis
from projections.views.catalog import MONGO_VIEWS
from tests.access.access_model import AccessModel, ModelConversation, ModelItem, ModelResponse
from tests.access.apis_as import ADMIN, Apis, open_apis, projecting, user
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider

WORD = re.compile(r"\bw\d+x\b")
LIMIT = "limit=100&order=asc"
LAGGING = 503
MAX_LAGGING_READS = 30
"""Each of these reads may wait two seconds."""

Step = tuple[str, int, int, int]
"""(kind, number of the user, two numbers that the step uses)."""


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


class History:
    """Takes steps in the store and in the model, and compares both.

    A stranger of another tenant has the same name as one of the users.
    """

    def __init__(self, apis: Apis, provider: ScriptedProvider) -> None:
        self._apis = apis
        self._provider = provider
        self._model = AccessModel()
        self._numbers = count(1)
        tenant = mint("conv")
        self._users = [user(name, tenant) for name in ("ann", "bob", "cat")]
        self._admin = user("root", tenant, ADMIN)
        self._stranger = user("ann", f"{tenant}.other")
        self._step: dict[str, Callable[[Principal, int, int], Awaitable[None]]] = {
            "create": self._create,
            "append": self._append,
            "retract": self._retract,
            "delete": self._delete,
            "share": self._share,
            "unshare": self._unshare,
            "reply": self._reply,
            "reply alone": self._reply_alone,
            "continue": self._continue,
            "refer": self._refer,
            "delete response": self._delete_response,
        }
        provider.script = self._answer

    async def take(self, steps: list[Step]) -> None:
        for kind, actor, one, other in steps:
            everyone = [*self._users, self._users[0], self._admin, self._stranger]
            await self._step[kind](everyone[actor % len(everyone)], one, other)

    def _word(self) -> str:
        return f"w{next(self._numbers)}x"

    def _answer(self, exchange: Exchange) -> None:
        exchange.stream_text(self._word())

    def _conversation(self, number: int) -> ModelConversation | None:
        existing = self._model.conversations
        return existing[number % len(existing)] if existing else None

    async def _create(self, actor: Principal, _one: int, _other: int) -> None:
        title, words = self._word(), [self._word(), self._word()]
        conversation = ModelConversation(
            id=await self._apis.create(actor, *words, title=title), owner=actor, title=title
        )
        self._model.conversations.append(conversation)
        items = await self._apis.get(actor, f"/v1/conversations/{conversation.id}/items?{LIMIT}")
        for entry, word in zip(items.json()["data"], words, strict=True):
            conversation.add(entry["id"], word)

    async def _append(self, actor: Principal, one: int, _other: int) -> None:
        if (conversation := self._conversation(one)) is None or not conversation.listed:
            return
        word = self._word()
        body = {"items": [{"role": "user", "content": word}]}
        answer = await self._apis.post(actor, f"/v1/conversations/{conversation.id}/items", body)
        if self._is_allowed(answer, conversation, actor, "writer"):
            conversation.add(answer.json()["data"][0]["id"], word)

    async def _retract(self, actor: Principal, one: int, other: int) -> None:
        if (conversation := self._conversation(one)) is None or not conversation.items:
            return
        item = conversation.items[other % len(conversation.items)]
        answer = await self._apis.request(actor, "DELETE", f"/v1/conversations/{conversation.id}/items/{item.id}")
        if item.retracted and conversation.role(actor) in ("owner", "writer"):
            assert answer.status_code == 404
        elif self._is_allowed(answer, conversation, actor, "writer"):
            item.retracted = True

    async def _delete(self, actor: Principal, one: int, other: int) -> None:
        if (conversation := self._conversation(one)) is None or other % 2:
            return
        answer = await self._apis.request(actor, "DELETE", f"/v1/conversations/{conversation.id}")
        if self._is_allowed(answer, conversation, actor, "owner"):
            conversation.deleted = True

    async def _share(self, actor: Principal, one: int, other: int) -> None:
        if (conversation := self._conversation(one)) is None:
            return
        subject = [None, "ann", "bob", "cat"][other % 4]
        if subject in (conversation.owner.subject, actor.subject):
            return
        role = ("reader", "writer")[other // 4 % 2]
        body = {"with": {"tenant": True} if subject is None else {"subject": subject}, "role": role}
        answer = await self._apis.post(actor, f"/v1/conversations/{conversation.id}/shares", body)
        if self._is_allowed(answer, conversation, actor, "owner"):
            conversation.shares[subject] = role

    async def _unshare(self, actor: Principal, one: int, other: int) -> None:
        if (conversation := self._conversation(one)) is None or not conversation.shares:
            return
        subject = [*conversation.shares][other % len(conversation.shares)]
        query = "tenant=true" if subject is None else f"subject={subject}"
        answer = await self._apis.request(actor, "DELETE", f"/v1/conversations/{conversation.id}/shares?{query}")
        if self._is_allowed(answer, conversation, actor, "owner"):
            del conversation.shares[subject]

    async def _reply(self, actor: Principal, one: int, _other: int) -> None:
        if (conversation := self._conversation(one)) is not None:
            answer = await self._ask(actor, conversation=conversation.id)
            if self._is_allowed(answer, conversation, actor, "writer"):
                await self._note_reply(actor, answer.json())

    async def _reply_alone(self, actor: Principal, _one: int, _other: int) -> None:
        await self._note_reply(actor, (await self._ask(actor)).json())

    async def _continue(self, actor: Principal, one: int, other: int) -> None:
        """Any reader may continue. A reader who may not write gets a new conversation."""
        if (response := self._response(one, other)) is None:
            return
        answer = await self._ask(actor, previous_response_id=response.id)
        if response.deleted or response.conversation.role(actor) is None:
            assert answer.status_code == 400, answer.text
            return
        assert answer.status_code == 200, answer.text
        await self._note_reply(actor, answer.json(), after=response.items[-1])

    async def _refer(self, actor: Principal, one: int, other: int) -> None:
        if (source := self._conversation(one)) is None or not source.items:
            return
        item = source.items[other % len(source.items)]
        target = self._conversation(other // 3)
        fields = {} if target is None or target.role(actor) in (None, "reader") else {"conversation": target.id}
        input_items = [{"type": "item_reference", "id": item.id}, {"role": "user", "content": self._word()}]
        answer = await self._ask(actor, input_items, **fields)
        if not item.is_deleted and source.role(actor) is not None:
            assert answer.status_code == 200, answer.text
        if answer.status_code == 200:
            await self._note_reply(actor, answer.json())
        else:
            assert answer.json()["error"]["code"] == "item_not_found"

    async def _delete_response(self, actor: Principal, one: int, other: int) -> None:
        if (response := self._response(one, other)) is None:
            return
        answer = await self._apis.request(actor, "DELETE", f"/v1/responses/{response.id}")
        conversation = response.conversation
        if response.deleted and conversation.role(actor) in ("owner", "writer"):
            assert answer.status_code == 404
        elif self._is_allowed(answer, conversation, actor, "writer"):
            conversation.delete_response(response)

    def _response(self, one: int, other: int) -> ModelResponse | None:
        conversation = self._conversation(one)
        responses = conversation.responses if conversation is not None else []
        return responses[other % len(responses)] if responses else None

    def _is_allowed(
        self, answer: httpx.Response, conversation: ModelConversation, actor: Principal, needed: str
    ) -> bool:
        """Whether the actor has at least the role `needed`. The status must agree."""
        role = conversation.role(actor)
        expected = 404 if role is None else 200 if role in ("owner", needed) else 403
        assert answer.status_code == expected, (role, answer.text)
        return expected == 200

    async def _ask(self, actor: Principal, text: Any = None, **fields: Any) -> httpx.Response:
        """Checks that the provider gets nothing that the actor may not see."""
        allowed = self._model.words_of(actor)
        text = self._word() if text is None else text
        before = len(self._provider.requests)
        answer = await self._apis.post(actor, "/v1/responses", {"input": text, **fields})
        allowed |= set(WORD.findall(str(text)))
        for request in self._provider.requests[before:]:
            assert set(WORD.findall(str(request))) <= allowed
        return answer

    async def _note_reply(self, actor: Principal, response: dict[str, Any], after: ModelItem | None = None) -> None:
        """Adds what the reply stored. `after`: the item from which the reply continues. None: the head.

        The reply may copy only items that the actor may see.
        """
        conversation_id = response["conversation"]["id"]
        known_ids = {conversation.id: conversation for conversation in self._model.conversations}
        allowed = self._model.words_of(actor)
        conversation = known_ids.get(conversation_id)
        if conversation is None:
            events = await self._apis.get(self._admin_of(actor), f"/v1/conversations/{conversation_id}/events?limit=1")
            fork = events.json()["data"][0]["data"]["forked_from"]
            conversation = ModelConversation(
                id=conversation_id,
                owner=actor,
                listed=False,
            )
            assert (fork["item_id"] if fork else None) == (after.id if after else None)
            self._model.conversations.append(conversation)
        else:
            assert conversation.role(actor) in ("owner", "writer")
        conversation.head = after or conversation.head
        stored = await self._apis.get(self._admin_of(actor), f"/v1/responses/{response['id']}/input_items?{LIMIT}")
        added: list[ModelItem] = []
        for entry in (*stored.json()["data"], *response["output"]):
            [word] = WORD.findall(str(entry["content"]))
            original = next((item for item in self._all_items() if item.word == word), None)
            assert original is None or word in allowed
            added.append(conversation.add(entry["id"], word, original and (original.original or original)))
        conversation.responses.append(ModelResponse(response["id"], conversation, added))

    def _admin_of(self, actor: Principal) -> Principal:
        return user("root", actor.tenant, ADMIN)

    def _all_items(self) -> Iterator[ModelItem]:
        return (item for conversation in self._model.conversations for item in conversation.items)

    async def check(self, *, lagging: bool = False) -> None:
        """Reads as everybody. With `lagging`, tries only some reads, and a read may answer 503."""
        users = [*self._users, self._admin, self._stranger]
        checks = [self._list_check(principal, lagging=lagging) for principal in users]
        checks += [
            check
            for principal in users
            for conversation in self._model.conversations
            for check in self._checks(principal, conversation, lagging=lagging)
        ]
        if lagging:
            random.Random(len(checks)).shuffle(checks)
            checks = checks[:MAX_LAGGING_READS]
        at_once = asyncio.Semaphore(MAX_LAGGING_READS if lagging else 8)

        async def run_check(check: Callable[[], Awaitable[None]]) -> None:
            async with at_once:
                await check()

        await asyncio.gather(*map(run_check, checks))

    async def _get(self, principal: Principal, path: str) -> httpx.Response:
        answer = await self._apis.get(principal, path)
        shown = set(WORD.findall(answer.text))
        assert shown <= self._model.words_of(principal), (path, principal.subject)
        return answer

    def _list_check(self, principal: Principal, *, lagging: bool) -> Callable[[], Awaitable[None]]:
        async def check() -> None:
            answer = await self._get(principal, "/v1/conversations?limit=100&order=asc")
            if lagging and answer.status_code == LAGGING:
                return
            listed = [conversation.id for conversation in self._model.visible_to(principal) if conversation.listed]
            assert [entry["id"] for entry in answer.json()["data"]] == sorted(listed)

        return check

    def _checks(
        self, principal: Principal, conversation: ModelConversation, *, lagging: bool
    ) -> Iterator[Callable[[], Awaitable[None]]]:
        is_visible = conversation.role(principal) is not None

        async def read(url: str, holds: Callable[[Any], object] | None, exists: bool) -> None:
            answer = await self._get(principal, url)
            if lagging and is_visible and answer.status_code == LAGGING:
                return
            expected = 200 if is_visible and exists else 404
            assert answer.status_code == expected, (url, principal.subject, answer.text)
            if expected == 200 and holds is not None:
                assert holds(answer.json()), (url, principal.subject, answer.text)

        def check(url: str, holds: Callable[[Any], object] | None = None, *, exists: bool = True) -> Any:
            return partial(read, url, holds, exists)

        path = f"/v1/conversations/{conversation.id}"
        on_path = [item.word for item in conversation.path if not item.is_deleted]
        response_ids = [response.id for response in conversation.responses if not response.deleted]
        yield check(path, lambda body: (body["id"], body["title"] or "") == (conversation.id, conversation.title))
        yield check(f"{path}/items?{LIMIT}", lambda body: WORD.findall(str(body)) == on_path)
        yield check(f"{path}/context", lambda body: WORD.findall(str(body["items"])) == on_path)
        yield check(f"{path}/responses?{LIMIT}", lambda body: [entry["id"] for entry in body["data"]] == response_ids)
        yield check(f"{path}/events")
        for item in (*conversation.path[:1], *conversation.items[-1:]):
            yield check(f"{path}/items/{item.id}", exists=not item.is_deleted)
        for response in conversation.responses[-1:]:
            for suffix in ("", "/input_items", "?stream=true", "/context"):
                yield check(f"/v1/responses/{response.id}{suffix}", exists=not response.deleted)


KINDS = (
    *("create", "append", "append", "retract", "delete", "share", "share", "share", "unshare"),
    *("reply", "reply", "reply alone", "continue", "continue", "refer", "delete response"),
)
numbers = st.integers(0, 23)
steps = st.lists(st.tuples(st.sampled_from(KINDS), numbers, numbers, numbers), min_size=8, max_size=20)
first_steps = st.just([("create", 0, 0, 0), ("reply", 0, 0, 0), ("create", 1, 0, 0)])


async def run(settings: Settings, provider: ScriptedProvider, before: list[Step], lagged: list[Step]) -> None:
    """Checks after the steps `before`, then while the views lag, then after a rebuild of the views."""
    settings = settings.model_copy(
        update={"openai_base_url": provider.url, "default_model": "scripted", "model_window": 50_000}
    )
    async with AsyncExitStack() as stack:
        apis = await stack.enter_async_context(open_apis(settings))
        history = History(apis, provider)
        async with projecting(apis.projector):
            await history.take(before)
            await history.check()
        commands_only = [step for step in lagged if step[0] in ("append", "retract", "delete", "share", "unshare")]
        await history.take(commands_only)
        await history.check(lagging=True)
        for view in MONGO_VIEWS:
            await apis.projector.reset_view(view)
        client = redis.connect(settings)
        await client.flushdb()
        await client.aclose()
        await apis.projector.catch_up()
        await history.check()


@pytest.mark.parametrize("examples", [2, pytest.param(300, marks=pytest.mark.endless)])
def test_everybody_is_shown_what_they_may_see_and_nothing_else(
    examples: int, settings: Settings, provider: ScriptedProvider
) -> None:
    @hypothesis_settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if examples > 2 else (Phase.generate,),
    )
    @given(first_steps, steps, steps)
    def histories_are_right(first: list[Step], more: list[Step], lagged: list[Step]) -> None:
        asyncio.run(run(settings, provider, [*first, *more], lagged))

    histories_are_right()
