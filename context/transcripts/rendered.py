"""Makes the messages of a recorded transcript again, from the log alone.

A transcript may begin with the transcript of an earlier request. Such requests form a chain, with at most one link
for each turn of the conversation. The chain is read page by page, before the items.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from context.conversation_settings import Reader
from context.deleted_content import deleted_items
from context.forks import appended_items, lineage
from context.stored_items import StoredItem, stored_item
from context.transcripts.chat_messages import Json, messages_of, one_message
from context.transcripts.message_changes import changed
from domain.events import InputItem, ReplyRequested, Transcript, TranscriptBase, TranscriptPart
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.recorded import Recorded

PAGE_EVENTS = 200


class RenderedMessage(Struct, frozen=True):
    """A message of the transcript. `is_blanked`: whether deleted content was left out."""

    message: Json
    items: Sequence[StoredItem] = ()
    is_blanked: bool = False


async def rendered_transcript(
    reader: Reader, requested: Recorded, *, with_deleted: bool = True
) -> list[RenderedMessage]:
    """The messages of a recorded request, its instructions first.

    Without `with_deleted`, deleted content is left out, and the messages keep their places. Raises psycopg.Error,
    UnreadableEvent, and LogMoved if the log has lost a recorded event.
    """
    chain = await _chain(reader, requested)
    items = await _items(reader, chain)
    deleted = frozenset[str]()
    if not with_deleted:
        copies = {item.item_id: item.copy_of for item in items.values()}
        deleted = await deleted_items(reader, copies, await lineage(reader, requested.conversation_id))
        deleted |= await _deleted_responses(reader, chain)
    messages: list[RenderedMessage] = []
    for link in reversed(chain):
        base, is_deleted = link.transcript.base, link.response_id in deleted
        del messages[base.count if base else 0 :]
        for part in link.transcript.parts:
            messages += _messages(part, items, deleted, response_is_deleted=is_deleted)
    instructions = map(msgspec.json.decode, chain[0].transcript.instructions)
    return [*map(RenderedMessage, instructions), *messages]


class _Link(Struct, frozen=True):
    conversation_id: str
    response_id: str
    transcript: Transcript
    input: Sequence[InputItem]


async def _chain(reader: Reader, requested: Recorded) -> list[_Link]:
    read = {_link(requested).response_id: requested}
    chain = [_link(requested)]
    while (base := chain[-1].transcript.base) is not None:
        if base.response_id not in read:
            read = await _read_back(reader, base)
        chain.append(_link(read[base.response_id]))
    return chain


async def _read_back(reader: Reader, base: TranscriptBase) -> dict[str, Recorded]:
    events = await reader.items(base.conversation_id, [base.response_id])
    found = next((recorded for recorded in events if isinstance(recorded.event, ReplyRequested)), None)
    if found is None:
        raise LogMoved(f"the log no longer has the request {base.response_id} of {base.conversation_id}")
    before = await reader.conversation_backwards(base.conversation_id, until=found.version - 1, limit=PAGE_EVENTS)
    return {
        event.response_id: recorded
        for recorded in (found, *before)
        if isinstance(event := recorded.event, ReplyRequested) and event.transcript is not None
    }


def _link(requested: Recorded) -> _Link:
    event = requested.event
    assert isinstance(event, ReplyRequested)
    assert event.transcript is not None
    return _Link(requested.conversation_id, event.response_id, event.transcript, event.input)


async def _items(reader: Reader, chain: Iterable[_Link]) -> dict[str, StoredItem]:
    items: dict[str, StoredItem] = {}
    needed: dict[str, dict[str, None]] = {}
    for link in chain:
        items |= {new.item_id: stored_item(new) for new in link.input}
        named = (item_id for part in link.transcript.parts for item_id in part.items)
        needed.setdefault(link.conversation_id, {}).update(dict.fromkeys(named))
    for conversation_id, ids in needed.items():
        missing = [item_id for item_id in ids if item_id not in items]
        appended = await appended_items(reader, conversation_id, missing)
        if len(appended) < len(missing):
            raise LogMoved(f"the log no longer has all items of {conversation_id} that a transcript names")
        items |= {item_id: stored_item(event) for item_id, event in appended.items()}
    return items


async def _deleted_responses(reader: Reader, chain: Iterable[_Link]) -> frozenset[str]:
    by_conversation: dict[str, list[str]] = {}
    for link in chain:
        by_conversation.setdefault(link.conversation_id, []).append(link.response_id)
    deleted: set[str] = set()
    for conversation_id, response_ids in by_conversation.items():
        head = await reader.head(conversation_id)
        is_gone = head is None or head.deleted
        deleted.update(response_ids if is_gone else await reader.deleted_responses(conversation_id, response_ids))
    return frozenset(deleted)


def _messages(
    part: TranscriptPart, items: dict[str, StoredItem], deleted: Collection[str], *, response_is_deleted: bool
) -> Iterator[RenderedMessage]:
    """A message or a change that is only in the request's event is deleted with the response."""
    if part.message is not None:
        message = msgspec.json.decode(part.message)
        yield RenderedMessage(_emptied(message) if response_is_deleted else message, (), response_is_deleted)
        return
    stored = [items[item_id] for item_id in part.items]
    if part.changes is not None:
        plain = one_message([each.item for each in stored])
        message = plain if response_is_deleted else changed(plain, part.changes)
        yield _blanked(message, stored, deleted, changes_are_lost=response_is_deleted)
        return
    start = 0
    for message_and_count in messages_of([each.item for each in stored]):
        end = start + message_and_count.count
        yield _blanked(message_and_count.message, stored[start:end], deleted)
        start = end


def _blanked(
    message: Json, stored: Sequence[StoredItem], deleted: Collection[str], *, changes_are_lost: bool = False
) -> RenderedMessage:
    marked = [replace(each, is_deleted=True) if each.item_id in deleted else each for each in stored]
    if any(each.is_deleted for each in marked):
        return RenderedMessage(_emptied(message), marked, is_blanked=True)
    return RenderedMessage(message, marked, is_blanked=changes_are_lost)


def _emptied(message: Json) -> Json:
    emptied = {"role": message["role"], "content": ""}
    if message["role"] == "tool":
        emptied["tool_call_id"] = message["tool_call_id"]
    if message["role"] == "function":
        emptied["name"] = ""
    return emptied
