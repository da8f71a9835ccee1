"""The table `files`: what was uploaded, and who may read it."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec import Struct
from psycopg import sql
from psycopg.rows import class_row

from domain.content_references import ROW_BYTES, ContentReference
from infrastructure.access.principal import Principal
from infrastructure.contents.content_store import keep_content
from infrastructure.contents.staged_content import StagedContent
from infrastructure.contents.staged_contents import StagedContents
from infrastructure.event_log.append_request import KeyReused
from infrastructure.ids import conversation_id, uuid_of
from infrastructure.stores.postgres import Pool

WRITE_TURN_TIMEOUT_SECONDS: Final = 30.0
"""How long a request waits for one of the connections that store and delete files."""

PAGE_ITEMS: Final = 50
MAX_FORKS: Final = 1_000


class StoredFile(Struct, frozen=True, kw_only=True):
    """Times in seconds since 1970."""

    id: str
    size: int
    sha256: bytes
    filename: str
    purpose: str
    media_type: str
    created_at: int
    expires_at: int | None


class NewFile(Struct, frozen=True, kw_only=True):
    """`idempotency_key`: a repeat with the same key gets the first file."""

    id: str
    filename: str
    purpose: str
    media_type: str
    created_at: datetime
    expires_at: datetime | None
    idempotency_key: str | None


class NamingItem(Struct, frozen=True, kw_only=True):
    """An item that names a content, in the event with this row key. `label`: as in ContentReference."""

    file_id: str
    conversation_id: str
    row_key: str
    item_id: str
    copy_of: str | None
    sha256: bytes
    size: int
    label: str | None
    filename: str | None

    @property
    def reference(self) -> ContentReference:
        return ContentReference(self.file_id, self.sha256, self.size, self.label)


class Reader(Struct, frozen=True):
    """Whose files are meant. `subject` None: the files of everybody in the tenant, for an admin."""

    tenant: str
    subject: str | None


def reader_of(principal: Principal) -> Reader:
    return Reader(principal.tenant, None if principal.actor.is_admin else principal.subject)


_FIELDS: Final = sql.SQL("""
    'file-' || replace(file_id::text, '-', '') AS id, size, sha256, filename, purpose, media_type,
    floor(extract(epoch FROM created_at))::bigint AS created_at,
    floor(extract(epoch FROM expires_at))::bigint AS expires_at
""")
_VISIBLE: Final = sql.SQL("""
    subject = coalesce(%(subject)s::text, subject) AND (expires_at IS NULL OR expires_at > now())
""")
_ADD: Final = sql.SQL("""
    INSERT INTO files (tenant_id, file_id, subject, sha256, size, filename, purpose, media_type, created_at, expires_at, idempotency_key)
    VALUES (%(tenant)s, %(file)s, %(subject)s, %(sha256)s, %(size)s, %(filename)s, %(purpose)s, %(media_type)s, %(created_at)s,
            %(expires_at)s, %(key)s)
    ON CONFLICT (tenant_id, subject, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING {}
""").format(_FIELDS)
_BY_KEY: Final = sql.SQL(
    "SELECT {} FROM files WHERE tenant_id = %(tenant)s AND {} AND idempotency_key = %(key)s"
).format(_FIELDS, _VISIBLE)
_FIND: Final = sql.SQL("SELECT {} FROM files WHERE tenant_id = %(tenant)s AND {} AND file_id = %(file)s").format(
    _FIELDS, _VISIBLE
)
_DELETE: Final = sql.SQL(
    "DELETE FROM files WHERE tenant_id = %(tenant)s AND {} AND file_id = %(file)s RETURNING file_id"
).format(_VISIBLE)
_FIND_EACH: Final = sql.SQL(
    "SELECT {} FROM files WHERE tenant_id = %(tenant)s AND {} AND file_id = ANY(%(files)s)"
).format(_FIELDS, _VISIBLE)
_FRESH: Final = """
    SELECT sha256 FROM contents
    WHERE tenant_id = %(tenant)s AND sha256 = ANY(%(hashes)s) AND written_at > now() - interval '1 hour'
"""
_NAMING: Final = """
    SELECT 'file-' || replace(wanted.file::text, '-', '') AS file_id,
        'conv_' || replace(originator_id::text, '-', '') AS conversation_id, row_key, item_id, copy_of, sha256, size, label, filename
    FROM unnest(%(files)s::uuid[]) AS wanted (file) CROSS JOIN LATERAL (
        SELECT originator_id, row_key, item_id, copy_of, sha256, size, label, filename FROM content_refs
        WHERE tenant_id = %(tenant)s AND file_id = wanted.file AND NOT starts_with(item_id, 'resp_')
        ORDER BY subject = %(subject)s DESC, item_id DESC, row_key LIMIT %(limit)s OFFSET %(skip)s
    ) AS naming
"""
_NAMED_BY: Final = """
    SELECT 'file-' || replace(file_id::text, '-', '') AS file_id,
        'conv_' || replace(originator_id::text, '-', '') AS conversation_id, row_key, item_id, copy_of, sha256, size, label, filename
    FROM content_refs WHERE tenant_id = %(tenant)s AND file_id = ANY(%(files)s) AND item_id = %(item)s
"""
_FORKS: Final = """
    WITH RECURSIVE found (id, subject) AS (
        SELECT fork_id, subject FROM forks WHERE tenant_id = %(tenant)s AND origin_id = ANY(%(origins)s)
        UNION SELECT fork_id, forks.subject FROM forks JOIN found ON origin_id = found.id WHERE tenant_id = %(tenant)s
    )
    SELECT id FROM found ORDER BY subject = %(subject)s DESC, id DESC LIMIT %(limit)s
"""
_PAGE: Final = """
    SELECT {{}} FROM files WHERE tenant_id = %(tenant)s AND {{}} AND purpose = coalesce(%(purpose)s::text, purpose)
        AND file_id > coalesce(%(lower)s::uuid, '00000000-0000-0000-0000-000000000000')
        AND file_id < coalesce(%(upper)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    ORDER BY file_id {order} LIMIT %(limit)s
"""
_ASCENDING: Final = sql.SQL(_PAGE.format(order="ASC")).format(_FIELDS, _VISIBLE)
_DESCENDING: Final = sql.SQL(_PAGE.format(order="DESC")).format(_FIELDS, _VISIBLE)


class FileStore:
    """Every method may raise psycopg.Error.

    `write_pool` stores and deletes files; None if the store is only read. An upload holds a connection until the whole file is
    written, so reads have their own connections.
    """

    def __init__(self, pool: Pool, write_pool: Pool | None = None) -> None:
        self._pool = pool
        self._write_pool = write_pool or pool

    async def add(self, tenant: str, subject: str, file: NewFile, content: StagedContent) -> StoredFile:
        """Stores all or nothing. Raises NoSpace, and KeyReused."""
        values = {
            "tenant": tenant,
            "subject": subject,
            "file": uuid_of(file.id),
            "sha256": content.sha256,
            "size": content.size,
            "filename": file.filename,
            "purpose": file.purpose,
            "media_type": file.media_type,
            "created_at": file.created_at,
            "expires_at": file.expires_at,
            "key": file.idempotency_key,
        }
        async with (
            self._write_pool.connection(WRITE_TURN_TIMEOUT_SECONDS) as connection,
            connection.transaction(),
            connection.cursor(row_factory=class_row(StoredFile)) as cursor,
        ):
            await keep_content(
                connection, tenant, sha256=content.sha256, size=content.size, rows=content.rows(ROW_BYTES)
            )
            stored = await (await cursor.execute(_ADD, values)).fetchone()
            if stored is None:
                stored = await (await cursor.execute(_BY_KEY, values)).fetchone()
                same = (content.sha256, file.filename, file.purpose)
                if stored is None or (stored.sha256, stored.filename, stored.purpose) != same:
                    raise KeyReused
        return stored

    async def get(self, reader: Reader, file_id: str) -> StoredFile | None:
        found = await self._read(_FIND, reader, file=uuid_of(file_id))
        return found[0] if found else None

    async def get_each(self, reader: Reader, file_ids: Collection[str]) -> list[StoredFile]:
        return await self._read(_FIND_EACH, reader, files=list(map(uuid_of, file_ids)))

    async def keep(self, tenant: str, contents: StagedContents) -> None:
        """Stores contents before the events that name them are appended."""
        values = {"tenant": tenant, "hashes": list(contents.sizes)}
        async with self._write_pool.connection(WRITE_TURN_TIMEOUT_SECONDS) as connection:
            fresh = {sha256 for (sha256,) in await (await connection.execute(_FRESH, values)).fetchall()}
            # One transaction for each content, because two requests with the same two contents must not wait for each other.
            for sha256, size in contents.sizes.items():
                if sha256 not in fresh:
                    async with connection.transaction():
                        await keep_content(connection, tenant, sha256=sha256, size=size, rows=contents.rows(sha256))

    async def naming(
        self, tenant: str, subject: str, file_ids: Collection[str], *, skip: int = 0, limit: int = PAGE_ITEMS
    ) -> list[NamingItem]:
        """For each file, at most `limit` items that name it, after the first `skip`. The subject's items come first.

        Does not check who may read the items. Contents that only a transcript names are left out.
        """
        values = {"tenant": tenant, "subject": subject, "files": list(map(uuid_of, file_ids))}
        async with (
            self._pool.connection() as connection,
            connection.cursor(row_factory=class_row(NamingItem)) as cursor,
        ):
            await cursor.execute(_NAMING, {**values, "skip": skip, "limit": limit})
            return await cursor.fetchall()

    async def forks_of(self, tenant: str, subject: str, conversation_ids: Collection[str]) -> list[str]:
        """At most MAX_FORKS direct and indirect forks of these conversations. The subject's forks come first, then the newest."""
        origins = list(map(uuid_of, conversation_ids))
        values = {"tenant": tenant, "subject": subject, "origins": origins, "limit": MAX_FORKS}
        async with self._pool.connection() as connection:
            rows: list[Any] = await (await connection.execute(_FORKS, values)).fetchall()
        return [conversation_id(fork) for (fork,) in rows]

    async def references(self, tenant: str, item_id: str, file_ids: Collection[str]) -> dict[str, ContentReference]:
        """What the item names with these ids. Does not check who may read the item."""
        values = {"tenant": tenant, "item": item_id, "files": list(map(uuid_of, file_ids))}
        async with (
            self._pool.connection() as connection,
            connection.cursor(row_factory=class_row(NamingItem)) as cursor,
        ):
            await cursor.execute(_NAMED_BY, values)
            return {each.file_id: each.reference for each in await cursor.fetchall()}

    async def page(
        self,
        reader: Reader,
        *,
        purpose: str | None,
        lower: str | None,
        upper: str | None,
        limit: int,
        ascending: bool,
    ) -> list[StoredFile]:
        """`lower` < id < `upper`, ordered by id. None: no bound."""
        return await self._read(
            _ASCENDING if ascending else _DESCENDING,
            reader,
            purpose=purpose,
            lower=None if lower is None else uuid_of(lower),
            upper=None if upper is None else uuid_of(upper),
            limit=limit,
        )

    async def delete(self, reader: Reader, file_id: str) -> bool:
        """False if there is no such file."""
        async with self._write_pool.connection(WRITE_TURN_TIMEOUT_SECONDS) as connection:
            cursor = await connection.execute(_DELETE, _values(reader, file=uuid_of(file_id)))
            return cursor.rowcount == 1

    async def _read(self, statement: sql.Composed, reader: Reader, **values: Any) -> list[StoredFile]:
        async with (
            self._pool.connection() as connection,
            connection.cursor(row_factory=class_row(StoredFile)) as cursor,
        ):
            await cursor.execute(statement, _values(reader, **values))
            return await cursor.fetchall()


def _values(reader: Reader, **values: Any) -> Mapping[str, Any]:
    return {"tenant": reader.tenant, "subject": reader.subject, **values}
