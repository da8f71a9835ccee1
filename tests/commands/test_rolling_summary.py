"""Rolling summaries: items over the budget are summarized and stay readable."""

import asyncio
import threading

import pytest

from context.choice import ReplyRequest
from context.selection import BUDGET
from context.summaries import PROMPT
from context.tokens import count
from domain.events import ItemAppended, ReplyRequested
from domain.items import Item, from_stored
from infrastructure.event_log.incarnation import StreamVersion
from replies.summary_writer import MAX_MODEL_CALLS
from scripts.loading.sources import Chitchat, Conversation
from tests.commands.api_client import create_conversation, message
from tests.commands.summarizing_store import (
    MODEL,
    Store,
    budget_left_out,
    compactions,
    create_rolling,
    talk,
    write_summary,
)
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

TURNS = 50


async def test_items_over_the_budget_are_summarized(store: Store, log: Log) -> None:
    conversation_id = await create_rolling(store)
    ids = await store.append(conversation_id, *talk(20))
    version, context = await store.assemble(conversation_id)
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
    assert [left_out.reason for left_out in context.shown.left_out] == ["summarized"]
    assert 250 < context.shown.tokens <= 750
    assert (await store.assemble(conversation_id))[0] == version


async def test_a_conversation_within_the_budget_is_not_summarized(store: Store, provider: ScriptedProvider) -> None:
    conversation_id = await create_rolling(store)
    await store.append(conversation_id, *talk(3))
    _, context = await store.assemble(conversation_id)
    assert (context.shown.summary, context.shown.left_out, provider.requests) == (None, (), [])


async def test_a_second_summary_covers_the_first_summary_and_newer_items(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_rolling(store)
    ids = await store.append(conversation_id, *talk(20))
    await store.assemble(conversation_id)
    ids += await store.append(conversation_id, *talk(20))
    await store.assemble(conversation_id)
    first, second = compactions(log, conversation_id)
    assert log.events(conversation_id)[second.replaces - 1] == first
    assert (second.first, ids[second.count - 1], second.depth) == (ids[0], second.last, second.count)
    assert second.tokens_before > first.tokens_before
    messages = provider.requests[-1]["messages"]
    assert messages[0] == {"role": "system", "content": PROMPT}
    assert first.summary in messages[1]["content"]
    assert "user 19" in messages[1]["content"]


async def test_a_too_long_summary_is_cut_at_a_sentence(store: Store, log: Log, provider: ScriptedProvider) -> None:
    provider.script = lambda exchange: exchange.stream_text("They talked about this and that. " * 500)
    conversation_id = await create_rolling(store)
    await store.append(conversation_id, *talk(20))
    await store.assemble(conversation_id)
    [compacted] = compactions(log, conversation_id)
    assert 150 < count(compacted.summary) == compacted.tokens_after <= 250
    assert compacted.summary.endswith("that.")
    assert provider.requests[0]["max_tokens"] <= 250


@pytest.mark.parametrize("answer", ["nothing", "an error"])
async def test_a_context_is_assembled_although_the_summary_fails(
    answer: str, store: Store, log: Log, provider: ScriptedProvider
) -> None:
    provider.script = (
        (lambda exchange: exchange.stream_text("")) if answer == "nothing" else lambda exchange: exchange.json(400, {})
    )
    conversation_id = await create_rolling(store)
    await store.append(conversation_id, *talk(20))
    _, context = await store.assemble(conversation_id)
    assert compactions(log, conversation_id) == []
    assert budget_left_out(context) == [BUDGET]
    assert context.shown.tokens <= 1_000


async def test_one_of_two_simultaneous_summaries_is_recorded_and_used(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_rolling(store)
    await store.append(conversation_id, *talk(20))

    await asyncio.gather(store.assemble(conversation_id), store.assemble(conversation_id))
    recorded = compactions(log, conversation_id)
    _, context = await store.assemble(conversation_id)
    assert len(recorded) == 1
    assert context.shown.summary == recorded[0].compaction_id


async def test_one_request_calls_the_model_at_most_eight_times(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_rolling(store)
    await store.append(conversation_id, *talk(100, words=400))
    await store.assemble(conversation_id)
    assert len(provider.requests) == MAX_MODEL_CALLS
    await store.assemble(conversation_id)
    first, second = compactions(log, conversation_id)
    assert second.count > first.count
    assert second.replaces


async def test_a_request_can_ask_for_compaction_with_a_threshold(store: Store, log: Log) -> None:
    conversation_id = await create_conversation(store.api)
    await store.append(conversation_id, *talk(8))
    management = [{"type": "compaction", "compact_threshold": 500}]
    await store.assemble(conversation_id)
    assert compactions(log, conversation_id) == []
    _, context = await store.assemble(conversation_id, context_management=management)
    [compacted] = compactions(log, conversation_id)
    assert context.shown.summary == compacted.compaction_id
    assert context.shown.tokens < 500


def longest_conversation() -> list[Item]:
    conversations = (record for record in Chitchat() if isinstance(record, Conversation))
    return max(conversations, key=lambda conversation: len(conversation.items)).items


async def test_a_real_conversation_of_2895_messages_continues_within_its_budget(
    store: Store, log: Log, provider: ScriptedProvider
) -> None:
    budget = 2_000
    messages = longest_conversation()
    assert len(messages) == 2_895
    conversation_id = await create_rolling(store, budget=budget)
    ids = await store.append(conversation_id, *messages)
    questions = [item for item in messages if item["role"] == "user"][:TURNS]
    for turn in range(TURNS):
        text = f"{turn}: {questions[turn]['content']} " + "and so on " * 40
        _, context = await store.assemble(conversation_id, text)
        sent = [sent_message["content"] for sent_message in context.fields["messages"]]
        assert sum(map(count, sent)) <= context.shown.tokens <= budget
        assert sent[-1] == text
        ids += await store.append(conversation_id, message(text), {**message("Indeed. " * 30), "role": "assistant"})
    recorded = compactions(log, conversation_id)
    assert len(recorded) > 1
    assert recorded[-1].count > 2_800
    assert {summary.first for summary in recorded} == {ids[0]}
    assert all(ids[summary.count - 1] == summary.last for summary in recorded)
    # Not every turn needs a summary.
    assert len(recorded) < TURNS
    stored = [from_stored(event.item) for event in log.events(conversation_id) if isinstance(event, ItemAppended)]
    assert stored[: len(messages)] == messages
    for expected in [summary.compaction_id for summary in recorded[-2::-1]] + [None]:
        assert (await store.post(f"{conversation_id}/compact/undo")).status_code == 200
        shown = (await store.context.dependencies.contexts.assemble(*await at_head(store, conversation_id))).shown
        assert shown.summary == expected
    for summary in recorded:
        assert (await store.post(f"{conversation_id}/compact/redo")).status_code == 200
        shown = (await store.context.dependencies.contexts.assemble(*await at_head(store, conversation_id))).shown
        assert shown.summary == summary.compaction_id


async def at_head(store: Store, conversation_id: str) -> tuple[str, StreamVersion, ReplyRequest]:
    """The arguments of `assemble`, for the head."""
    head = await store.context.dependencies.reader.head(conversation_id)
    assert head is not None
    return conversation_id, head.stream_version, ReplyRequest(model=MODEL, parameters={}, input_unknown=True)


@pytest.mark.parametrize("appended", ["items", "compact"])
async def test_if_match_fails_if_items_are_appended_while_a_summary_is_written(
    appended: str, store: Store, log: Log, provider: ScriptedProvider
) -> None:
    conversation_id = await create_rolling(store)
    await store.append(conversation_id, *talk(20))
    head = await store.context.dependencies.reader.head(conversation_id)
    assert head is not None
    writing, may_write = threading.Event(), threading.Event()

    def wait_then_write(exchange: Exchange) -> None:
        if not writing.is_set():
            writing.set()
            assert may_write.wait(10)
        write_summary(exchange)

    provider.script = wait_then_write
    body = {"conversation": conversation_id, "input": "And now?"}
    headers = {"If-Match": f'"{head.version}"'}
    requesting = asyncio.create_task(store.api.post("/v1/responses", json=body, headers=headers))
    await asyncio.to_thread(writing.wait, 10)
    await store.append(conversation_id, *talk(1))
    if appended == "compact":
        assert (await store.post(f"{conversation_id}/compact")).status_code == 200
    may_write.set()
    assert (await requesting).status_code == 412
    assert not [event for event in log.events(conversation_id) if isinstance(event, ReplyRequested)]


async def test_a_turn_too_long_to_be_summarized_is_left_out(store: Store, log: Log, provider: ScriptedProvider) -> None:
    conversation_id = await create_rolling(store)
    question, *_ = talk(1)
    long = [{"type": "message", "role": "assistant", "content": "word " * 2_000} for _ in range(16)]
    await store.append(conversation_id, question, *long, *talk(2))
    _, context = await store.assemble(conversation_id)
    assert provider.requests == []
    assert compactions(log, conversation_id) == []
    assert budget_left_out(context) == [BUDGET]
