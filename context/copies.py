"""Lists every place that holds content of a conversation, and what removes or hides this content after a deletion.

`domain/content.py` lists the fields of events that hold content. A test compares these tables with the fields of the
views and snapshots.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct


class Copy(Struct, frozen=True):
    """A place that holds content.

    `gone_by`: what removes or hides the content after a deletion. `shown_by`: a test of this.
    """

    where: str
    gone_by: str
    shown_by: str


COPIES: Final[Sequence[Copy]] = (
    Copy(
        "the log (Postgres, table events)",
        "the log keeps it. Only callers with the scope `audit` see it, in the audit trail and in a response's context. "
        "Other code asks `context/deleted_content.py`, or reads the item's own conversation up to its end, and so also "
        "reads the deletion",
        "tests/queries/test_deleted_items.py",
    ),
    Copy(
        "the views (MongoDB): conversations, items, responses",
        "a deleted conversation's documents are removed, and a deleted response's fields are emptied (`projections/views/`). "
        "Reads leave out or blank retracted items, except with `as_of` for the scope `audit`",
        "tests/deletion/test_planted_word.py",
    ),
    Copy(
        "context snapshots (Redis)",
        "a deleted conversation gets a tombstone; after a retraction the snapshot is made again without the item (`projections/snapshot_change.py`)",
        "tests/projections/test_context_snapshots.py",
    ),
    Copy(
        "comments of feedback (the view feedback)",
        "removed with their conversation, and emptied when the feedback is withdrawn; left out when their item or response is deleted "
        "(`queries/feedback.py`, `queries/blanking.py`, `commands/repeated_answers.py`)",
        "tests/queries/test_feedback.py",
    ),
    Copy(
        "summaries (ContextCompacted)",
        "withdrawn when an item that they cover is deleted (`domain/conversation.py`). For items of other conversations, this is "
        "checked when the summary is read (`context/withdrawn_summaries.py`)",
        "tests/commands/test_withdrawn_summaries.py",
    ),
    Copy(
        "forks, and chains of responses",
        "readers leave out items of the origin that are deleted now (`context/path_backwards.py`, `context/history_forwards.py`)",
        "tests/context/test_deleted_from_paths.py",
    ),
    Copy(
        "copies made by item references",
        "`copy_of`: a copy is deleted with its original (`context/deleted_content.py`)",
        "tests/context/test_deleted_from_paths.py",
    ),
    Copy(
        "what a reply took over from an earlier reply that did not complete",
        "`copy_of` names the earlier reply and the item: the copy is deleted with either of them (`context/deleted_content.py`)",
        "tests/deletion/test_planted_word.py",
    ),
    Copy(
        "the input of a response that was tried again (`retry`)",
        "its items have the same ids in both requests, so they are left out of both (`commands/retried_reply.py`)",
        "tests/deletion/test_planted_word.py",
    ),
    Copy(
        "input and output of Responses, and a reply's SSE stream that is made from the log",
        "`replies/record.py`, `queries/responses.py` and `queries/deleted_copies.py` leave deleted items out",
        "tests/queries/test_deleted_items.py",
    ),
    Copy(
        "the messages of Chat Completions requests, where they differ from items (ReplyRequested.transcript)",
        "left out with the item or the response that they belong to (`context/transcripts/rendered.py`, `queries/blanking.py`)",
        "tests/queries/test_transcript_context.py",
    ),
    Copy(
        "answers kept for idempotency keys (table idempotency_keys)",
        "emptied when their conversation is deleted (migrations/0017). `commands/repeated_answers.py` takes out items and "
        "summaries that are deleted",
        "tests/commands/test_repeated_answers.py",
    ),
    Copy(
        "hashes of transcripts (table transcript_prefixes)",
        "removed in the transaction that deletes the conversation, or retracts or restores the item (migrations/0020, 0023, 0025)",
        "tests/event_log/test_transcript_prefixes.py",
    ),
    Copy(
        "live events of replies (Redis, stream:{response_id})",
        "removed with the response. They are never read without the reply's record. They expire ten minutes after the "
        "reply's end, or an hour after the newest event if the reply has no end",
        "tests/commands/test_deleted_responses.py",
    ),
    Copy(
        "what a WebSocket remembers of a reply with `store: false`",
        "when the next reply continues from it, items that are copies of deleted items are left out (`commands/reply_target.py`)",
        "tests/commands/test_response_socket.py",
    ),
    Copy(
        "states of streams (memory, and Postgres, table `snapshots`): title, instructions, metadata",
        "the deletion empties the state in memory; a row of the table may keep the content, but it is read only to decide commands, and never shown",
        "tests/domain/test_decide.py",
    ),
    Copy(
        "images and files (Postgres, tables contents, content_rows, content_refs and files)",
        "served only through a file that was uploaded and not deleted, or an item that the caller may read and that is not deleted "
        "(`context/readable_files.py`). What names them is removed in the transaction that deletes the file or the conversation "
        "(migrations/0027). Contents that nothing names are collected (`infrastructure/contents/collection.py`)",
        "tests/files/test_collection.py",
    ),
    Copy(
        "error messages, log lines, metrics",
        "never hold content (`domain/errors.py`, `infrastructure/observability/redaction.py`)",
        "tests/infrastructure/test_logging.py",
    ),
)

VIEW_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "conversations": frozenset({"title", "lists", "instructions", "metadata"}),
    "items": frozenset({"item", "preview"}),
    "responses": frozenset({"parameters", "metadata", "input", "output"}),
    "search": frozenset({"text", "terms"}),
    "feedback": frozenset({"comment"}),
    "usage": frozenset(),
}

SNAPSHOT_FIELDS: Final = frozenset({"settings"})
"""Fields of the snapshot's Redis hash. The snapshot's Redis list holds items, so it has content too."""
