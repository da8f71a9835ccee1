"""Two apps move the head and revise items, also while replies run."""

import asyncio
from typing import Any

import httpx
import pytest

from domain.conversation import fold
from domain.events import ItemAppended, ReplyQueued
from domain.paths import takes
from tests.commands.api_client import create_conversation, error_of, eventually, message, output_text, post_response
from tests.commands.slow_answers import SlowAnswers
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

WITH_PROVIDER: dict[str, Any] = {}


@pytest.fixture
def slow(provider: ScriptedProvider) -> SlowAnswers:
    provider.script = slow = SlowAnswers()
    return slow


async def append(api: httpx.AsyncClient, conversation_id: str, *texts: str) -> list[str]:
    body = {"items": [message(text) for text in texts]}
    answer = await api.post(f"/v1/conversations/{conversation_id}/items", json=body)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["data"]]


async def revise(api: httpx.AsyncClient, conversation_id: str, item_id: str, text: str) -> httpx.Response:
    return await api.post(f"/v1/conversations/{conversation_id}/items/{item_id}", json={"item": message(text)})


async def move(api: httpx.AsyncClient, conversation_id: str, item_id: str) -> httpx.Response:
    return await api.post(f"/v1/conversations/{conversation_id}/head", json={"item": item_id})


def active_items(log: Log, conversation_id: str) -> list[ItemAppended]:
    """The items on the active path, also retracted ones."""
    events = log.events(conversation_id)
    state = fold(events)
    assert state is not None
    items = [event for event in events if isinstance(event, ItemAppended)]
    return [event for event in items if takes(state.path, event.branch, event.depth)]


async def test_a_move_of_the_head_does_not_move_a_running_reply(
    apis: list[httpx.AsyncClient], log: Log, slow: SlowAnswers, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(apis[0])
    [first, second] = await append(apis[0], conversation_id, "m0", "m1")
    running = asyncio.create_task(post_response(apis[0], "q0", conversation=conversation_id))
    await eventually(lambda: True if "q0" in slow.questions else None)
    assert (await move(apis[1], conversation_id, first)).status_code == 200
    slow.release("q1")
    queued = await post_response(apis[1], "q1", conversation=conversation_id, on_busy="queue")
    assert output_text(queued.json()) == "partial answer to q1"
    assert not [event for event in log.events(conversation_id) if isinstance(event, ReplyQueued)]
    assert [sent["content"] for sent in provider.requests[-1]["messages"]] == ["m0", "q1"]
    slow.release()
    assert output_text((await running).json()) == "partial answer to q0"
    on_path = active_items(log, conversation_id)
    assert [event.parent_id for event in on_path] == [None, *(event.item_id for event in on_path)][: len(on_path)]
    assert (len(on_path), on_path[0].item_id) == (3, first)
    [late_question] = [
        event for event in log.events(conversation_id) if isinstance(event, ItemAppended) and event.parent_id == second
    ]
    assert late_question.aside


async def test_a_cancelled_reply_can_only_be_retried_where_it_was_requested(
    apis: list[httpx.AsyncClient], slow: SlowAnswers, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(apis[0])
    [first, second] = await append(apis[0], conversation_id, "m0", "m1")
    body = {"conversation": conversation_id, "background": True}
    running = (await post_response(apis[0], "q0", **body)).json()
    await eventually(lambda: True if "q0" in slow.questions else None)
    await move(apis[1], conversation_id, first)
    assert (await apis[0].post(f"/v1/responses/{running['id']}/cancel")).status_code == 200
    slow.release()
    retry = {"retry": running["id"]}
    assert error_of(await apis[1].post("/v1/responses", json=retry))[:2] == (409, "head_moved")
    await move(apis[1], conversation_id, second)
    answer = await apis[1].post("/v1/responses", json=retry)
    assert answer.status_code == 200, answer.text
    assert [sent["content"] for sent in provider.requests[-1]["messages"]] == ["m0", "m1", "q0"]


async def test_appends_revisions_and_moves_through_two_apps_at_once_lose_nothing(
    apis: list[httpx.AsyncClient], log: Log
) -> None:
    conversation_id = await create_conversation(apis[0])
    ids = await append(apis[0], conversation_id, "m0", "m1", "m2")
    appended, revised, moved = await asyncio.gather(
        asyncio.gather(*(append(apis[n % 2], conversation_id, f"a{n}", f"b{n}") for n in range(10))),
        asyncio.gather(*(revise(apis[n % 2], conversation_id, ids[n % 3], f"r{n}") for n in range(10))),
        asyncio.gather(*(move(apis[n % 2], conversation_id, ids[n % 3]) for n in range(10))),
    )
    assert [answer.status_code for answer in (*revised, *moved)] == [200] * 20
    items = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    assert len(items) == 3 + 20 + 10
    by_id = {event.item_id: event for event in items}
    for event in items:  # each item lies right after its parent
        parent = by_id.get(event.parent_id or "")
        assert event.depth == (parent.depth if parent else 0) + 1
        assert event.leaves or parent is None or parent.branch == event.branch
    on_path = active_items(log, conversation_id)
    assert [event.depth for event in on_path] == list(range(1, len(on_path) + 1))
    assert [event.parent_id for event in on_path] == [None, *(event.item_id for event in on_path)][: len(on_path)]
    for first, second in appended:  # the items of one append stay together
        assert by_id[second].parent_id == first
