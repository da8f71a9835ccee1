"""A reply's stream is made again from its record: the same events, whatever pieces it came in, however it ended."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from domain.events import (
    Event,
    ReplyCancelled,
    ReplyCompleted,
    ReplyEnd,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
    Shown,
    Timing,
    Usage,
)
from infrastructure.event_log.recorded import Recorded
from infrastructure.ids import mint
from replies import stream_events
from replies.output import Output, output_of_events
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, StreamPart
from replies.record import Record
from replies.response_from_events import opening_events, partial_output

CONVERSATION = mint("conv")
TYPED: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SHOWN = Shown(version=1, ranges=(), budget=9, tokens=1, encoding="o200k_base", renderer=2, request_sha256=b"\0" * 32)
REQUESTED = ReplyRequested(response_id=mint("resp"), model="m", parameters=b"{}", input=(), shown=SHOWN)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
grown = st.lists(texts.map(ItemDelta), max_size=5)
messages = st.tuples(st.just(ItemStarted({"type": "message", "role": "assistant"})), grown, st.none())
functions = st.tuples(
    st.just(ItemStarted({"type": "function_call", "call_id": "call_1", "name": "f"})), grown, st.none()
)
customs: st.SearchStrategy[Any] = st.tuples(
    st.just(ItemStarted({"type": "custom_tool_call", "call_id": "call_2", "name": "g"})),
    st.just([]),
    texts.map(lambda text: ItemDone({"input": text})),
)
reasonings = st.tuples(
    st.just(ItemStarted({"type": "reasoning"})),
    grown,
    st.none() | st.just(ItemDone({"encrypted_content": "x", "summary": [{"type": "summary_text", "text": "s"}]})),
)
searches: st.SearchStrategy[Any] = st.tuples(
    st.just(ItemStarted({"type": "web_search_call", "status": "in_progress"})),
    st.just([]),
    st.just(ItemDone({"status": "completed", "action": {"type": "search", "query": "q"}})),
)
answers = st.lists(st.one_of(messages, functions, customs, reasonings, searches), max_size=4).map(
    lambda items: [piece for begins, grows, ends in items for piece in (begins, *grows, ends) if piece is not None]
)


def recorded(event: Event, version: int) -> Recorded:
    return Recorded(
        position=version,
        conversation_id=CONVERSATION,
        version=version,
        tenant="default",
        recorded_at=datetime.fromtimestamp(1_800_000_000, UTC),
        subject="",
        correlation_id="",
        event=event,
    )


def record(end: ReplyEnd, output: Output) -> Record:
    return Record(
        conversation_id=CONVERSATION,
        request_event=recorded(REQUESTED, 1),
        requested=REQUESTED,
        end_event=recorded(end, 2),
        end=end,
        output=output.items(),
    )


def live(pieces: Sequence[StreamPart], output: Output) -> list[stream_events.StreamEvent]:
    return [*opening_events(REQUESTED, CONVERSATION), *(event for piece in pieces for event in output.add(piece))]


def sent(stream: Sequence[stream_events.StreamEvent]) -> list[bytes]:
    return [stream_events.encode(event, number) for number, event in enumerate(stream)]


@given(answers)
def test_a_reply_that_completed(pieces: list[StreamPart]) -> None:
    output = Output()
    stream = [*live(pieces, output), *output.finish("completed")]
    end = ReplyCompleted(
        response_id=REQUESTED.response_id,
        model="m",
        input_ids=(),
        output_ids=tuple(kept.item_id for kept in output.items()),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=1, total_ms=2),
        delta_lengths=output.delta_lengths,
    )
    again = record(end, output)
    whole = sent([*stream, stream_events.ended("completed", again.response())])
    assert again.stream_after() == whole
    for after in range(len(whole)):
        assert again.stream_after(after) == whole[after + 1 :]
    for each in whole:
        TYPED.validate_python(stream_events.decode(each))


@given(answers, st.integers(0, 30))
def test_a_reply_that_was_cut_off_anywhere(pieces: list[StreamPart], cut: int) -> None:
    output = Output()
    stream = live(pieces[:cut], output)
    facts: dict[str, Any] = {
        "response_id": REQUESTED.response_id,
        "output": output.items(),
        "delta_lengths": output.delta_lengths,
    }
    ends: tuple[ReplyEnd, ...] = (
        ReplyFailed(code="c", message="m", **facts),
        ReplyCancelled(**facts),
        ReplyInterrupted(code="process_died", **facts),
    )
    for end in ends:
        again = record(end, output)
        assert again.stream_after() == sent([*stream, stream_events.ended(again.status, again.response())])


@given(answers, st.integers(0, 30))
def test_what_a_dead_process_had_told_is_all_that_is_known_of_it(pieces: list[StreamPart], cut: int) -> None:
    output = Output()
    stream = live(pieces[:cut], output)
    items, lengths = output_of_events(map(stream_events.decode, sent(stream)))
    assert lengths == output.delta_lengths
    assert [kept.item_id for kept in items] == [kept.item_id for kept in output.items()]
    mine = [msgspec.json.decode(kept.item) for kept in items]
    for found, real in zip(mine, (msgspec.json.decode(kept.item) for kept in output.items()), strict=True):
        assert stream_events.text_of_output(found) == stream_events.text_of_output(real)
        assert found["type"] == real["type"]


def test_a_failure_that_was_kept_before_items_were_has_its_text() -> None:
    end = ReplyFailed(response_id=REQUESTED.response_id, code="c", message="m", partial_output="half of")
    [kept] = partial_output(end)
    assert stream_events.text_of_output(msgspec.json.decode(kept.item)) == "half of"
