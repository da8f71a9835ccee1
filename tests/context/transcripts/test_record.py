"""The record of a transcript renders to exactly the messages that were sent, even if clients change old messages.

`scripts/test tests/context/transcripts/test_record.py -m endless` tries five thousand conversations.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from context.rendering import request_sha256
from context.transcripts.chat_messages import Json, answer_message
from context.transcripts.known_messages import sent_messages
from context.transcripts.matching import Match
from context.transcripts.parsed import parsed
from context.transcripts.record import recorded_transcript
from context.transcripts.rendered import PAGE_EVENTS, RenderedMessage, rendered_transcript
from domain.events import (
    ConversationDeleted,
    ConversationStarted,
    Event,
    Fork,
    InputItem,
    ItemAppended,
    ReplyRequested,
    Transcript,
    TranscriptBase,
    TranscriptPart,
)
from domain.items import Item, as_stored
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.ids import mint
from tests.queries.writer import SHOWN

MANY, FEW = 5_000, 120


class MemoryLog:
    """A log in memory, with the methods that rendering needs. `lookups`: how many times events were read."""

    def __init__(self) -> None:
        self.streams: dict[str, list[Recorded]] = {}
        self.deleted: set[str] = set()
        self.lookups = 0

    def append(self, conversation_id: str, event: Event) -> Recorded:
        stream = self.streams.setdefault(conversation_id, [])
        recorded = Recorded(
            position=0,
            conversation_id=conversation_id,
            version=len(stream) + 1,
            tenant="t",
            recorded_at=datetime.now(UTC),
            subject="s",
            correlation_id="",
            event=event,
        )
        stream.append(recorded)
        return recorded

    async def items(self, conversation_id: str, item_ids: Sequence[str], *, until: int | None = None) -> list[Recorded]:
        self.lookups += 1
        stream, names = self.streams[conversation_id][:until], set(item_ids)
        return [each for each in stream if each.event.row_key in names]

    async def conversation(
        self, conversation_id: str, *, limit: int, after: int = 0, until: int | None = None
    ) -> list[Recorded]:
        self.lookups += 1
        return self.streams[conversation_id][:until][after : after + limit]

    async def conversation_backwards(self, conversation_id: str, *, until: int, limit: int) -> list[Recorded]:
        self.lookups += 1
        return self.streams[conversation_id][:until][::-1][:limit]

    async def deleted_items(self, item_ids: Collection[str], inherited_by: Collection[str] = ()) -> set[str]:  # noqa: ARG002
        return self.deleted.intersection(item_ids)

    async def deleted_responses(self, conversation_id: str, response_ids: Sequence[str]) -> frozenset[str]:
        await self.items(conversation_id, response_ids)
        return frozenset(self.deleted.intersection(response_ids))

    async def head(self, conversation_id: str) -> Head:
        last = self.streams[conversation_id][-1]
        return Head("t", last.version, 0, isinstance(last.event, ConversationDeleted), "", "")


class Entry(Struct):
    """A message as a client has it. `stored`: (id, item) of each item of the message. Empty if the items are not known."""

    message: Json
    stored: Sequence[tuple[str, Item]] = ()


class Chat:
    """A client with a transcript, and the log that has its requests and their answers."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.entries: list[Entry] = []
        self.instructions: list[Json] = []
        self.requests: list[tuple[str, str, list[Json]]] = []
        """(conversation, response, messages) of each request so far."""
        self.conversation_id = self._start(None)

    def _start(self, fork: Fork | None) -> str:
        conversation_id = mint("conv")
        started = ConversationStarted(
            conversation_id=conversation_id, tenant="t", owner="s", family=conversation_id, forked_from=fork
        )
        self.log.append(conversation_id, started)
        return conversation_id

    def fork(self) -> None:
        """Later requests go to a fork of the conversation."""
        fork = Fork(conversation_id=self.conversation_id, item_id="msg", version=len(self.log.streams))
        self.conversation_id = self._start(fork)

    def other_api(self, item: Item, message: Json) -> None:
        """Adds an item that came through another API. The client knows it as `message`."""
        self.entries.append(Entry(message, [self._join(item)]))

    def request(self, new: Sequence[Json], *, use_base: bool = True) -> Recorded:
        """Records a request with these new messages."""
        messages = [*(entry.message for entry in self.entries), *new]
        transcript = parsed(sent_messages([*self.instructions, *messages]), tenant="t", subject="s", user=None)
        matched = len(self.entries)
        base = self._base(messages, matched) if use_base else None
        match = Match(
            conversation_id=self.conversation_id,
            item_id="",
            depth=0,
            answered=True,
            read_version=1,
            items=transcript.ends[matched - 1] if matched else 0,
            messages=matched,
            base=base,
            aligned=[
                () if base and index < base.count else tuple(entry.stored) for index, entry in enumerate(self.entries)
            ],
        )
        ids: list[list[str]] = []
        for index, message in enumerate(new, matched):
            items = transcript.message_items(index)
            ids.append([mint("msg") for _ in items])
            self.entries.append(Entry(message, list(zip(ids[-1], items, strict=True))))
        record = recorded_transcript(transcript, match if matched else None, ids)
        event = ReplyRequested(
            response_id=mint("resp"),
            model="m",
            parameters=b"{}",
            input=tuple(
                InputItem(item_id=item_id, item=as_stored(item))
                for entry in self.entries[matched:]
                for item_id, item in entry.stored
            ),
            shown=SHOWN,
            transcript=record,
        )
        requested = self.log.append(self.conversation_id, event)
        for new_item in event.input:
            self._join(msgspec.json.decode(new_item.item), new_item.item_id)
        self.requests.append((self.conversation_id, event.response_id, messages))
        return requested

    def answer(self, items: Sequence[Item]) -> None:
        stored = [self._join(item) for item in items]
        in_message = [entry for entry in stored if entry[1]["type"] != "reasoning"]
        self.entries.append(Entry(answer_message(items), in_message))

    def _join(self, item: Item, item_id: str | None = None) -> tuple[str, Item]:
        item_id = item_id or mint("msg")
        self.log.append(
            self.conversation_id,
            ItemAppended(item_id=item_id, parent_id=None, branch=0, depth=1, item=as_stored(item), author="s"),
        )
        return item_id, item

    def _base(self, messages: Sequence[Json], matched: int) -> TranscriptBase | None:
        """The newest request that begins with the same message, and how many of its first messages are the same. None if no request does."""
        for conversation_id, response_id, sent in reversed(self.requests):
            count = 0
            while count < min(len(sent), matched) and encoded(sent[count]) == encoded(messages[count]):
                count += 1
            if count:
                return TranscriptBase(conversation_id=conversation_id, response_id=response_id, count=count)
        return None

    def sent(self, before: int | None = None) -> list[Json]:
        return [*self.instructions, *(entry.message for entry in self.entries[:before])]


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def rendered(chat: Chat, requested: Recorded, *, with_deleted: bool = True) -> list[RenderedMessage]:
    reader = cast("Any", chat.log)
    return asyncio.run(rendered_transcript(reader, requested, with_deleted=with_deleted))


def messages_of(rendered_messages: Sequence[RenderedMessage]) -> list[Json]:
    return [each.message for each in rendered_messages]


def text(answer: str) -> Item:
    return {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": answer, "annotations": []}],
    }


def call(call_id: str) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": '{"a": 1}', "status": "completed"}


def user(content: Any, **fields: Any) -> Json:
    return {"role": "user", "content": content, **fields}


REASONING: Item = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}


def test_a_request_records_only_the_items_that_are_new() -> None:
    chat = Chat()
    chat.instructions = [{"role": "system", "content": "Today is Monday."}]
    first = chat.request([user("Q1")])
    chat.answer([REASONING, text("A1")])
    chat.instructions = [{"role": "developer", "content": "Today is Tuesday."}]
    second = chat.request([user("Q2")])
    assert isinstance(first.event, ReplyRequested)
    assert isinstance(second.event, ReplyRequested)
    question_1, answer_1, question_2 = (entry.stored[0][0] for entry in chat.entries)
    assert first.event.transcript == Transcript(
        instructions=(b'{"role":"system","content":"Today is Monday."}',), parts=(TranscriptPart(items=(question_1,)),)
    )
    assert second.event.transcript == Transcript(
        instructions=(b'{"role":"developer","content":"Today is Tuesday."}',),
        base=TranscriptBase(conversation_id=chat.conversation_id, response_id=first.event.response_id, count=1),
        parts=(TranscriptPart(items=(answer_1, question_2)),),
    )
    assert rendered(chat, second) == [
        RenderedMessage(chat.instructions[0]),
        *(
            RenderedMessage(entry.message, items)
            for entry, items in zip(chat.entries, (each.items for each in rendered(chat, second)[1:]), strict=True)
        ),
    ]
    assert [[each.item_id for each in message.items] for message in rendered(chat, second)] == [
        [],
        [question_1],
        [answer_1],
        [question_2],
    ]


def test_a_message_without_known_items_is_recorded_as_it_was_sent() -> None:
    chat = Chat()
    chat.request([user("Q1")])
    chat.answer([text("A1")])
    chat.entries[1] = Entry({"role": "assistant", "content": "rewritten"})
    requested = chat.request([user("Q2")])
    assert isinstance(requested.event, ReplyRequested)
    assert requested.event.transcript is not None
    assert requested.event.transcript.parts == (
        TranscriptPart(message=b'{"role":"assistant","content":"rewritten"}'),
        TranscriptPart(items=(chat.entries[2].stored[0][0],)),
    )
    assert messages_of(rendered(chat, requested)) == chat.sent()


@pytest.mark.parametrize(
    "answer",
    [
        [call("a"), text("after the call")],
        [text("before"), call("a"), text("after")],
        [text("one"), text("two")],
        [REASONING, call("a"), REASONING, call("b"), REASONING],
    ],
)
def test_an_answer_of_several_items_is_recorded_without_its_text(
    answer: list[Item],
) -> None:
    chat = Chat()
    chat.request([user("Q1")])
    chat.answer(answer)
    requested = chat.request([user("Q2")])
    messages = rendered(chat, requested)
    assert messages_of(messages) == chat.sent()
    assert len(messages[1].items) == sum(item["type"] != "reasoning" for item in answer)
    assert isinstance(requested.event, ReplyRequested)
    assert requested.event.transcript is not None
    recorded = msgspec.json.encode(requested.event.transcript)
    assert not any(word in recorded for word in (b"before", b"after", b"one", b"look"))


def test_two_assistant_messages_in_a_row_stay_two_messages() -> None:
    chat = Chat()
    tool_call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    spoken, calling = {"role": "assistant", "content": "I look."}, {"role": "assistant", "tool_calls": [tool_call]}
    requested = chat.request([user("Q1"), spoken, calling, {"role": "tool", "tool_call_id": "a", "content": "1"}])
    assert messages_of(rendered(chat, requested)) == chat.sent()


def test_a_long_chain_of_requests_is_read_in_pages() -> None:
    chat = Chat()
    turns = 300
    for turn in range(turns):
        if turn in (100, 101, 200):
            chat.fork()
        requested = chat.request([user(f"Q{turn}")])
        chat.answer([text(f"A{turn}")])
    chat.log.lookups = 0
    assert messages_of(rendered(chat, requested)) == chat.sent(before=-1)
    assert chat.log.lookups < 4 * (turns * 4 / PAGE_EVENTS) + 20


def test_the_message_of_a_deleted_item_is_rendered_empty() -> None:
    chat = Chat()
    chat.request([user("Q1")])
    chat.answer([text("A1"), call("a")])
    chat.entries[0].message = user([{"type": "text", "text": "secret Q1 secret"}], name="ann")
    requested = chat.request([{"role": "tool", "tool_call_id": "a", "content": "secret"}, user("Q2")])
    chat.log.deleted |= {chat.entries[0].stored[0][0], chat.entries[2].stored[0][0]}
    messages = rendered(chat, requested, with_deleted=False)
    assert [each.is_blanked for each in messages] == [True, False, True, False]
    assert messages_of(messages) == [
        user(""),
        chat.entries[1].message,
        {"role": "tool", "content": "", "tool_call_id": "a"},
        user("Q2"),
    ]
    assert [[item.is_deleted for item in each.items] for each in messages] == [[True], [False, False], [True], [False]]
    assert messages_of(rendered(chat, requested)) == chat.sent()


def test_a_later_request_leaves_out_content_that_only_a_deleted_request_recorded() -> None:
    chat = Chat()
    chat.request([user("Q1")])
    chat.answer([text("A1")])
    chat.entries[0] = Entry(user("rewritten"))
    chat.entries[1].message = {"role": "assistant", "content": "A1, says the client"}
    second = chat.request([user("Q2")], use_base=False)
    chat.answer([text("A2")])
    third = chat.request([user("Q3")])
    assert isinstance(second.event, ReplyRequested)
    chat.log.deleted.add(second.event.response_id)
    messages = rendered(chat, third, with_deleted=False)
    assert [each.is_blanked for each in messages] == [True, True, False, False, False]
    assert messages_of(messages)[:2] == [user(""), {"role": "assistant", "content": "A1"}]
    assert messages_of(rendered(chat, third)) == chat.sent()
    chat.log.deleted.clear()
    assert not any(each.is_blanked for each in rendered(chat, third, with_deleted=False))
    chat.answer([text("A3")])
    origin = chat.conversation_id
    chat.fork()
    fourth = chat.request([user("Q4")])
    chat.log.append(origin, ConversationDeleted())
    assert [each.is_blanked for each in rendered(chat, fourth, with_deleted=False)][:2] == [True, True]


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
odd_json = st.one_of(st.none(), words, st.booleans(), st.floats(0, 9), st.lists(words, max_size=2))
extra_fields = st.dictionaries(st.sampled_from(["name", "annotations", "x", "refusal", "audio"]), st.none() | words)


def calls(message: Json) -> list[str]:
    return [each["id"] for each in message.get("tool_calls") or ()]


@st.composite
def habits(draw: st.DrawFn, message: Json) -> Json:
    """The message as a client may send it again."""
    content = message.get("content")
    match draw(st.sampled_from(["as it is", "nulls", "parts", "trimmed", "thoughts", "decorated", "extra", "dropped"])):
        case "nulls":
            return {**message, "refusal": None, "audio": None, "function_call": None}
        case "parts" if isinstance(content, str):
            return {**message, "content": [{"type": "text", "text": content}]}
        case "trimmed" if isinstance(content, str):
            return {**message, "content": content.strip()}
        case "thoughts" if isinstance(content, str):
            return {**message, "content": content.partition("</think>")[2] or content}
        case "decorated" if isinstance(content, str):
            return {**message, "content": draw(words) + content + draw(words)}
        case "extra":
            return {**message, "x": draw(odd_json), "name": draw(words)}
        case "dropped" if message["role"] == "assistant" and calls(message):
            return {name: value for name, value in message.items() if name != "content"}
        case _:
            return message


contents = st.one_of(
    words,
    words.map(lambda drawn: [{"type": "text", "text": drawn}]),
    st.tuples(words, words).map(
        lambda drawn: [{"type": "text", "text": drawn[0]}, IMAGE, {"type": "x", "y": drawn[1]}]
    ),
)
questions = st.tuples(contents, st.dictionaries(st.sampled_from(["name", "x"]), odd_json, max_size=1)).map(
    lambda drawn: user(drawn[0], **drawn[1])
)
answers = st.lists(
    st.one_of(words.map(text), words.map(lambda drawn: text(f"<think>{drawn}</think>{drawn}")), st.just(REASONING)),
    min_size=1,
    max_size=3,
)
OTHER_ITEMS: list[tuple[Item, Json]] = [
    ({"role": "user", "content": "plain"}, user("plain")),
    (
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}, {"type": "odd"}]},
        user([{"type": "text", "text": "one"}]),
    ),
    (
        {"type": "custom_tool_call_output", "call_id": "c", "output": "2"},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ),
    ({"type": "mcp_call", "name": "x"}, {"role": "assistant", "content": "nothing like it"}),
]


@st.composite
def chats(draw: st.DrawFn) -> tuple[Chat, list[tuple[Recorded, list[Json]]]]:
    """A chat of some turns, and each request with the messages that were sent."""
    chat, requests = Chat(), []
    for turn in range(draw(st.integers(1, 6))):
        match draw(st.sampled_from(["go on", "go on", "fork", "cut", "rewrite", "habits", "habits", "other", "edit"])):
            case "fork":
                chat.fork()
            case "cut":
                del chat.entries[: draw(st.integers(0, len(chat.entries)))]
            case "rewrite" if chat.entries:
                index = draw(st.integers(0, len(chat.entries) - 1))
                rewritten = {**chat.entries[index].message, "content": draw(contents)}
                is_known = draw(st.booleans())
                chat.entries[index] = Entry(rewritten, chat.entries[index].stored if is_known else ())
            case "habits":
                for index, entry in enumerate(chat.entries):
                    chat.entries[index] = Entry(draw(habits(entry.message)), entry.stored)
            case "other":
                chat.other_api(*draw(st.sampled_from(OTHER_ITEMS)))
            case "edit" if turn:
                del chat.entries[draw(st.integers(0, len(chat.entries))) :]
            case _:
                pass
        chat.instructions = [{"role": "system", "content": each} for each in draw(st.lists(words, max_size=2))]
        outputs = [
            {"role": "tool", "tool_call_id": call_id, "content": draw(contents)}
            for call_id in (calls(chat.entries[-1].message) if chat.entries else ())
        ]
        requested = chat.request([*outputs, draw(questions)], use_base=draw(st.integers(0, 3)) > 0)
        requests.append((requested, chat.sent()))
        tool_calls = [call(f"c{turn}{number}") for number in range(draw(st.integers(0, 2)))]
        chat.answer([*draw(answers), *tool_calls] if draw(st.booleans()) else [*tool_calls, *draw(answers)])
    return chat, requests


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.endless)])
def test_each_request_of_a_random_chat_renders_to_exactly_what_was_sent(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(chats())
    def check(drawn: tuple[Chat, list[tuple[Recorded, list[Json]]]]) -> None:
        chat, requests = drawn
        for requested, sent in requests:
            messages = rendered(chat, requested)
            assert request_sha256({"messages": messages_of(messages)}) == request_sha256({"messages": sent})
            assert not any(each.is_blanked for each in messages)
            everything = {item.item_id for each in messages for item in each.items}
            chat.log.deleted = everything | {response_id for _, response_id, _ in chat.requests}
            blanked = rendered(chat, requested, with_deleted=False)
            chat.log.deleted = set()
            assert [each.message["role"] for each in blanked] == [message["role"] for message in sent]

    check()
