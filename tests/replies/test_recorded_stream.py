"""The stream that is made from a reply's record has the same events as the live stream.

If the process of the reply died, the record may lack the last events.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from domain.events import (
    Event,
    InputItem,
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
from infrastructure.event_log.version_lookup import Head
from infrastructure.ids import mint
from replies import stream_events
from replies.output import Output, output_of_events
from replies.provider.stream_parts import ItemDelta, ItemDone, ItemStarted, StreamPart
from replies.record import Record
from replies.recorded_stream import RecordedStream
from replies.response_from_events import opening_events, partial_output
from tests.replies.random_answers import MESSAGE, answers
from tests.replies.strict_client import StrictClient

CONVERSATION = mint("conv")
TYPED: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SHOWN = Shown(version=1, ranges=(), budget=9, tokens=1, encoding="o200k_base", renderer=2, request_sha256=b"\0" * 32)
REQUESTED = ReplyRequested(response_id=mint("resp"), model="m", parameters=b"{}", input=(), shown=SHOWN)

sixty = settings(max_examples=60, deadline=None)


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


def stored(item: dict[str, Any]) -> InputItem:
    return InputItem(item_id="item_1", item=msgspec.json.encode(item))


def record(end: ReplyEnd, items: tuple[InputItem, ...]) -> Record:
    return Record(
        conversation_id=CONVERSATION,
        head=Head(tenant="default", version=2, position=2, deleted=False, chain_hash="", incarnation=""),
        request_event=recorded(REQUESTED, 1),
        requested=REQUESTED,
        end_event=recorded(end, 2),
        end=end,
        output=items,
    )


def live_events(parts: Sequence[StreamPart], output: Output) -> list[stream_events.StreamEvent]:
    return [*opening_events(REQUESTED, CONVERSATION), *(event for part in parts for event in output.add(part))]


def encoded(stream: Sequence[stream_events.StreamEvent]) -> list[bytes]:
    return [stream_events.encode(event, number) for number, event in enumerate(stream)]


def encoded_after(stream: RecordedStream, after: int) -> list[bytes]:
    return [stream_events.encode(event, number) for number, event in stream.events(after + 1)]


def pages_after(stream: RecordedStream, after: int) -> bytes:
    page = stream.page(after)
    return page.body if page.ends else page.body + pages_after(stream, page.last)


@sixty
@given(answers)
def test_a_completed_reply_has_the_same_stream_from_its_record(parts: list[StreamPart]) -> None:
    output = Output()
    stream = [*live_events(parts, output), *output.finish("completed")]
    end = ReplyCompleted(
        response_id=REQUESTED.response_id,
        model="m",
        input_ids=(),
        output_ids=tuple(stored.item_id for stored in output.items()),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=1, total_ms=2),
        delta_lengths=output.delta_lengths,
    )
    from_record = record(end, output.items())
    events = encoded([*stream, stream_events.ended("completed", from_record.response())])
    recorded_stream = RecordedStream(from_record)
    assert recorded_stream.count == len(events)
    for after in range(-1, len(events)):
        assert encoded_after(recorded_stream, after) == events[after + 1 :]
        assert pages_after(recorded_stream, after) == b"".join(events[after + 1 :])
    decoded = [stream_events.decode(event) for event in events]
    for event in decoded:
        TYPED.validate_python(event)
    client = StrictClient().read(decoded)
    assert client.complete == set(range(len(output.items())))


@sixty
@given(answers, st.integers(0, 30))
def test_a_reply_that_ended_early_has_the_same_stream_from_its_record(parts: list[StreamPart], cut: int) -> None:
    output = Output()
    stream = live_events(parts[:cut], output)
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
        from_record = record(end, output.items())
        recorded_stream = RecordedStream(from_record)
        events = encoded([*stream, stream_events.ended(from_record.status, from_record.response())])
        assert encoded_after(recorded_stream, -1) == events
        assert pages_after(recorded_stream, -1) == b"".join(events)
        StrictClient().read(map(stream_events.decode, events))
        beyond = recorded_stream.page(len(events) + 3)
        assert (beyond.last, beyond.ends) == (len(events) + 4, True)
        assert stream_events.decode(beyond.body)["sequence_number"] == len(events) + 4


@sixty
@given(answers, st.integers(0, 30))
def test_the_output_of_a_reply_whose_process_died_is_read_from_its_events(parts: list[StreamPart], cut: int) -> None:
    output = Output()
    stream = live_events(parts[:cut], output)
    items, lengths = output_of_events(map(stream_events.decode, encoded(stream)))
    assert lengths == output.delta_lengths
    for read, stored in zip(items, output.items(), strict=True):
        assert read.item_id == stored.item_id
        read_item, stored_item = msgspec.json.decode(read.item), msgspec.json.decode(stored.item)
        assert stream_events.text_of_output(read_item) == stream_events.text_of_output(stored_item)
        assert read_item["type"] == stored_item["type"]


@sixty
@given(answers, st.data())
def test_the_record_of_a_dead_process_has_the_events_that_clients_saw(
    parts: list[StreamPart], data: st.DataObject
) -> None:
    """The process may have died after any event. The record may lack the last `.added` and `.done` events."""
    stream = live_events(parts, Output())
    cut = data.draw(st.integers(2, len(stream)))
    seen = [stream_events.decode(event) for event in encoded(stream)[:cut]]
    items, lengths = output_of_events(seen)
    end = ReplyInterrupted(response_id=REQUESTED.response_id, code="process_died", output=items, delta_lengths=lengths)
    from_record = [
        stream_events.decode(stream_events.encode(event, number))
        for number, event in RecordedStream(record(end, items)).events()
    ]
    common = min(len(from_record) - 1, len(seen))
    assert from_record[:common] == seen[:common]
    unrecorded = [event["type"] for event in seen[common:]]
    assert all(kind.endswith((".added", ".done")) for kind in unrecorded)


def test_summaries_that_an_earlier_version_did_not_stream_are_one_delta_each() -> None:
    summary = [{"type": "summary_text", "text": text} for text in ("first", "second")]
    items = (
        stored({"type": "reasoning", "summary": summary, "content": [{"type": "reasoning_text", "text": "so"}]}),
        stored({**MESSAGE, "status": "completed", "content": [stream_events.new_part("output_text", "yes!")]}),
    )
    stream = RecordedStream(record(ReplyCancelled(response_id="r", output=items, delta_lengths=(1, 1, 3, 1)), items))
    events = [event for _, event in stream.events()]
    deltas = [(event["type"].split(".")[1], event["delta"]) for event in events if "delta" in event]
    assert deltas == [
        ("reasoning_summary_text", "first"),
        ("reasoning_summary_text", "second"),
        ("reasoning_text", "s"),
        ("reasoning_text", "o"),
        ("output_text", "yes"),
        ("output_text", "!"),
    ]
    for after in range(-1, stream.count):
        assert [event for _, event in stream.events(after + 1)] == events[after + 1 :]


def test_parts_that_an_earlier_version_streamed_as_one_text_are_streamed_separately() -> None:
    content = [stream_events.new_part("output_text", "Well: "), stream_events.new_part("refusal", "no.")]
    items = (stored({**MESSAGE, "status": "completed", "content": content}),)
    end = ReplyCancelled(response_id="r", output=items, delta_lengths=(9,))
    events = [stream_events.decode(event) for event in encoded_after(RecordedStream(record(end, items)), -1)]
    assert StrictClient().read(events).complete == {0}
    assert [event["delta"] for event in events if "delta" in event] == ["Well: ", "no."]


def test_unstreamed_parts_come_in_the_last_event_of_the_item() -> None:
    output = Output()
    odd, text = {"type": "odd", "data": 1}, stream_events.new_part("output_text", "yes")
    parts: list[StreamPart] = [ItemStarted(MESSAGE), ItemDelta("yes"), ItemDone({"content": [odd, text]})]
    *_, done = live_events(parts, output)
    assert done["item"]["content"] == [text, odd]


def test_the_partial_text_of_an_old_failure_becomes_an_output_item() -> None:
    end = ReplyFailed(response_id=REQUESTED.response_id, code="c", message="m", partial_output="half of")
    [stored] = partial_output(end)
    assert stream_events.text_of_output(msgspec.json.decode(stored.item)) == "half of"


@pytest.mark.parametrize("kind", ["message", "function_call", "custom_tool_call", "reasoning", "web_search_call"])
@pytest.mark.parametrize("complete", [True, False])
def test_the_output_of_a_cancelled_reply_has_the_events_of_its_live_stream(kind: str, complete: bool) -> None:
    items: dict[str, dict[str, Any]] = {
        "message": {"role": "assistant"},
        "function_call": {"call_id": "c", "name": "f"},
        "custom_tool_call": {"call_id": "c", "name": "f"},
        "web_search_call": {"status": "in_progress", "action": {"query": "q"}},
    }
    output = Output()
    parts: list[StreamPart] = [ItemStarted({"type": "reasoning"}), ItemDelta("so"), ItemDone({"summary": []})]
    parts.append(ItemStarted({"type": kind, **items.get(kind, {})}))
    if kind != "web_search_call":
        parts += [ItemDelta("a"), ItemDelta("bc")]
    if complete:
        parts.append(ItemDone({"status": "completed"} if kind == "web_search_call" else {}))
    streamed = [event for part in parts for event in output.add(part)]
    end = ReplyCancelled(response_id=REQUESTED.response_id, output=output.items(), delta_lengths=output.delta_lengths)
    events = [event for _, event in RecordedStream(record(end, output.items())).events()]
    assert events[len(opening_events(REQUESTED, CONVERSATION)) : -1] == streamed
