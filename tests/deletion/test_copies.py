"""`context/copies.py` lists each field of a view or snapshot that gets content from an event."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UnsetType
from msgspec.structs import replace

from context.copies import COPIES, SNAPSHOT_FIELDS, VIEW_FIELDS
from context.snapshot_from_log import snapshot_of
from context.snapshots import to_fields
from domain.content import CONTENT
from domain.events import Event, InputItem, ItemAppended, ItemPinned, ReplyDeleted, Transcript, TranscriptPart
from infrastructure.event_log.recorded import Recorded
from projections.views.event_writes import event_writes
from projections.views.writes import Insert, Update
from tests.event_log.test_catalogue import EXAMPLES, EXTENDED
from tests.servers import ROOT

WORD = "plantedword"
ITEM = msgspec.json.encode({"type": "message", "role": "user", "content": WORD})
ID = f"conv_{0:032x}"


def planted() -> Iterator[Event]:
    """Example events with WORD in each field that holds content."""
    for event in (*EXAMPLES, *EXTENDED):
        values = {name: value_of(name, getattr(event, name)) for name in CONTENT.get(type(event), {})}
        yield replace(event, **values) if values else event


def value_of(name: str, value: Any) -> Any:
    """A value of the same type with WORD in it, or the unset value."""
    match value:
        case bytes():
            return ITEM if name == "item" else msgspec.json.encode({"instructions": WORD})
        case dict():
            return {"k": WORD}
        case tuple():
            return (InputItem(item_id=f"msg_{1:032x}", item=ITEM),)
        case UnsetType():
            return value
        case _:
            return Transcript(parts=(TranscriptPart(message=ITEM),)) if name == "transcript" else WORD


def recorded(event: Event, version: int = 2) -> Recorded:
    return Recorded(
        position=version,
        conversation_id=ID,
        version=version,
        tenant="acme",
        recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
        subject="ann",
        correlation_id="",
        event=event,
    )


def test_the_word_is_planted_in_each_event_that_holds_content() -> None:
    assert {type(event) for event in planted() if WORD in str(event)} == {*CONTENT}


def test_each_field_of_a_view_that_gets_content_is_listed() -> None:
    found: dict[str, set[str]] = {view: set() for view in VIEW_FIELDS}
    for event in planted():
        for write in event_writes(recorded(event)):
            assert write.view in VIEW_FIELDS, f"say in context/copies.py which fields of {write.view} hold content"
            match write:
                case Insert(document=fields) | Update(set=fields):
                    found[write.view] |= {
                        name.partition(".")[0] for name, value in fields.items() if WORD in str(value)
                    }
                case _:
                    pass
    assert found == {view: {*fields} for view, fields in VIEW_FIELDS.items()}


def test_a_deleted_response_leaves_no_content_in_its_view() -> None:
    writes = event_writes(recorded(ReplyDeleted(response_id=f"resp_{1:032x}")))
    [emptied] = [write for write in writes if isinstance(write, Update) and write.view == "responses"]
    assert {name: emptied.set[name] for name in VIEW_FIELDS["responses"]} == {
        "parameters": "{}",
        "metadata": [],
        "input": [],
        "output": [],
    }


async def test_each_field_of_a_snapshot_that_gets_content_is_listed() -> None:
    events = list(planted())
    started, compacted = (
        next(event for event in events if event.topic == topic)
        for topic in ("conversation.started", "context.compacted")
    )
    item = next(event for event in events if isinstance(event, ItemAppended))
    pinned = ItemPinned(item_id=item.item_id, branch=0, depth=2, pinned=(item.item_id,))
    history = (started, replace(item, branch=0, depth=2), pinned, replace(compacted, replaces=0))
    snapshot = await snapshot_of([recorded(event, version) for version, event in enumerate(history, 1)])
    assert {name for name, value in to_fields(snapshot).items() if WORD in str(value)} == SNAPSHOT_FIELDS


def test_each_copy_is_listed_once_and_names_an_existing_test_file() -> None:
    for copy in COPIES:
        assert (ROOT / copy.shown_by).is_file(), copy.where
    assert len({copy.where for copy in COPIES}) == len(COPIES)
