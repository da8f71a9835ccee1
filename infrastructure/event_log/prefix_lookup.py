"""Looks up the beginnings of transcripts by their hashes, with the last events of their conversations.

Chat Completions requests start with such a look-up. So the look-ups have a `PostgresPipeline` of their own.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg.types.json import set_json_loads

from infrastructure.event_log.version_lookup import LOOKUP_TIMEOUT_SECONDS, Head, heads_sql
from infrastructure.stores.postgres import Pool

MAX_PREFIXES = 32
"""The most rows that are read for a hash. One subject may begin more conversations with the same words."""

MAX_HASHES = 64
"""The most hashes of a round trip. With more hashes, the look-ups of other requests would have to wait."""

# LATERAL with ORDER BY makes each subquery a look-up in an index.
_FOUND = """
    SELECT h.number, p.*, response.deleted AS response_deleted, dense_rank() OVER (ORDER BY p.conversation_id) AS conversation_number
    FROM unnest($1) WITH ORDINALITY AS h (hash, number) CROSS JOIN LATERAL (
        SELECT * FROM transcript_prefixes AS k WHERE k.tenant_id = $2 AND k.hash = h.hash
        ORDER BY k.tenant_id DESC, k.hash DESC, k.conversation_id DESC, k.version DESC LIMIT {max_prefixes}
    ) AS p CROSS JOIN LATERAL (
        SELECT FROM events AS e WHERE e.originator_id = p.conversation_id AND e.originator_version = p.version
        AND e.tenant_id = p.tenant_id AND e.item_id = p.item_id ORDER BY e.originator_version LIMIT 1
    ) AS appended LEFT JOIN LATERAL (
        SELECT true AS retracted FROM events AS e WHERE e.item_id = p.item_id AND e.originator_id = p.conversation_id
        AND e.tenant_id = p.tenant_id AND e.topic = 'item.retracted' ORDER BY e.item_id, e.originator_id, e.originator_version LIMIT 1
    ) AS retraction ON true LEFT JOIN LATERAL (
        SELECT true AS deleted FROM events AS e WHERE e.item_id = p.response_id AND e.originator_id = p.conversation_id
        AND e.tenant_id = p.tenant_id AND e.topic = 'reply.deleted' ORDER BY e.item_id, e.originator_id, e.originator_version LIMIT 1
    ) AS response ON true WHERE retraction.retracted IS NULL
"""
_TEMPLATE = """
    WITH found AS MATERIALIZED ({found})
    SELECT json_build_array((
        SELECT json_agg(json_build_array(number - 1, encode(hash, 'base64'), conversation_number - 1, conversation_id, item_id, version, depth, answered,
            CASE WHEN response_deleted IS NULL THEN response_id END, coalesce(messages, 0), coalesce(encode(exact, 'base64'), ''), branch)
            ORDER BY number, conversation_id DESC, version DESC) FROM found
    ), ({heads}))
"""
_STATEMENT = _TEMPLATE.format(
    found=_FOUND.format(max_prefixes=MAX_PREFIXES),
    heads=heads_sql("(SELECT DISTINCT conversation_id, $2, conversation_number FROM found)"),
)


class PrefixRow(Struct, frozen=True, array_like=True):
    """A prefix that was found. Fields that are not listed here are as in `domain.commands.Prefix` and ItemAppended.

    number               the index of its hash among the hashes that were looked up
    conversation_number  the index of its conversation in `_Answer.last_events`
    response_id          None if there is no response, or if the response was deleted
    branch               None in old rows
    """

    number: int
    hash: bytes
    conversation_number: int
    conversation_id: UUID
    item_id: str
    version: int
    depth: int
    answered: bool
    response_id: str | None
    messages: int
    exact: bytes
    branch: int | None


class _Answer(Struct, frozen=True, array_like=True):
    rows: list[PrefixRow] | None
    last_events: list[Head | None] | None


_decode = msgspec.json.Decoder(_Answer).decode


class PrefixLookup:
    """Use it on one event loop. Closing the pool closes the connection."""

    def __init__(self, pool: Pool, timeout_seconds: float = LOOKUP_TIMEOUT_SECONDS) -> None:
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._pipeline = pool.pipeline("prefix_lookup", ["bytea[]", "text"], _STATEMENT, _set_up)

    async def find(self, hashes: Sequence[bytes], tenant: str) -> list[tuple[PrefixRow, Head | None]]:
        """The prefixes with these hashes, each with the last event of its conversation. Raises psycopg.Error.

        Sorted in the order of `hashes`, then newest conversations first. Rows whose item is missing or was ever
        retracted are left out.
        """
        found: list[tuple[PrefixRow, Head | None]] = []
        for start in range(0, len(hashes), MAX_HASHES):
            some = list(hashes[start : start + MAX_HASHES])
            answer: _Answer = await self._pool.read(self._pipeline, [some, tenant], self._timeout_seconds)
            last_events = answer.last_events or ()
            found += [
                (msgspec.structs.replace(row, number=start + row.number), last_events[row.conversation_number])
                for row in answer.rows or ()
            ]
        return found


async def _set_up(connection: psycopg.AsyncConnection[Any]) -> None:
    """Plans the statement only once, because planning takes longer than running."""
    set_json_loads(_decode, connection)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
