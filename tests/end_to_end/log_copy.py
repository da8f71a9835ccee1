"""A copy of the event log at one moment, and the answers that the API must give for it."""

from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from domain.conversation import fold as state_after
from domain.events import (
    REPLY_ENDS,
    ConversationDeleted,
    InputItem,
    ItemAppended,
    ItemRetracted,
    PathBranch,
    ReplyCompleted,
    ReplyDeleted,
    ReplyRequested,
)
from domain.items import from_stored
from domain.paths import takes
from infrastructure.access.principal import ANONYMOUS
from infrastructure.event_log.recorded import Recorded
from infrastructure.event_log.version_lookup import Head
from infrastructure.http import shapes
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.ids import minted_seconds, uuid_of
from projections.fold import fold
from projections.views.writes import Document, document_key
from queries.events import event_json
from replies.record import Record
from replies.response_from_events import partial_output
from scripts.verification.streams import Row, Stream

_ROWS = (
    "SELECT originator_id, originator_version, notification_id, topic, state, tenant_id, item_id, recorded_at, subject,"
    " command_id, correlation_id, chain_hash FROM events ORDER BY originator_id, originator_version"
)

Json = dict[str, Any]


class LogCopy:
    """The rows of the log by (stream, version), and what the API must show for these rows."""

    def __init__(self, rows: dict[tuple[UUID, int], Row]) -> None:
        self.rows = rows

    @classmethod
    def read(cls, postgres_url: str) -> "LogCopy":
        with psycopg.connect(postgres_url) as connection:
            rows = [Row(*row) for row in connection.execute(_ROWS, binary=True)]
        return cls({(row.originator_id, row.version): row for row in rows})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogCopy) and self.rows == other.rows

    def __hash__(self) -> int:
        return hash(tuple(self.rows))

    @cached_property
    def streams(self) -> dict[str, Stream]:
        streams: dict[str, Stream] = {}
        for row in self.rows.values():
            stream = streams.setdefault(conversation_id_of(row.originator_id), Stream(row))
            stream.add(row)
        return streams

    @property
    def faults(self) -> list[str]:
        """Faults of the streams, and texts that are stored twice.

        Copies of items do not count, because a reply may copy the items of a reply that did not complete.
        """
        texts = Counter(
            text_of(from_stored(recorded.event.item))
            for recorded in self.events
            if isinstance(recorded.event, ItemAppended) and recorded.event.copy_of is None
        )
        return [
            *(str(difference) for stream in self.streams.values() for difference in stream.differences),
            *(f"stored {count} times: {text}" for text, count in texts.items() if count > 1),
        ]

    @cached_property
    def events(self) -> list[Recorded]:
        """All events, by position."""
        events = [recorded for stream in self.streams.values() for recorded in stream.events]
        return sorted(events, key=lambda recorded: recorded.position)

    @cached_property
    def texts(self) -> dict[str, str]:
        """The text of each appended item, by its id."""
        return {
            recorded.event.item_id: text_of(from_stored(recorded.event.item))
            for recorded in self.events
            if isinstance(recorded.event, ItemAppended)
        }

    @cached_property
    def deleted_items(self) -> set[str]:
        items: dict[str, str | None] = {}
        deleted: set[str] = set()
        for name, stream in self.streams.items():
            for recorded in stream.events:
                event = recorded.event
                if isinstance(event, ItemRetracted):
                    deleted.add(event.item_id)
                elif isinstance(event, ItemAppended):
                    items[event.item_id] = event.copy_of
                    if name not in self.conversations:
                        deleted.add(event.item_id)
                elif isinstance(event, ReplyRequested):
                    items |= {stored.item_id: stored.copy_of for stored in event.input}
                    if name not in self.conversations:
                        deleted.add(event.response_id)
                elif isinstance(event, ReplyDeleted):
                    deleted.add(event.response_id)
        return deleted | {
            item_id for item_id, copy_of in items.items() if copy_of and not deleted.isdisjoint(copy_of.split("/"))
        }

    @cached_property
    def documents(self) -> dict[Any, dict[str, Document]]:
        return dict(fold(self.events))

    @cached_property
    def conversations(self) -> list[str]:
        return [
            conversation_id
            for conversation_id, stream in self.streams.items()
            if not isinstance(stream.events[-1].event, ConversationDeleted)
        ]

    @cached_property
    def responses(self) -> dict[str, Record]:
        return {
            record.response_id: record
            for name in self.conversations
            for record in _records(name, self.streams[name], self.deleted_items)
        }

    def version(self, conversation_id: str) -> int:
        """0 if the log does not have the conversation."""
        stream = self.streams.get(conversation_id)
        return stream.events[-1].version if stream else 0

    def topic(self, conversation_id: str, version: int) -> str | None:
        row = self.rows.get((uuid_of(conversation_id), version))
        return row.topic if row else None

    # The public methods below return what the API must answer. None stands for a 404.

    def conversation(self, conversation_id: str) -> Json | None:
        document = self.documents["conversations"].get(document_key(ANONYMOUS.tenant, conversation_id))
        return None if document is None else self._conversation_json(document)

    def listed(self) -> list[Json]:
        """Newest first."""
        documents = [document for document in self.documents["conversations"].values() if document["listed"]]
        return [self._conversation_json(document) for document in sorted(documents, key=_id, reverse=True)]

    def _conversation_json(self, document: Document) -> Json:
        words = self.messages.get(document["id"], [])
        first, last = (
            (None if item["id"] in self.deleted_items else item["preview"] for item in (words[0], words[-1]))
            if words
            else (None, None)
        )
        conversation = shapes.ListedConversation(
            id=document["id"],
            created_at=minted_seconds(document["id"]),
            metadata=dict(document["metadata"]),
            **{
                name: document[name]
                for name in ("status", "title", "title_by", "instructions", "archived", "version", "owner")
            },
            forked_from=None,  # nothing forks here
            updated_at=document["updated_at"] // 1_000_000,
            item_count=document["items"],
            first_text=first,
            last_text=last,
            running_response=max(document["running"], key=document["running"].__getitem__, default=None),
        )
        shown: Json = msgspec.to_builtins(conversation)
        return shown

    @cached_property
    def paths(self) -> dict[str, tuple[PathBranch, ...]]:
        states = {name: state_after(each.event for each in stream.events) for name, stream in self.streams.items()}
        return {name: state.path for name, state in states.items() if state is not None}

    @cached_property
    def messages(self) -> dict[str, list[Document]]:
        found: dict[str, list[Document]] = {}
        for item in sorted(self.documents["items"].values(), key=lambda item: item["depth"]):
            is_shown = item["retracted_version"] is None and item["role"] and item["preview"]
            if is_shown and takes(self.paths[item["conversation_id"]], item["branch"], item["depth"]):
                found.setdefault(item["conversation_id"], []).append(item)
        return found

    def items(self, conversation_id: str) -> list[Json] | None:
        """The items of the active path, oldest first, without deleted ones."""
        if conversation_id not in self.conversations:
            return None
        path = self.paths[conversation_id]
        documents = [
            document
            for document in self.documents["items"].values()
            if document["conversation_id"] == conversation_id
            and takes(path, document["branch"], document["depth"])
            and document["id"] not in self.deleted_items
        ]
        return [msgspec.json.decode(document["item"]) for document in sorted(documents, key=lambda item: item["depth"])]

    def feed(self, conversation_id: str) -> list[Json] | None:
        if conversation_id not in self.conversations:
            return None
        return [msgspec.json.decode(event_json(recorded)) for recorded in self.streams[conversation_id].events]

    def response(self, response_id: str) -> Json | None:
        record = self.responses.get(response_id)
        return None if record is None else dict(msgspec.json.decode(record.response()))

    def input_items(self, response_id: str) -> list[Json] | None:
        document = self.documents["responses"].get(document_key(ANONYMOUS.tenant, response_id))
        if document is None:
            return None
        items = [msgspec.json.decode(item) for item in document["input"]]
        return [item for item in items if item["id"] not in self.deleted_items]

    def usage(self) -> list[Json]:
        """The rows of GET /v1/usage, without the fields that `history_reads.py` ignores."""
        totals: dict[tuple[str, str], Counter[str]] = {}
        for document in self.documents["usage"].values():
            if document["conversation"]:
                continue  # its numbers are also in a document for all conversations
            total = totals.setdefault((document["date"], document["model"]), Counter())
            total.update(
                {
                    name: document.get(name, 0)
                    for name in ("replies", "summaries", "titles", "input_tokens", "output_tokens")
                }
            )
        return [{"date": date, "model": model, **totals[date, model]} for date, model in sorted(totals)]


def text_of(item: Json) -> str:
    content = item.get("content")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def _id(document: Document) -> str:
    return str(document["id"])


def _records(conversation_id: str, stream: Stream, deleted: Collection[str] = ()) -> Iterator[Record]:
    """The record of each requested reply. `deleted`: ids that a Response does not show."""
    appended = {
        recorded.event.item_id: recorded.event for recorded in stream.events if isinstance(recorded.event, ItemAppended)
    }
    ends = {
        recorded.event.response_id: recorded for recorded in stream.events if isinstance(recorded.event, REPLY_ENDS)
    }
    for recorded in stream.events:
        if not isinstance(recorded.event, ReplyRequested):
            continue
        end_event = ends.get(recorded.event.response_id)
        end: Any = end_event.event if end_event else None
        output: tuple[InputItem, ...] = ()
        if isinstance(end, ReplyCompleted):
            output = tuple(InputItem(item_id=item_id, item=appended[item_id].item) for item_id in end.output_ids)
        elif end is not None:
            output = partial_output(end)
        last = stream.events[-1]
        yield Record(
            conversation_id=conversation_id,
            head=Head(last.tenant, last.version, last.position, False, "", ""),
            request_event=recorded,
            requested=recorded.event,
            end_event=end_event,
            end=end,
            output=output,
            retracted=frozenset(stored.item_id for stored in output if stored.item_id in deleted),
        )
