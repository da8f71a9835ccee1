"""Chat Completions whose transcript departs from the stored items."""

import asyncio
from typing import Any

import httpx

from domain.conversation import fold
from domain.events import ItemAppended
from domain.items import from_stored, text_of
from tests.commands.api_client import eventually
from tests.commands.slow_answers import SlowAnswers
from tests.commands.test_chat_completions import Json, complete, user
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WITH_PROVIDER: dict[str, Any] = {}


def numbered(exchange: Exchange) -> None:
    exchange.stream_text(f"answer {len(exchange.provider.requests)}")


async def ask(
    api: httpx.AsyncClient, messages: list[Json], *questions: str, name: str | None = None
) -> tuple[list[Json], str]:
    """Asks the questions in turn. Without questions, asks for an answer to the last message.

    Returns (transcript, conversation id).
    """
    for added in [[user(question)] for question in questions] or [[]]:
        messages = [*messages, *added]
        answer = await complete(api, messages, name)
        messages = [*messages, answer.json()["choices"][0]["message"]]
    return messages, answer.headers["x-conversation-id"]


def contents(messages: list[Json]) -> list[str]:
    return [message["content"] for message in messages]


def path(log: Log, conversation_id: str) -> list[str]:
    """The texts of the conversation's own items on the active path."""
    events = log.events(conversation_id)
    items = {event.item_id: event for event in events if isinstance(event, ItemAppended)}
    state = fold(events)
    assert state is not None
    texts, item_id = [], state.head
    while item_id in items:
        texts.append(text_of(from_stored(items[item_id].item)))
        item_id = items[item_id].parent_id
    return texts[::-1]


def stored(log: Log, conversation_id: str) -> list[str]:
    """The texts of the conversation's own items on all branches."""
    events = [event for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    return [text_of(from_stored(event.item)) for event in events]


async def test_a_departing_transcript_opens_a_branch_after_the_last_common_item(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    provider.script = numbered
    first, conversation = await ask(api, [], "one", "two")
    edited, same = await ask(api, first[:2], "edited")
    assert same == conversation
    assert path(log, conversation) == contents(edited) == ["one", "answer 1", "edited", "answer 3"]

    regenerated, same = await ask(api, edited[:3])
    assert same == conversation
    assert path(log, conversation) == contents(regenerated) == ["one", "answer 1", "edited", "answer 4"]

    for transcript in (edited, first, regenerated, edited):
        longer, same = await ask(api, transcript, "more")
        assert same == conversation
        assert path(log, conversation) == contents(longer)
    departed, same = await ask(api, longer[:5], "else")  # a branch of a branch
    assert same == conversation
    assert path(log, conversation) == contents(departed)
    assert len(stored(log, conversation)) == 4 + 2 + 1 + 3 * 2 + 1 + 2, (
        "a message is missing, or was stored twice on a path"
    )
    assert provider.requests[-1]["messages"] == departed[:-1]


async def test_a_transcript_continues_in_a_fork_while_a_reply_runs_after_the_same_item(
    apis: list[httpx.AsyncClient], log: Log, provider: ScriptedProvider
) -> None:
    provider.script = numbered
    first, conversation = await ask(apis[0], [], "one", "two")
    provider.script = slow = SlowAnswers()
    at_head = asyncio.create_task(ask(apis[0], first, "slow at the head"))
    await eventually(lambda: slow.questions or None)
    slow.release("elsewhere", "beside", "beside the head")
    elsewhere = await ask(apis[1], first[:2], "elsewhere")
    assert elsewhere[1] == conversation
    assert path(log, conversation) == contents(elsewhere[0])

    on_branch = asyncio.create_task(ask(apis[0], first[:2], "slow on a branch"))
    await eventually(lambda: slow.questions[2:] or None)
    for messages, question in ((first[:2], "beside"), (first, "beside the head")):
        transcript, fork = await ask(apis[1], messages, question)
        assert fork != conversation
        assert path(log, fork) == contents(transcript[-2:])
    slow.release()
    assert {(await at_head)[1], (await on_branch)[1]} == {conversation}
    assert path(log, conversation) == contents((await on_branch)[0])
    provider.script = numbered
    for transcript, _ in (await at_head, elsewhere):
        longer, same = await ask(apis[1], transcript, "more")
        assert same == conversation
        assert path(log, conversation) == contents(longer)


async def test_a_transcript_in_a_fork_can_depart_at_an_inherited_item(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    provider.script = numbered
    first, conversation = await ask(api, [], "one", "two")
    edited, _ = await ask(api, first[:2], "edited", "and then")
    answer = await api.post(f"/v1/conversations/{conversation}/fork", json={})
    fork = answer.json()["id"]

    departed, same = await ask(api, edited[:4], "in the fork", name=fork)
    assert same == fork
    assert path(log, fork) == contents(departed[4:])
    other, same = await ask(api, edited[:2], "earlier in the fork", name=fork)
    assert same == fork
    assert path(log, fork) == contents(other[2:])
    went_on, same = await ask(api, departed, "more", name=fork)
    assert same == fork
    assert path(log, fork) == contents(went_on[4:])
    not_inherited, same = await ask(
        api, first, "not in the fork", name=fork
    )  # "two" is on another branch of the origin
    assert same == fork
    assert path(log, fork) == contents(not_inherited[2:])


async def test_a_rewritten_answer_is_recognised_on_any_branch(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    provider.script = lambda exchange: exchange.stream_text(
        f"a long answer with the number {len(exchange.provider.requests)}"
    )
    first, conversation = await ask(api, [], "one", "two")
    regenerated, _ = await ask(api, first[:3])
    count = len(stored(log, conversation))
    for transcript in (first, regenerated):
        noted = [*transcript[:-1], {**transcript[-1], "content": f"{transcript[-1]['content']}\n(a note)"}]
        _, same = await ask(api, noted, "more")
        assert same == conversation
        assert path(log, conversation)[:4] == contents(transcript)
    assert len(stored(log, conversation)) == count + 4
    cut_off, same = await ask(api, regenerated[2:], "after the front was cut off")
    assert same == conversation
    assert path(log, conversation) == [*contents(regenerated[:2]), *contents(cut_off)]


async def test_a_deletion_on_one_branch_does_not_stop_a_transcript_on_another(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    provider.script = numbered
    first, conversation = await ask(api, [], "one", "two")
    edited, _ = await ask(api, first[:2], "edited")
    events = [event for event in log.events(conversation) if isinstance(event, ItemAppended)]
    [two] = [event.item_id for event in events if text_of(from_stored(event.item)) == "two"]
    deleted = await api.delete(f"/v1/conversations/{conversation}/items/{two}")
    assert deleted.status_code == 200

    longer, same = await ask(api, edited, "more")

    assert same == conversation
    assert path(log, conversation) == contents(longer)
    assert len(stored(log, conversation)) == 4 + 2 + 2, "a message is missing, or was stored twice"
    resent, same = await ask(api, first, "more")
    assert same == conversation
    assert path(log, conversation) == contents(resent), "the deleted message and what followed it are not stored again"
