"""What is recorded of each request, and what the request shares with the last request to the same model."""

from collections.abc import Mapping
from typing import Any, cast

import pytest
from msgspec.structs import replace

from context.assembly import Context, SharedContexts
from context.choice import ContextChooser, ReplyRequest
from context.conversation_settings import Reader, Summary
from context.history_backwards import RecentItems
from context.item_counts import ItemCounts
from context.last_requests import comparable_requests
from context.models import Models
from context.selection import ContextItem
from domain.events import ContextPolicy, SentSequence, SharedPrefix
from domain.items import Item
from infrastructure.settings import Settings

MODEL = "gpt-4o"
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


def user(text: str) -> Item:
    return {"type": "message", "role": "user", "content": text}


def assistant(text: str) -> Item:
    return {"type": "message", "role": "assistant", "content": text}


NOTHING_IS_READ = cast("Reader", None)


async def no_snapshot(tenant: str, conversation_id: str, max_tokens: int) -> RecentItems | None:
    return None


class Chat:
    """A chat that compares each request with the last one to the same model."""

    def __init__(self, api: str) -> None:
        self.api = api
        models = Models(Settings(model_api=api))
        self._contexts = SharedContexts(models, no_snapshot).of(NOTHING_IS_READ)
        self._chooser = ContextChooser(NOTHING_IS_READ, models, ItemCounts())
        self._depth = 0
        self.recent = RecentItems(
            version=1, instructions="Be kind.", policy=ContextPolicy(), items=(), reaches_start=True
        )
        self.parameters: dict[str, Any] = {"tools": [TOOL], "reasoning": {"effort": "low"}}
        self.last: dict[str, SentSequence] = {}

    async def add(self, *items: Item) -> None:
        for item in items:
            self._depth += 1
            item_id = f"msg_{self._depth}"
            [tokens] = await self._contexts.count_items([(item_id, item)], "o200k_base")
            added = ContextItem(item_id=item_id, stored=item, tokens=tokens, depth=self._depth)
            self.recent = replace(self.recent, items=(*self.recent.items, added))

    async def request(self, *input_items: Item, model: str = MODEL) -> Context:
        new = [(f"new_{number}", item) for number, item in enumerate(input_items)]
        reply_request = ReplyRequest(model=model, parameters=self.parameters, input=new)
        recent = replace(self.recent, last_requests=self.last)
        context = await self._contexts.render(reply_request, await self._chooser.choose(recent, None, reply_request))
        assert context.shown.sequence is not None
        self.last = {**self.last, model: context.shown.sequence}
        return context


@pytest.fixture(params=["chat", "responses"])
async def chat(request: pytest.FixtureRequest) -> Chat:
    chat = Chat(request.param)
    await chat.add(user("hi"), assistant("Hello!"))
    return chat


def messages(context: Context) -> int:
    """The number of messages or input items."""
    return len(context.fields["messages"] if "messages" in context.fields else context.fields["input"])


def tokens_at(context: Context) -> list[int]:
    """The tokens before each recorded point."""
    assert context.shown.sequence is not None
    return [point.tokens for point in context.shown.sequence.points]


async def test_a_request_that_continues_the_last_request_shares_all_of_it(chat: Chat) -> None:
    first = await chat.request(user("How are you?"))
    assert first.shown.shared_prefix == SharedPrefix(tokens=0, messages=0, reason="comparison_response_not_found")
    await chat.add(user("How are you?"), assistant("Well."))
    call = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "rain"}
    second = await chat.request(user("And now?"))
    assert second.shown.shared_prefix == SharedPrefix(tokens=first.shown.tokens, messages=messages(first))
    await chat.add(user("And now?"), call)
    third = await chat.request(output)
    assert third.shown.shared_prefix == SharedPrefix(tokens=second.shown.tokens, messages=messages(second))
    repeated = await chat.request(output)
    assert repeated.shown.shared_prefix == SharedPrefix(tokens=third.shown.tokens, messages=messages(third))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"tools": [{**TOOL, "name": "see"}]}, "tools_changed"),
        ({"tools": None}, "tools_changed"),
        ({"text": {"format": {"type": "json_object"}}}, "text_format_changed"),
        ({"text": {"verbosity": "low"}}, "verbosity_changed"),
        ({"reasoning": {"effort": "high"}}, "reasoning_effort_changed"),
        ({"service_tier": "flex"}, "service_tier_changed"),
        ({"prompt_cache_key": "k"}, "prompt_cache_key_changed"),
    ],
)
async def test_after_a_changed_setting_nothing_is_shared(
    chat: Chat, parameters: Mapping[str, Any], reason: str
) -> None:
    await chat.request(user("How are you?"))
    chat.parameters |= parameters
    context = await chat.request(user("How are you?"))
    assert context.shown.shared_prefix == SharedPrefix(tokens=0, messages=0, reason=reason)


async def test_the_part_before_a_change_is_shared(chat: Chat) -> None:
    last = await chat.request(user("How are you?"))
    tools, instructions, before_question, _ = tokens_at(last)
    system_messages = int("messages" in last.fields)

    async def shared(*input_items: Item, **fields: Any) -> SharedPrefix | None:
        changed = Chat(chat.api)
        changed.recent, changed.last = replace(chat.recent, **fields), chat.last
        return (await changed.request(*input_items)).shown.shared_prefix

    # The first question was not added, as if its reply had failed.
    expected = SharedPrefix(tokens=before_question, messages=system_messages + 2, reason="input_changed")
    assert await shared(user("Who are you?")) == expected
    expected = SharedPrefix(tokens=tools, messages=0, reason="input_changed")
    assert await shared(user("How are you?"), instructions="Be rude.") == expected
    expected = SharedPrefix(tokens=instructions, messages=system_messages, reason="input_changed")
    assert await shared(user("How are you?"), items=chat.recent.items[1:]) == expected
    summary = Summary(
        version=5,
        compaction_id="cmp_1",
        text="They met.",
        tokens=3,
        depth=2,
        first="a",
        last="b",
        count=2,
        tokens_before=9,
    )
    expected = SharedPrefix(tokens=instructions, messages=system_messages, reason="context_compacted")
    assert await shared(user("How are you?"), items=(), summary=summary) == expected
    pin = ContextItem(item_id="msg_0", stored=user("My name is Ann."), tokens=8)
    expected = SharedPrefix(tokens=instructions, messages=system_messages, reason="input_changed")
    assert await shared(user("How are you?"), pins=(pin,), pinned=frozenset({"msg_0"})) == expected


async def test_pins_are_shared_when_the_window_moves(chat: Chat) -> None:
    pin = ContextItem(item_id="msg_0", stored=user("My name is Ann."), tokens=8)
    chat.recent = replace(chat.recent, pins=(pin,), pinned=frozenset({"msg_0"}))
    await chat.request(user("How are you?"))
    chat.recent = replace(chat.recent, items=())
    moved = await chat.request(user("And now?"))
    _, instructions, pins, *_ = tokens_at(moved)
    assert pins == instructions + 8
    expected = SharedPrefix(tokens=pins, messages=int("messages" in moved.fields) + 1, reason="input_changed")
    assert moved.shown.shared_prefix == expected


async def test_a_request_is_compared_with_the_last_request_to_the_same_model(chat: Chat) -> None:
    first = await chat.request(user("How are you?"))
    other = await chat.request(user("How are you?"), model="gpt-4")
    assert other.shown.shared_prefix == SharedPrefix(tokens=0, messages=0, reason="model_changed")
    await chat.add(user("How are you?"), assistant("Well."))
    back = await chat.request(user("And now?"))
    assert back.shown.shared_prefix == SharedPrefix(tokens=first.shown.tokens, messages=messages(first))


async def test_after_a_new_summary_the_window_begins_as_early_as_possible(chat: Chat) -> None:
    chat.recent = replace(chat.recent, policy=ContextPolicy(budget=10_000))
    last = await chat.request(user("How are you?"))
    assert last.shown.sequence is not None
    chat.last = {MODEL: replace(last.shown.sequence, first_depth=9)}
    await chat.add(*[user("More?"), assistant("More.")] * 5)
    [stands, *_] = (await chat.request(user("?"))).shown.ranges
    assert stands.first == "msg_9"
    chat.last = {MODEL: replace(last.shown.sequence, first_depth=9, summary=b"another")}
    [begins, *_] = (await chat.request(user("?"))).shown.ranges
    assert begins.first == "msg_1"


async def test_a_restored_item_is_shown_if_the_window_had_the_whole_path(chat: Chat) -> None:
    everything = chat.recent.items
    for remaining in (everything[1:], ()):
        chat.recent = replace(chat.recent, items=remaining)
        await chat.request(user("How are you?"))
        chat.recent = replace(chat.recent, items=everything)
        [shown] = (await chat.request(user("And now?"))).shown.ranges
        assert (shown.first, shown.last) == ("msg_1", "msg_2")


def test_only_requests_since_the_oldest_item_are_compared() -> None:
    def at(depth: int) -> SentSequence:
        return SentSequence(depth=depth, first_depth=1, settings=b"", points=())

    items = [ContextItem(item_id="msg", stored=user("x"), tokens=1, depth=depth) for depth in (7, 8)]
    last = {"a": at(6), "b": at(7), "c": at(0)}
    assert comparable_requests(last, items, reaches_start=False, summary_depth=0).keys() == {"b"}
    assert comparable_requests(last, items, reaches_start=True, summary_depth=6).keys() == {"a", "b"}
    assert comparable_requests(last, (), reaches_start=True, summary_depth=0).keys() == {"a", "b", "c"}
