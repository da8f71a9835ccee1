"""Compares the contents of images and files with their hashes, and with what names them."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from domain.events import ConversationDeleted
from domain.named_contents import named_contents
from infrastructure.contents.collection import KEEP_HOURS
from infrastructure.ids import conversation_id as conversation_id_of
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool
from scripts.verification.differences import Difference
from scripts.verification.streams import Stream

Row = tuple[Any, ...]
CONTENTS, REFS = "table contents", "table content_refs"
_PAGE_ROWS: Final = 500
_MARGIN_HOURS: Final = 2
"""The collection runs once an hour."""

_OF_STREAMS: Final = """
    SELECT tenant_id, originator_id, row_key, item_id, file_id, sha256, EXISTS (
        SELECT FROM events AS e WHERE e.originator_id = r.originator_id AND e.item_id = r.row_key AND e.tenant_id = r.tenant_id)
    FROM content_refs AS r WHERE originator_id = ANY(%(streams)s)
"""
_GONE: Final = """
    SELECT originator_id, topic, item_id FROM events
    WHERE originator_id = ANY(%(streams)s) AND topic IN ('conversation.deleted', 'reply.deleted')
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
    """`compared`: rows by table."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.compared = {"contents": 0, "content_refs": 0}

    async def compare(self, streams: Sequence[Stream]) -> AsyncIterator[Difference]:
        """What the events name, with `content_refs`. Appends and deletions may go on meanwhile."""
        ids = {"streams": [uuid_of(stream.conversation_id) for stream in streams]}
        expected = {
            (
                *(stream.tenant, uuid_of(stream.conversation_id), recorded.event.row_key),
                *(named.item_id, uuid_of(named.reference.file_id), named.reference.sha256),
            ): stream.conversation_id
            for stream in streams
            for recorded in stream.events
            for named in named_contents(recorded.event)
        }
        rows = await self._rows(_OF_STREAMS, ids)
        self.compared["content_refs"] += len(rows)
        for *key, is_in_log in rows:
            if not is_in_log:
                yield Difference(REFS, "extra", conversation_id_of(key[1]), key[3])
        missing = expected.keys() - {tuple(key) for *key, _ in rows}
        if not missing:
            return
        gone = {
            (stream_id, None if topic == ConversationDeleted.topic else row_key)
            for stream_id, topic, row_key in await self._rows(_GONE, ids)
        }
        for missing_key in missing:
            _, stream_id, row_key, item_id, *_ = missing_key
            if gone.isdisjoint({(stream_id, None), (stream_id, row_key)}):
                yield Difference(REFS, "missing", expected[missing_key], item_id)

    async def not_named_or_changed(self) -> AsyncIterator[Difference]:
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
