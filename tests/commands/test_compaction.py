"""Rolling summaries and pins over the real servers: what falls out is summarized, readable all the same, and can be undone.

The longest conversation of the chitchat dataset, 2,895 messages, goes on for fifty turns under a budget.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

import httpx
import pytest
from msgspec import Struct

from commands.command_context import CommandContext
from commands.main import create_app
from commands.rolling_summary import context_with_summary
from context.assembly import Context, ReplyRequest
from context.selection import BUDGET
from context.summaries import PROMPT
from context.tokens import count
from domain.events import ContextCompacted, ItemAppended, ReplyRequested
from domain.items import Item, from_stored
from infrastructure.access.principal import DEFAULT
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from replies.summary_writer import MAX_MODEL_CALLS
from scripts.loading.sources import Chitchat, Conversation
from tests.commands.test_conversations import create, message
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

WINDOW = 4_000
TURNS = 50
MODEL = "scripted"


class Store(Struct):
    """The command API, and its handlers' wiring, for what no verb calls yet."""

    api: httpx.AsyncClient
    caller: CommandContext

    async def context(self, conversation_id: str, text: str = "And now?", **parameters: Any) -> tuple[int, Context]:
        head = await self.caller.dependencies.reader.head(conversation_id)
        assert head is not None
        asked = ReplyRequest(model=MODEL, parameters=parameters, input=[(mint("msg"), message(text))])
        return await context_with_summary(self.caller, conversation_id, head.version, asked)

    async def say(self, conversation_id: str, *items: Item) -> list[str]:
        ids: list[str] = []
        for begin in range(0, len(items), 20):
            answer = await self.api.post(
                f"/v1/conversations/{conversation_id}/items", json={"items": items[begin : begin + 20]}
            )
            assert answer.status_code == 200, answer.text
            ids += [each["id"] for each in answer.json()["data"]]
        return ids

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.api.post(f"/v1/conversations/{path}", json=body or None)


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[Store]:
    provider.script = summarizes
    changed = {"openai_base_url": provider.url, "model_timeout": 5, "model_window": WINDOW, "default_model": MODEL}
    app = create_app(settings.model_copy(update=changed), Metrics(), Event())
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://store", timeout=60) as client:
            context = CommandContext(
                dependencies=app.state.dependencies,
                principal=DEFAULT,
                request_id="req_test",
                if_match=None,
                idempotency=None,
                disconnected=for_ever,
            )
            yield Store(client, context)


async def for_ever() -> None:
    """Nobody hangs up."""
    await asyncio.Event().wait()


def summarizes(exchange: Exchange) -> None:
    """Says how many summaries it has written."""
    exchange.stream_text(f"Summary {len(exchange.provider.requests)}: they talked. Ann likes tea.")


def talk(turns: int, words: int = 40) -> list[Item]:
    return [
        {"type": "message", "role": role, "content": f"{role} {turn} " + "word " * words}
        for turn in range(turns)
        for role in ("user", "assistant")
    ]


def compactions(log: Log, conversation_id: str) -> list[ContextCompacted]:
    return [event for event in log.events(conversation_id) if isinstance(event, ContextCompacted)]


def budget_left_out(context: Context) -> list[str]:
    return [each.reason for each in context.shown.left_out if each.reason == BUDGET]


async def rolling(store: Store, budget: int = 1_000, **fields: Any) -> str:
    return await create(store.api, context_policy={"strategy": "rolling_summary", "budget": budget}, **fields)


async def test_what_falls_out_is_summarized_and_the_rest_fills_half_the_budget(store: Store, log: Log) -> None:
    conversation_id = await rolling(store)
    ids = await store.say(conversation_id, *talk(20))
    version, context = await store.context(conversation_id)
    [compacted] = compactions(log, conversation_id)
    assert (compacted.first, compacted.replaces, compacted.model) == (ids[0], 0, MODEL)
    assert ids[compacted.count - 1] == compacted.last
    assert compacted.count % 2 == 0
    assert compacted.depth == compacted.count
    assert compacted.usage is not None
    assert (compacted.usage.input_tokens, compacted.usage.output_tokens > 0) == (7, True), "as the provider counted it"
    assert version == len(log.events(conversation_id)) == context.shown.version
    assert context.shown.summary == compacted.compaction_id
    assert context.shown.ranges[0].first == ids[compacted.count]
    assert [each.reason for each in context.shown.left_out] == ["summarized"]
    assert 250 < context.shown.tokens <= 750
    # The next turns leave it at that.
    assert (await store.context(conversation_id))[0] == version


async def test_while_all_of_it_fits_nothing_is_summarized(store: Store, provider: ScriptedProvider) -> None:
    conversation_id = await rolling(store)
    await store.say(conversation_id, *talk(3))
    _, context = await store.context(conversation_id)
    assert (context.shown.summary, context.shown.left_out, provider.requests) == (None, (), [])


async def test_the_next_summary_takes_in_the_one_before_and_what_followed_it(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await rolling(store)
    ids = await store.say(conversation_id, *talk(20))
    await store.context(conversation_id)
    ids += await store.say(conversation_id, *talk(20))
    await store.context(conversation_id)
    first, second = compactions(log, conversation_id)
    assert log.events(conversation_id)[second.replaces - 1] == first
    assert (second.first, ids[second.count - 1], second.depth) == (ids[0], second.last, second.count)
    assert second.tokens_before > first.tokens_before
    asked = provider.requests[-1]["messages"]
    assert asked[0] == {"role": "system", "content": PROMPT}
    assert first.summary in asked[1]["content"]
    assert "user 19" in asked[1]["content"]


async def test_a_model_that_talks_on_is_cut_at_a_sentence_within_a_quarter_of_the_budget(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    provider.script = lambda exchange: exchange.stream_text("They talked about this and that. " * 500)
    conversation_id = await rolling(store)
    await store.say(conversation_id, *talk(20))
    await store.context(conversation_id)
    [compacted] = compactions(log, conversation_id)
    assert 150 < count(compacted.summary) == compacted.tokens_after <= 250
    assert compacted.summary.endswith("that.")
    assert provider.requests[0]["max_tokens"] <= 250


@pytest.mark.parametrize("says", ["nothing", "an error"])
async def test_a_model_that_fails_does_not_keep_a_reply_from_being_asked(
    says: str, store: Store, log: Log, provider: ScriptedProvider
) -> None:
    provider.script = (
        (lambda exchange: exchange.stream_text("")) if says == "nothing" else lambda exchange: exchange.json(400, {})
    )
    conversation_id = await rolling(store)
    await store.say(conversation_id, *talk(20))
    _, context = await store.context(conversation_id)
    assert compactions(log, conversation_id) == []
    assert budget_left_out(context) == [BUDGET]
    assert context.shown.tokens <= 1_000


async def test_a_summary_that_somebody_else_made_meanwhile_is_taken(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await rolling(store)
    await store.say(conversation_id, *talk(20))

    await asyncio.gather(store.context(conversation_id), store.context(conversation_id))
    made = compactions(log, conversation_id)
    _, context = await store.context(conversation_id)
    assert len(made) == 1
    assert context.shown.summary == made[0].compaction_id


async def test_one_request_asks_the_model_eight_times_at_most_and_the_next_goes_on(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await rolling(store)
    await store.say(conversation_id, *talk(100, words=400))
    await store.context(conversation_id)
    assert len(provider.requests) == MAX_MODEL_CALLS
    await store.context(conversation_id)
    first, second = compactions(log, conversation_id)
    assert second.count > first.count
    assert second.replaces


async def test_a_request_can_ask_for_compaction_by_itself(store: Store, log: Log) -> None:
    conversation_id = await create(store.api)
    await store.say(conversation_id, *talk(8))
    management = [{"type": "compaction", "compact_threshold": 500}]
    await store.context(conversation_id)
    assert compactions(log, conversation_id) == []
    _, context = await store.context(conversation_id, context_management=management)
    [compacted] = compactions(log, conversation_id)
    assert context.shown.summary == compacted.compaction_id
    assert context.shown.tokens < 500


async def test_given_compact_then_undo_and_redo_the_context_follows(store: Store, log: Log) -> None:
    conversation_id = await create(store.api)
    ids = await store.say(conversation_id, *talk(40))
    answer = await store.post(f"{conversation_id}/compact", instructions="Mind the tea.")
    body = answer.json()
    assert answer.status_code == 200, answer.text
    [compacted] = compactions(log, conversation_id)
    assert body == {
        "object": "conversation.compaction",
        "id": compacted.compaction_id,
        "summary": compacted.summary,
        "from": ids[0],
        "to": compacted.last,
        "count": compacted.count,
        "tokens_before": compacted.tokens_before,
        "tokens_after": compacted.tokens_after,
        "model": MODEL,
    }
    assert (await store.context(conversation_id))[1].shown.summary == compacted.compaction_id
    undone = await store.post(f"{conversation_id}/compact/undo")
    assert (undone.status_code, undone.json()["object"]) == (200, "conversation")
    assert (await store.context(conversation_id))[1].shown.summary is None
    assert (await store.post(f"{conversation_id}/compact/undo")).json()["error"]["code"] == "nothing_to_undo"
    assert (await store.post(f"{conversation_id}/compact/redo")).status_code == 200
    assert (await store.context(conversation_id))[1].shown.summary == compacted.compaction_id
    assert (await store.post(f"{conversation_id}/compact/redo")).json()["error"]["code"] == "nothing_to_undo"


async def test_a_compaction_with_a_key_is_made_once(store: Store, log: Log, provider: ScriptedProvider) -> None:
    conversation_id = await create(store.api)
    await store.say(conversation_id, *talk(40))
    path, headers = f"/v1/conversations/{conversation_id}/compact", {"idempotency-key": "k"}
    first = await store.api.post(path, headers=headers)
    asked = len(provider.requests)
    again = await store.api.post(path, headers=headers)
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["etag"] == first.headers["etag"]
    assert len(provider.requests) == asked


async def test_what_fits_has_nothing_to_compact(store: Store) -> None:
    conversation_id = await create(store.api, items=talk(1))
    answer = await store.post(f"{conversation_id}/compact")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "nothing_to_compact")
    unknown = await store.post(f"{mint('conv')}/compact")
    assert unknown.status_code == 404


async def test_a_pinned_item_is_shown_after_it_was_summarized_until_it_is_unpinned(store: Store) -> None:
    conversation_id = await rolling(store)
    ids = await store.say(conversation_id, *talk(20))
    answer = await store.post(f"{conversation_id}/items/{ids[1]}/pin")
    assert (answer.status_code, answer.json()["id"]) == (200, conversation_id)
    _, context = await store.context(conversation_id)
    assert context.shown.summary is not None
    assert (context.shown.ranges[0].first, context.shown.ranges[0].count) == (ids[1], 1)
    assert any("assistant 0 " in each["content"] for each in context.body["messages"])
    assert (await store.post(f"{conversation_id}/items/{ids[1]}/unpin")).status_code == 200
    _, context = await store.context(conversation_id)
    assert not any("assistant 0 " in each["content"] for each in context.body["messages"])


async def test_a_pinned_call_comes_with_its_output_however_old_they_are(store: Store) -> None:
    conversation_id = await create(store.api, context_policy={"budget": 500})
    call: Item = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
    output: Item = {"type": "function_call_output", "call_id": "c", "output": "sunny"}
    ids = await store.say(conversation_id, *talk(1), call, output, *talk(30))
    await store.post(f"{conversation_id}/items/{ids[2]}/pin")
    _, context = await store.context(conversation_id)
    assert [each.first for each in context.shown.ranges[:2]] == ids[2:4]
    await store.api.delete(f"/v1/conversations/{conversation_id}/items/{ids[3]}")
    _, context = await store.context(conversation_id)
    assert "orphaned_call" in [each.reason for each in context.shown.left_out]
    assert not any("tool_calls" in each for each in context.body["messages"])


def longest() -> list[Item]:
    conversations = (each for each in Chitchat() if isinstance(each, Conversation))
    return max(conversations, key=lambda each: len(each.items)).items


async def test_a_real_conversation_of_2895_messages_goes_on_under_its_budget(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    budget = 2_000
    messages = longest()
    assert len(messages) == 2_895
    conversation_id = await rolling(store, budget=budget)
    ids = await store.say(conversation_id, *messages)
    spoken = [each for each in messages if each["role"] == "user"][:TURNS]
    for turn in range(TURNS):
        text = f"{turn}: {spoken[turn]['content']} " + "and so on " * 40
        _, context = await store.context(conversation_id, text)
        sent = [each["content"] for each in context.body["messages"]]
        assert sum(map(count, sent)) <= context.shown.tokens <= budget
        assert sent[-1] == text
        ids += await store.say(conversation_id, message(text), {**message("Indeed. " * 30), "role": "assistant"})
    made = compactions(log, conversation_id)
    assert len(made) > 1
    assert made[-1].count > 2_800
    assert {each.first for each in made} == {ids[0]}
    assert all(ids[each.count - 1] == each.last for each in made)
    # Until all of the past is summarized, each request does a part of it; from then on it is not done at each turn.
    assert len(made) < TURNS
    # The originals are as they were.
    kept = [from_stored(event.item) for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    assert kept[: len(messages)] == messages
    # All the way back, and forth again.
    standing = made[-16:]
    for expected in [each.compaction_id for each in standing[-2::-1]] + [None]:
        assert (await store.post(f"{conversation_id}/compact/undo")).status_code == 200
        shown = (await store.caller.dependencies.contexts.assemble(*await at_head(store, conversation_id))).shown
        assert shown.summary == expected
    for each in standing:
        assert (await store.post(f"{conversation_id}/compact/redo")).status_code == 200
        shown = (await store.caller.dependencies.contexts.assemble(*await at_head(store, conversation_id))).shown
        assert shown.summary == each.compaction_id


async def at_head(store: Store, conversation_id: str) -> tuple[str, str, int, ReplyRequest]:
    head = await store.caller.dependencies.reader.head(conversation_id)
    assert head is not None
    return DEFAULT.tenant, conversation_id, head.version, ReplyRequest(model=MODEL, parameters={}, input_unknown=True)


@pytest.mark.parametrize("meddle", ["items", "compact"])
async def test_given_if_match_when_others_append_while_the_summary_is_written_then_it_is_412(
    meddle: str, store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await rolling(store)
    await store.say(conversation_id, *talk(20))
    head = await store.caller.dependencies.reader.head(conversation_id)
    assert head is not None
    writing, written = threading.Event(), threading.Event()

    def waits(exchange: Exchange) -> None:
        if not writing.is_set():
            writing.set()
            assert written.wait(10)
        summarizes(exchange)

    provider.script = waits
    given = {"conversation": conversation_id, "input": "And now?"}
    headers = {"If-Match": f'"{head.version}"'}
    asked = asyncio.create_task(store.api.post("/v1/responses", json=given, headers=headers))
    await asyncio.to_thread(writing.wait, 10)
    await store.say(conversation_id, *talk(1))
    if meddle == "compact":
        assert (await store.post(f"{conversation_id}/compact")).status_code == 200
    written.set()
    assert (await asked).status_code == 412
    assert not [event for event in log.events(conversation_id) if isinstance(event, ReplyRequested)]


async def test_a_turn_that_no_number_of_calls_covers_is_not_told_the_model_at_all(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await rolling(store)
    question, *_ = talk(1)
    long = [{"type": "message", "role": "assistant", "content": "word " * 2_000} for _ in range(16)]
    await store.say(conversation_id, question, *long, *talk(2))
    _, context = await store.context(conversation_id)
    assert provider.requests == []
    assert compactions(log, conversation_id) == []
    assert budget_left_out(context) == [BUDGET]
