"""In the audit trail and at earlier versions, deleted content is blanked for callers without the scope `audit`."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest

from domain.commands import (
    AppendItems,
    DeleteReply,
    DescribeConversation,
    EndConversation,
    FailReply,
    GiveFeedback,
    NewItem,
    RequestReply,
    RetractItem,
    ShareConversation,
)
from domain.content import CONTENT
from domain.conversation import KnownItem
from domain.events import (
    ContextCompacted,
    ConversationDescribed,
    ConversationEnded,
    ConversationStarted,
    Event,
    FeedbackGiven,
    Fork,
    InputItem,
    ItemAppended,
    ReplyCancelled,
    ReplyDescribed,
    ReplyFailed,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
    Share,
    Transcript,
    TranscriptPart,
)
from infrastructure.event_log.recorded import Recorded
from infrastructure.ids import mint
from infrastructure.settings import Settings
from queries.blanking import NOTHING, Deleted
from queries.events import event_json
from tests.principals import HeaderAuthenticator, headers_of
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import SHOWN, Writer, body

SECRET = "xylophone"
ITEM = body(SECRET)
ITEMS = (InputItem(item_id="msg_1", item=ITEM), InputItem(item_id="msg_2", item=ITEM))
OWNER, AUDITOR = headers_of("someone"), headers_of("someone", "audit")
OTHER_AUDITOR, ADMIN = headers_of("eve", "audit"), headers_of("root", "admin", "audit")

EVENTS: tuple[Event, ...] = (
    ConversationStarted(
        conversation_id="conv_1",
        tenant="default",
        owner="someone",
        family="conv_1",
        title=SECRET,
        instructions=SECRET,
        metadata={SECRET: SECRET},
    ),
    ConversationDescribed(
        title=SECRET,
        instructions=SECRET,
        metadata={SECRET: SECRET},
        title_by="model",
        title_items=("msg_1", "msg_2"),
        model="m",
    ),
    ConversationEnded(reason=SECRET),
    ItemAppended(item_id="msg_1", parent_id=None, branch=0, depth=1, item=ITEM, author="someone"),
    ReplyRequested(
        response_id="resp_1",
        model="m",
        parameters=msgspec.json.encode({"instructions": SECRET}),
        input=ITEMS,
        shown=SHOWN,
        transcript=Transcript(
            instructions=(msgspec.json.encode({"role": "system", "content": SECRET}),),
            parts=(
                TranscriptPart(items=("msg_1",), changes=msgspec.json.encode({"around": [SECRET, ""]})),
                TranscriptPart(items=("msg_2",)),
                TranscriptPart(message=ITEM),
            ),
        ),
    ),
    ReplyQueued(
        response_id="resp_1",
        model="m",
        parameters=msgspec.json.encode({"instructions": SECRET}),
        input=ITEMS,
        renderer=8,
    ),
    ReplyDescribed(response_id="resp_1", metadata={SECRET: SECRET}),
    ReplyFailed(response_id="resp_1", code="c", message="It failed.", partial_output=SECRET, output=ITEMS),
    ReplyCancelled(response_id="resp_1", output=ITEMS),
    ReplyInterrupted(response_id="resp_1", code="c", output=ITEMS),
    ContextCompacted(
        compaction_id="cmp_1",
        summary=SECRET,
        first="msg_1",
        last="msg_2",
        depth=2,
        count=2,
        tokens_before=9,
        tokens_after=1,
        model="m",
    ),
    FeedbackGiven(feedback_id="feedback_1", by="someone", rating=1, item_id="msg_1", comment=SECRET),
)
"""Every field with content has the secret."""

DELETED_BY: dict[str, Deleted] = {
    "title": Deleted(ids=frozenset({"msg_2"})),
    "item": Deleted(ids=frozenset({"msg_1"})),
    "items": Deleted(ids=frozenset({"resp_1"})),
    "response": Deleted(ids=frozenset({"resp_1"})),
    "transcript": Deleted(ids=frozenset({"resp_1"})),
    "target": Deleted(ids=frozenset({"msg_1"})),
    "summary": Deleted(summaries=frozenset({7})),
    "conversation": Deleted(conversation=True),
}
"""For each `Part` of `domain/content.py`, a deletion after which the part is blanked."""


def recorded(event: Event) -> Recorded:
    return Recorded(
        position=70,
        conversation_id="conv_1",
        version=7,
        tenant="default",
        recorded_at=datetime(2026, 11, 29, tzinfo=UTC),
        subject="someone",
        correlation_id="req_1",
        event=event,
    )


def shown(event: Event, deleted: Deleted) -> dict[str, Any]:
    shown_event: dict[str, Any] = msgspec.json.decode(event_json(recorded(event), deleted))
    return shown_event


def test_the_example_events_have_the_secret_in_every_field_that_has_content() -> None:
    assert {type(event) for event in EVENTS} == CONTENT.keys()
    for event in EVENTS:
        full = shown(event, NOTHING)
        assert "blanked" not in full
        for name in CONTENT[type(event)]:
            assert SECRET in str(full["data"][name]), name


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.topic)
def test_exactly_the_content_of_a_deleted_conversation_is_blanked(event: Event) -> None:
    full, blanked = shown(event, NOTHING), shown(event, Deleted(conversation=True))
    names = blanked.pop("blanked")
    assert SECRET not in str(blanked)
    assert {name.partition("[")[0] for name in names} == {*CONTENT[type(event)]}
    for name, value in full["data"].items():
        if name not in CONTENT[type(event)]:
            assert blanked["data"][name] == value
    assert {name: blanked[name] for name in blanked if name != "data"} == {
        name: full[name] for name in full if name != "data"
    }


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.topic)
def test_a_field_is_blanked_if_its_part_is_deleted(event: Event) -> None:
    for name, part in CONTENT[type(event)].items():
        data = shown(event, DELETED_BY[part])["data"]
        assert SECRET not in str(data[name]), name


def test_a_deleted_item_does_not_blank_the_other_items_of_the_event() -> None:
    requested = shown(EVENTS[4], Deleted(ids=frozenset({"msg_2"})))
    assert requested["blanked"] == ["input[1].item"]
    assert requested["data"]["input"][1] == {"item_id": "msg_2", "item": None, "copy_of": None}
    assert SECRET in str(requested["data"]["input"][0])
    assert SECRET in str(requested["data"]["parameters"])


def test_the_changes_that_a_client_made_to_a_deleted_item_are_blanked() -> None:
    full, requested = shown(EVENTS[4], NOTHING), shown(EVENTS[4], Deleted(ids=frozenset({"msg_1"})))
    assert requested["blanked"] == ["input[0].item", "transcript.parts[0].changes"]
    assert full["data"]["transcript"]["parts"][0]["changes"] == {"around": [SECRET, ""]}
    full["data"]["transcript"]["parts"][0]["changes"] = None
    assert requested["data"]["transcript"] == full["data"]["transcript"]


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with open_api(settings, authenticator=HeaderAuthenticator()) as client:
        yield client


def changed_by_client(item_id: str) -> Transcript:
    """A transcript whose message differs from this item."""
    return Transcript(parts=(TranscriptPart(items=(item_id,), changes=msgspec.json.encode({"is": SECRET})),))


async def events_of(api: httpx.AsyncClient, conversation_id: str, headers: Any, after: int = 0) -> list[dict[str, Any]]:
    answer = await api.get(f"/v1/conversations/{conversation_id}/events", params={"after": after}, headers=headers)
    assert answer.status_code == 200, answer.text
    events: list[dict[str, Any]] = answer.json()["data"]
    return events


def blanked_names(events: list[dict[str, Any]]) -> dict[int, list[str]]:
    return {event["version"]: event["blanked"] for event in events if "blanked" in event}


async def test_only_audit_sees_the_content_of_a_retracted_item(api: httpx.AsyncClient, write: Writer) -> None:
    conversation_id = await write.start("stays")
    response_id, question = await write.request_reply(conversation_id, SECRET, "stays too")
    await write.complete_reply(conversation_id, response_id, question, "answer")
    [changed] = changed_by_client(question[0].item_id).parts
    unchanged = TranscriptPart(items=(question[1].item_id,))
    next_request = RequestReply(
        response_id=mint("resp"),
        model="m",
        parameters=b"{}",
        input=(),
        shown=SHOWN,
        transcript=Transcript(parts=(changed, unchanged)),
    )
    await write.execute(conversation_id, next_request)
    before = await events_of(api, conversation_id, OWNER)
    assert blanked_names(before) == {}
    await write.retract(conversation_id, question[0].item_id)

    events = await events_of(api, conversation_id, OWNER)
    assert SECRET not in str(events)
    assert blanked_names(events) == {3: ["input[0].item"], 4: ["item"], 8: ["transcript.parts[0].changes"]}
    assert [event["data"].get("item_id") for event in events] == [event["data"].get("item_id") for event in before] + [
        question[0].item_id
    ]
    seen = await events_of(api, conversation_id, AUDITOR)
    assert blanked_names(seen) == {}
    assert seen[: len(before)] == before


async def test_changes_to_the_copy_of_a_deleted_item_are_blanked_on_any_page(
    api: httpx.AsyncClient, write: Writer
) -> None:
    original = await write.start()
    [original_id] = await write.append(original, "original")
    conversation_id = await write.start()
    copy = NewItem(item_id=mint("msg"), item=body("original"), copy_of=original_id)
    await write.execute(conversation_id, AppendItems(items=(copy,), author="someone"))
    await write.request_reply(conversation_id, transcript=changed_by_client(copy.item_id))
    await write.delete(original)

    for after in (0, 2):
        events = await events_of(api, conversation_id, OWNER, after=after)
        assert SECRET not in str(events)
        assert blanked_names(events)[3] == ["transcript.parts[0].changes"]
        assert SECRET in str(await events_of(api, conversation_id, AUDITOR, after=after))


async def test_a_fork_of_a_fork_blanks_what_its_origin_retracted(api: httpx.AsyncClient, write: Writer) -> None:
    origin = await write.start()
    [item_id] = await write.append(origin, "original")
    item = KnownItem(inherited=True, depth=1)
    fork = await write.start(forked_from=Fork(conversation_id=origin, version=2, depth=1, item_id=item_id))
    of_fork = await write.start(forked_from=Fork(conversation_id=fork, version=1, depth=1, item_id=item_id))
    await write.request_reply(of_fork, transcript=changed_by_client(item_id))
    feedback = GiveFeedback(
        feedback_id=mint("feedback"), by="someone", rating=1, item_id=item_id, comment=SECRET, inherited=item
    )
    await write.execute(of_fork, feedback)
    assert str(await events_of(api, of_fork, OWNER)).count(SECRET) == 2
    await write.execute(fork, RetractItem(item_id=item_id, inherited=item))

    events = await events_of(api, of_fork, OWNER)
    assert SECRET not in str(events)
    assert blanked_names(events) == {2: ["transcript.parts[0].changes"], 3: ["comment"]}


async def test_the_parameters_input_and_output_of_a_deleted_response_are_blanked(
    api: httpx.AsyncClient, write: Writer
) -> None:
    conversation_id = await write.start("stays")
    failed, _ = await write.request_reply(conversation_id, SECRET, instructions=SECRET)
    output = (InputItem(item_id="msg_" + "0" * 32, item=ITEM),)
    await write.execute(
        conversation_id, FailReply(response_id=failed, code="model_error", message="It failed.", output=output)
    )
    await write.execute(conversation_id, DeleteReply(response_id=failed))

    events = await events_of(api, conversation_id, OWNER)
    assert SECRET not in str(events)
    assert blanked_names(events) == {3: ["parameters", "input[0].item"], 4: ["output[0].item"]}
    assert str(await events_of(api, conversation_id, AUDITOR)).count(SECRET) == 3


async def test_a_summary_of_a_retracted_item_is_blanked(api: httpx.AsyncClient, write: Writer) -> None:
    conversation_id = await write.start("first")
    [told, kept] = await write.append(conversation_id, SECRET, "second")
    await write.compact(conversation_id, told, 2, f"They said {SECRET}.")
    await write.compact(conversation_id, kept, 3, f"They still said {SECRET}.")
    await write.retract(conversation_id, told)

    events = await events_of(api, conversation_id, OWNER)
    assert SECRET not in str(events)
    assert {version: names for version, names in blanked_names(events).items() if names == ["summary"]}.keys() == {5, 6}
    assert SECRET in str(await events_of(api, conversation_id, AUDITOR))


async def test_the_events_of_a_deleted_conversation_need_the_scope_audit(api: httpx.AsyncClient, write: Writer) -> None:
    conversation_id = await write.start(SECRET, title=SECRET)
    await write.execute(conversation_id, DescribeConversation(instructions=SECRET))
    await write.execute(conversation_id, EndConversation(reason=SECRET))
    await write.execute(conversation_id, ShareConversation(share=Share(subject="ben", role="writer")))
    await write.delete(conversation_id)
    path = f"/v1/conversations/{conversation_id}/events"
    shared_with = headers_of("ben", "audit")
    for headers in (
        OWNER,
        shared_with,
        OTHER_AUDITOR,
        headers_of("root", "admin"),
        headers_of("someone", "audit", tenant="other"),
    ):
        answer = await api.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        stream = await api.get(path, headers={**headers, "Accept": "text/event-stream"})
        assert stream.status_code == 404
    for headers in (AUDITOR, ADMIN):
        events = await events_of(api, conversation_id, headers)
        assert [event["type"] for event in events][-1] == "conversation.deleted"
        assert str(events).count(SECRET) == 4
        stream = await api.get(path, headers={**headers, "Accept": "text/event-stream"})
        assert stream.text.count(SECRET) == 4


async def items_of(api: httpx.AsyncClient, conversation_id: str, headers: Any, **query: Any) -> list[dict[str, Any]]:
    answer = await api.get(
        f"/v1/conversations/{conversation_id}/items", params={"order": "asc", **query}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["data"]
    return items


async def test_at_an_earlier_version_only_audit_sees_a_retracted_items_content(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start("stays")
    call = msgspec.json.encode({"type": "function_call", "call_id": "c", "name": SECRET, "arguments": SECRET})
    ids = await write.append(conversation_id, SECRET)
    call_id = mint("fc")
    await write.execute(conversation_id, AppendItems(items=(NewItem(item_id=call_id, item=call),), author="someone"))
    for item_id in (*ids, call_id):
        await write.retract(conversation_id, item_id)

    stays, message, function_call = await items_of(api, conversation_id, OWNER, as_of=4)
    assert "blanked" not in stays
    assert [each.pop("author") for each in (message, function_call)] == ["someone"] * 2
    assert all(isinstance(each.pop("created_at"), int) for each in (message, function_call))
    assert message == {
        "id": ids[0],
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [],
        "blanked": True,
    }
    assert function_call == {"id": call_id, "type": "function_call", "blanked": True}
    seen = await items_of(api, conversation_id, AUDITOR, as_of=4)
    assert [str(item).count(SECRET) for item in seen] == [0, 1, 2]
    assert await items_of(api, conversation_id, AUDITOR, as_of=5) == [seen[0], seen[2]]
    assert await items_of(api, conversation_id, AUDITOR) == [seen[0]], "the newest version does not have them"


async def test_an_earlier_version_shows_a_copy_of_a_deleted_item_without_content(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    original = await write.start()
    [original_id] = await write.append(original, SECRET)
    conversation_id = await write.start()
    copy_id = mint("msg")
    copy = NewItem(item_id=copy_id, item=ITEM, copy_of=original_id)
    await write.execute(conversation_id, AppendItems(items=(copy,), author="someone"))
    await write.delete(original)

    assert await items_of(api, conversation_id, OWNER) == []
    [blanked] = await items_of(api, conversation_id, OWNER, as_of=2)
    assert (blanked["id"], blanked["blanked"], blanked["content"]) == (copy_id, True, [])
    [seen] = await items_of(api, conversation_id, AUDITOR, as_of=2)
    assert SECRET in str(seen)
    assert blanked_names(await events_of(api, conversation_id, OWNER)) == {2: ["item"]}
