"""The table of API keys."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row

from infrastructure.access.api_key import ApiKey, CreatedApiKey, from_seconds, secret_hash, split_text
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import Pool

_FIELDS = sql.SQL("""
    'key_' || replace(keys.id::text, '-', '') AS id, name, tenant_id AS tenant, subject, scopes,
    floor(extract(epoch FROM expires_at))::bigint AS expires_at,
    floor(extract(epoch FROM last_used_at))::bigint AS last_used_at,
    floor(extract(epoch FROM revoked_at))::bigint AS revoked_at
""")
_INSERT = sql.SQL("""
    INSERT INTO api_keys (id, secret_sha256, tenant_id, subject, scopes, name, expires_at)
    VALUES (%(id)s, %(hash)s, %(tenant)s, %(subject)s, %(scopes)s, %(name)s, %(expires_at)s)
""")
_REVOKE = sql.SQL("""
    UPDATE api_keys SET revoked_at = now()
    WHERE id = %(id)s AND tenant_id = coalesce(%(tenant)s::text, tenant_id) AND revoked_at IS NULL
""")
_FIND = sql.SQL("""
    SELECT {} FROM api_keys AS keys WHERE id = %(id)s AND tenant_id = coalesce(%(tenant)s::text, tenant_id)
""").format(_FIELDS)
_PAGE = """
    SELECT {{}} FROM api_keys AS keys WHERE tenant_id = %(tenant)s
        AND id > coalesce(%(lower)s::uuid, '00000000-0000-0000-0000-000000000000')
        AND id < coalesce(%(upper)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY keys.id {order} LIMIT %(limit)s
"""
_ASCENDING = sql.SQL(_PAGE.format(order="ASC")).format(_FIELDS)
_DESCENDING = sql.SQL(_PAGE.format(order="DESC")).format(_FIELDS)
_ALL = sql.SQL("""
    SELECT {} FROM api_keys AS keys WHERE tenant_id = coalesce(%(tenant)s::text, tenant_id) ORDER BY keys.id
""").format(_FIELDS)
# Rows are locked in the order of their ids, so that two processes do not deadlock.
_RECORD_USE = sql.SQL("""
    WITH used AS (SELECT * FROM unnest(%(ids)s::uuid[], %(times)s::float8[]) AS used (id, seconds)), turn AS (
        SELECT id FROM api_keys WHERE id IN (SELECT id FROM used) ORDER BY id FOR NO KEY UPDATE
    )
    UPDATE api_keys AS keys SET last_used_at = to_timestamp(used.seconds) FROM used, turn
    WHERE keys.id = used.id AND keys.id = turn.id AND (last_used_at IS NULL OR last_used_at < to_timestamp(used.seconds))
""")


class KeyStore:
    """Every method may raise psycopg.Error. `tenant=None`: any tenant, for the operator's tools."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, key: CreatedApiKey) -> None:
        """Stores a hash of the secret."""
        parts = split_text(key.secret)
        assert parts is not None
        values = {
            "id": uuid_of(key.id),
            "hash": secret_hash(parts[1]),
            "tenant": key.tenant,
            "subject": key.subject,
            "scopes": key.scopes,
            "name": key.name,
            "expires_at": from_seconds(key.expires_at),
        }
        async with self._pool.connection() as connection:
            await connection.execute(_INSERT, values)

    async def revoke(self, key_id: str, tenant: str | None) -> ApiKey | None:
        """Returns the key, even if it was revoked before."""
        values = {"id": uuid_of(key_id), "tenant": tenant}
        async with self._pool.connection() as connection:
            await connection.execute(_REVOKE, values)
        return await self.find(key_id, tenant)

    async def find(self, key_id: str, tenant: str | None) -> ApiKey | None:
        found = await self._read(_FIND, {"id": uuid_of(key_id), "tenant": tenant})
        return found[0] if found else None

    async def page(
        self, tenant: str, *, lower: str | None, upper: str | None, limit: int, ascending: bool
    ) -> list[ApiKey]:
        """`lower` < id < `upper`, ordered by id. None: no bound."""
        values = {
            "tenant": tenant,
            "lower": None if lower is None else uuid_of(lower),
            "upper": None if upper is None else uuid_of(upper),
            "limit": limit,
        }
        return await self._read(_ASCENDING if ascending else _DESCENDING, values)

    async def all(self, tenant: str | None) -> list[ApiKey]:
        return await self._read(_ALL, {"tenant": tenant})

    async def record_use(self, used: Sequence[tuple[UUID, float]]) -> None:
        """`used`: ids of keys, each with a time in seconds since 1970. An older time than the stored one changes nothing."""
        values = {"ids": [key_id for key_id, _ in used], "times": [seconds for _, seconds in used]}
        async with self._pool.connection() as connection:
            await connection.execute(_RECORD_USE, values)

    async def _read(self, statement: sql.Composed, values: Mapping[str, Any]) -> list[ApiKey]:
        async with self._pool.connection() as connection, connection.cursor(row_factory=class_row(ApiKey)) as cursor:
            await cursor.execute(statement, values)
            return await cursor.fetchall()
