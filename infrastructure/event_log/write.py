"""What one append transaction writes, as parameters of the SQL function `append_at_once` (migrations/0027, which calls the version of 0022)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from domain.commands import Prefix
from domain.events import PathBranch
from domain.named_contents import NamedContent
from infrastructure.event_log.rows import Row, StreamEnd
from infrastructure.ids import uuid_of


class IdempotencyRecord(Struct, frozen=True, gc=False):
    """`row`: the number of the command's last row, from 1."""

    row: int
    key: str
    fingerprint: bytes
    answer: bytes


class PrefixRow(Struct, frozen=True, gc=False):
    """A prefix to store. `row`: the number of the row that appends its last item, from 1. `leaves`: the path up to the start of the item's branch."""

    row: int
    depth: int
    branch: int
    leaves: tuple[PathBranch, ...]
    prefix: Prefix


class ContentRef(Struct, frozen=True, gc=False):
    """`row`: the number of the row that names the content, from 1."""

    row: int
    named: NamedContent


class Write(Struct, frozen=True):
    """The rows of one transaction, and what it changes in other tables. Row numbers count from 1.

    expected_ends     by stream, the end that the rows were decided on
    started_replies   (row number, response id) of replies that are started or queued. `ended_replies` has the same form
    owner             the process that runs the started replies
    deleted_streams   conversations that these rows delete. Their replies end too
    forks             (row number of the fork's start, the conversation that it was forked from)
    keys_valid_since  a key stored before this time has expired and is replaced
    """

    rows: Sequence[Row]
    expected_ends: Mapping[UUID, StreamEnd] = {}
    started_replies: Sequence[tuple[int, str]] = ()
    owner: UUID | None = None
    ended_replies: Sequence[tuple[int, str]] = ()
    deleted_streams: Sequence[UUID] = ()
    idempotency: Sequence[IdempotencyRecord] = ()
    keys_valid_since: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    prefixes: Sequence[PrefixRow] = ()
    content_refs: Sequence[ContentRef] = ()
    forks: Sequence[tuple[int, UUID]] = ()


PARAMETER_TYPES = (
    *("uuid[]", "bigint[]", "bytea[]"),  # expected ends of streams
    "append_row[]",
    *("integer[]", "text[]", "uuid[]", "integer[]", "text[]", "uuid[]"),  # replies
    *("integer[]", "text[]", "bytea[]", "bytea[]", "timestamptz"),  # idempotency keys
    *("integer[]", "bytea[]", "integer[]", "boolean[]", "text[]", "integer[]", "bytea[]"),  # prefixes of transcripts
    *("bigint[]", "text[]", "text[]"),  # paths of these prefixes
    *("integer[]", "text[]", "text[]", "uuid[]", "bytea[]", "bigint[]", "text[]", "text[]"),  # what names contents
    *("integer[]", "uuid[]"),  # forks
)


def parameters(write: Write) -> list[Any]:
    """Most empty arrays are sent as NULL."""
    started, ended, records = write.started_replies, write.ended_replies, write.idempotency
    return [
        list(write.expected_ends),
        [version for version, _ in write.expected_ends.values()],
        [chain_hash for _, chain_hash in write.expected_ends.values()],
        list(write.rows),
        [row for row, _ in started] or None,
        [response_id for _, response_id in started] or None,
        [write.owner] if started else None,
        [row for row, _ in ended] or None,
        [response_id for _, response_id in ended] or None,
        list(write.deleted_streams) or None,
        [record.row for record in records] or None,
        [record.key for record in records] or None,
        [record.fingerprint for record in records] or None,
        [record.answer for record in records] or None,
        write.keys_valid_since,
        *(_prefix_parameters(write.prefixes) if write.prefixes else _NO_PREFIXES),
        *(_ref_parameters(write.content_refs) if write.content_refs else _NO_REFS),
        [row for row, _ in write.forks] or None,
        [origin for _, origin in write.forks] or None,
    ]


_NO_PREFIXES = (None,) * 10
_NO_REFS = (None,) * 8


def _prefix_parameters(rows: Sequence[PrefixRow]) -> list[Any]:
    prefixes = [row.prefix for row in rows]
    return [
        [row.row for row in rows],
        [prefix.hash for prefix in prefixes],
        [row.depth for row in rows],
        [prefix.answered for prefix in prefixes],
        [prefix.response_id for prefix in prefixes],
        [prefix.messages or None for prefix in prefixes],
        [prefix.exact or None for prefix in prefixes],
        [row.branch for row in rows],
        [_array([left.branch for left in row.leaves]) for row in rows],
        [_array([left.last_depth for left in row.leaves]) for row in rows],
    ]


def _ref_parameters(refs: Sequence[ContentRef]) -> list[Any]:
    references = [ref.named.reference for ref in refs]
    return [
        [ref.row for ref in refs],
        [ref.named.item_id for ref in refs],
        [ref.named.copy_of for ref in refs],
        [uuid_of(reference.file_id) for reference in references],
        [reference.sha256 for reference in references],
        [reference.size for reference in references],
        [reference.label for reference in references],
        [ref.named.filename for ref in refs],
    ]


def _array(numbers: Sequence[int | None]) -> str | None:
    """The literal of a Postgres array. None if there are no numbers."""
    return f"{{{','.join(map(str, numbers))}}}" if numbers else None
