"""Compares the contents of images and files with their hashes, and with what names them."""

import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final
from uuid import UUID

from domain.events import ConversationDeleted, ReplyDeleted
from domain.named_contents import named_contents
from infrastructure.contents.collection import KEEP_HOURS
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool
from scripts.verification.differences import Difference, DifferenceKind
from scripts.verification.streams import Stream, Streams

Row = tuple[Any, ...]
_Differing = tuple[DifferenceKind, UUID, str, Row]
"""(kind, conversation, item, key of the row)"""

CONTENTS, REFS = "table contents", "table content_refs"
_PAGE_ROWS: Final = 500
_MARGIN_HOURS: Final = 2
"""The collection runs once an hour."""

_REPEATS: Final = 2
"""A difference is looked for again, because the conversation may have changed between two reads."""

_OF_STREAMS: Final = """
    SELECT tenant_id, originator_id, row_key, item_id, file_id, sha256 FROM content_refs WHERE originator_id = ANY(%(streams)s)
"""
_NOT_IN_LOG: Final = """
    SELECT originator_id, item_id FROM content_refs AS r
    WHERE NOT EXISTS (SELECT FROM events AS e WHERE e.originator_id = r.originator_id) LIMIT %(rows)s
"""
_MISSING: Final = """
    SELECT DISTINCT sha256 FROM (SELECT tenant_id, sha256 FROM content_refs UNION SELECT tenant_id, sha256 FROM files) AS n
    WHERE NOT EXISTS (SELECT FROM contents AS c WHERE c.tenant_id = n.tenant_id AND c.sha256 = n.sha256) LIMIT %(rows)s
"""
_PAGE: Final = """
    SELECT tenant_id, sha256, size, written_at < now() - make_interval(hours => %(hours)s)
        AND NOT EXISTS (SELECT FROM files AS f WHERE f.tenant_id = c.tenant_id AND f.sha256 = c.sha256)
        AND NOT EXISTS (SELECT FROM content_refs AS r WHERE r.tenant_id = c.tenant_id AND r.sha256 = c.sha256)
    FROM contents AS c WHERE (tenant_id, sha256) > (%(tenant)s, %(sha256)s) ORDER BY tenant_id, sha256 LIMIT %(rows)s
"""
_ROW: Final = (
    "SELECT bytes FROM content_rows WHERE tenant_id = %(tenant)s AND sha256 = %(sha256)s AND number = %(number)s"
)


class Contents:
    """`compared`: how many rows of each table were compared."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.compared = {"contents": 0, "content_refs": 0}

    async def compare(self, streams: Sequence[Stream]) -> AsyncIterator[Difference]:
        """Compares what the events name with `content_refs`. Appends and deletions may go on meanwhile."""
        differing, count = await self._differing(streams)
        self.compared["content_refs"] += count
        for _ in range(_REPEATS):
            read_later = [
                stream
                for stream_id in {stream_id for _, stream_id, *_ in differing}
                for stream in await Streams(self._pool, conversation_id_of(stream_id)).next()
            ]
            differing &= (await self._differing(read_later))[0]
        for what, stream_id, item_id, _ in sorted(differing):
            yield Difference(REFS, what, conversation_id_of(stream_id), item_id)

    async def _differing(self, streams: Sequence[Stream]) -> tuple[set[_Differing], int]:
        """The rows that differ, and how many rows there are."""
        readable = [stream for stream in streams if stream.readable]
        expected = {key for stream in readable for key in _expected(stream)}
        ids = {"streams": [uuid_of(stream.conversation_id) for stream in readable]}
        found = set(await self._rows(_OF_STREAMS, ids)) if readable else set()
        kinds: tuple[tuple[DifferenceKind, set[Row]], ...] = (
            ("missing", expected - found),
            ("extra", found - expected),
        )
        return {(what, key[1], key[3], key) for what, keys in kinds for key in keys}, len(found)

    async def not_named_or_changed(self) -> AsyncIterator[Difference]:
        for stream_id, item_id in await self._rows(_NOT_IN_LOG, {"rows": _PAGE_ROWS}):
            note = "the log does not have its conversation"
            yield Difference(REFS, "extra", conversation_id_of(stream_id), item_id, note=note)
        for (sha256,) in await self._rows(_MISSING, {"rows": _PAGE_ROWS}):
            yield Difference(CONTENTS, "missing", key=sha256.hex(), note="an item or a file names it")
        after: dict[str, Any] = {"tenant": "", "sha256": b""}
        while True:
            page = await self._rows(_PAGE, {**after, "rows": _PAGE_ROWS, "hours": KEEP_HOURS + _MARGIN_HOURS})
            for tenant, sha256, size, is_unnamed in page:
                self.compared["contents"] += 1
                if is_unnamed:
                    yield Difference(CONTENTS, "extra", key=sha256.hex(), note="nothing names it")
                found_hash, found_size = await self._hash_of(tenant, sha256)
                if found_size == 0:
                    yield Difference(CONTENTS, "missing", key=sha256.hex(), note="it has no bytes")
                elif (found_hash, found_size) != (sha256, size):
                    yield Difference(
                        CONTENTS, "different", key=sha256.hex(), note="its bytes have another hash or size"
                    )
            if len(page) < _PAGE_ROWS:
                return
            after = {"tenant": page[-1][0], "sha256": page[-1][1]}

    async def _hash_of(self, tenant: str, sha256: bytes) -> tuple[bytes, int]:
        """(SHA-256, size) of the stored bytes."""
        hashed, size, number = hashlib.sha256(), 0, 0
        while rows := await self._rows(_ROW, {"tenant": tenant, "sha256": sha256, "number": number}):
            hashed.update(rows[0][0])
            size += len(rows[0][0])
            number += 1
        return hashed.digest(), size

    async def _rows(self, statement: str, parameters: dict[str, Any]) -> list[Row]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(statement.encode(), parameters, binary=True)).fetchall()


def _expected(stream: Stream) -> Iterator[Row]:
    """The rows of `content_refs` that the conversation should have."""
    events = [recorded.event for recorded in stream.events]
    if events and isinstance(events[-1], ConversationDeleted):
        return
    deleted = {event.response_id for event in events if isinstance(event, ReplyDeleted)}
    conversation = (stream.tenant, uuid_of(stream.conversation_id))
    for event in events:
        if event.row_key not in deleted:
            for named in named_contents(event):
                reference = named.reference
                yield (*conversation, event.row_key, named.item_id, uuid_of(reference.file_id), reference.sha256)
