"""Keeps the API keys in memory. A request with a known key is checked without a round trip.

One task reads the changes every POLL_SECONDS, and when a request has an unknown key. After each read, the task pauses
for at least MIN_PAUSE_SECONDS. NOTIFY is not used, because a notification can be lost. While
Postgres is unavailable, the keys in memory still work.
"""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import psycopg
import structlog
from msgspec import Struct
from psycopg.types.json import set_json_loads

from infrastructure.access.api_key import secret_hash, split_text
from infrastructure.access.key_store import KeyStore
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.access.refusals import CannotCheckCredential, InvalidCredential
from infrastructure.cancellation import raise_if_cancelled
from infrastructure.ids import uuid_of
from infrastructure.stores.postgres import make_pool

POLL_SECONDS: Final = 1.0
MIN_PAUSE_SECONDS: Final = 0.05
RELOAD_SECONDS: Final = 60.0
"""After this time all keys are read again, because a removed row is not among the changes."""

RECORD_USE_SECONDS: Final = 30.0
READ_TIMEOUT_SECONDS: Final = 2.0
UNKNOWN_KEY_TIMEOUT_SECONDS: Final = 3.0
CLOSE_TIMEOUT_SECONDS: Final = 1.0
PAGE_KEYS: Final = 1_000

_CHANGES = """
    SELECT json_build_array((SELECT coalesce(max(change), 0) FROM api_keys), coalesce((
        SELECT json_agg(json_build_array(change, replace(id::text, '-', ''), encode(secret_sha256, 'hex'), tenant_id, subject, scopes,
            extract(epoch FROM expires_at), revoked_at IS NOT NULL) ORDER BY change)
        FROM (SELECT * FROM api_keys WHERE change > $1 ORDER BY change LIMIT $2) AS changed
    ), '[]'))
"""

log = structlog.get_logger(__name__)


class _Row(Struct, frozen=True, array_like=True):
    change: int
    id: str
    secret_sha256: str
    tenant: str
    subject: str
    scopes: list[str]
    expires_at: float | None
    is_revoked: bool


class _Page(Struct, frozen=True, array_like=True):
    """`last`: the number of the table's last change. `rows`: changed keys, in the order of their changes."""

    last: int
    rows: list[_Row]


class _KnownKey(Struct, frozen=True):
    secret_sha256: bytes
    principal: Principal
    expires_at: float | None
    is_revoked: bool


class ApiKeys:
    """Checks API keys. Use one per process."""

    def __init__(
        self,
        postgres_url: str,
        *,
        record_use_seconds: float = RECORD_USE_SECONDS,
        reload_seconds: float = RELOAD_SECONDS,
    ) -> None:
        self._pool = make_pool(postgres_url, max_size=1, read_only=False)
        self._changes = self._pool.pipeline("api_key_changes", ["bigint", "bigint"], _CHANGES, _decode_json)
        self._store = KeyStore(self._pool)
        self._record_use_seconds = record_use_seconds
        self._reload_seconds = reload_seconds
        self._keys: dict[str, _KnownKey] = {}
        self._last_change = 0
        self._loaded_at: float | None = None
        """By the monotonic clock."""
        self._waiting: list[asyncio.Future[None]] = []
        """Each future is done when the next read has ended."""
        self._read_requested = asyncio.Event()
        self._used: dict[str, float] = {}
        """A time is removed once it is stored."""
        self._users = 0
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Several apps of a process may use one ApiKeys. Postgres need not be up."""
        self._users += 1
        if self._users == 1:
            await self._pool.open(wait=False)
            self._tasks = [asyncio.create_task(self._keep_current()), asyncio.create_task(self._keep_recording())]
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                await self._close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(psycopg.Error, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._record_use()
        await self._pool.close(CLOSE_TIMEOUT_SECONDS)

    async def principal_of(self, credential: str) -> Principal:
        """Raises InvalidCredential, or CannotCheckCredential if the key is not in memory and Postgres is unavailable."""
        parts = split_text(credential)
        if parts is None:
            raise _refused("The API key does not have the form of a key of this store.")
        key_id, secret = parts
        key = self._keys.get(key_id)
        if key is None:
            await self._next_read()
            key = self._keys.get(key_id)
        # Without the right secret, the answer must not tell whether the key exists.
        if key is None or not hmac.compare_digest(secret_hash(secret), key.secret_sha256):
            raise _refused("The API key is not valid in this store.")
        if key.is_revoked:
            raise _refused("The API key was revoked.")
        now = time.time()
        if key.expires_at is not None and key.expires_at <= now:
            expired = datetime.fromtimestamp(key.expires_at, UTC)
            raise _refused(f"The API key expired at {expired:%Y-%m-%d %H:%M:%S} UTC.")
        self._used[key_id] = now
        return key.principal

    async def _next_read(self) -> None:
        """Waits until all changes committed before this call were read. Raises CannotCheckCredential."""
        read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(read)
        self._read_requested.set()
        try:
            async with asyncio.timeout(UNKNOWN_KEY_TIMEOUT_SECONDS):
                await read
        except (psycopg.Error, TimeoutError) as error:
            raise CannotCheckCredential("The API key cannot be checked: the event store is unavailable.") from error

    async def _keep_current(self) -> None:
        is_failing = False
        while True:
            raise_if_cancelled()
            waiting, self._waiting = self._waiting, []
            self._read_requested.clear()
            try:
                await self._read_changes()
            except Exception as error:  # the task must not end, because it reads which keys are revoked
                if not is_failing:
                    log.warning("api_keys_not_read", exc_info=error)
                is_failing = True
                _resolve(waiting, psycopg.OperationalError("The API keys could not be read."))
                await asyncio.sleep(POLL_SECONDS)
                continue
            is_failing = False
            _resolve(waiting, None)
            await asyncio.sleep(MIN_PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._read_requested.wait()

    async def _read_changes(self) -> None:
        now = time.monotonic()
        if self._loaded_at is not None and now - self._loaded_at < self._reload_seconds:
            page = await self._page(self._last_change)
            if page.last >= self._last_change:
                self._last_change = await self._add_pages(page, self._keys, self._last_change)
                return
            # The table has lost changes that this process has seen. Perhaps a backup was restored.
        keys: dict[str, _KnownKey] = {}
        self._last_change = await self._add_pages(await self._page(0), keys, 0)
        self._keys = keys
        self._loaded_at = now

    async def _add_pages(self, page: _Page, keys: dict[str, _KnownKey], last_change: int) -> int:
        """Adds the keys of this page and the next ones. Returns the number of the last change."""
        while page.rows:
            for row in page.rows:
                key_id = f"key_{row.id}"
                scopes = frozenset(scope for scope in SCOPES if scope in row.scopes)
                principal = Principal(row.tenant, row.subject, scopes, key_id)
                keys[key_id] = _KnownKey(bytes.fromhex(row.secret_sha256), principal, row.expires_at, row.is_revoked)
            last_change = page.rows[-1].change
            if len(page.rows) < PAGE_KEYS:
                break
            page = await self._page(last_change)
        return last_change

    async def _page(self, after: int) -> _Page:
        page: _Page = await self._changes.call([after, PAGE_KEYS], READ_TIMEOUT_SECONDS)
        return page

    async def _keep_recording(self) -> None:
        while True:
            raise_if_cancelled()
            await asyncio.sleep(self._record_use_seconds)
            try:
                await self._record_use()
            except Exception as error:  # the task must not end
                log.warning("api_key_use_not_recorded", exc_info=error)

    async def _record_use(self) -> None:
        """Times that could not be stored are kept for the next call."""
        used = [*self._used.items()]
        for start in range(0, len(used), PAGE_KEYS):
            batch = used[start : start + PAGE_KEYS]
            await self._store.record_use([(uuid_of(key_id), seconds) for key_id, seconds in batch])
            for key_id, seconds in batch:
                if self._used.get(key_id) == seconds:
                    del self._used[key_id]


def _refused(message: str) -> InvalidCredential:
    return InvalidCredential("invalid_api_key", message)


def _resolve(waiting: list[asyncio.Future[None]], error: psycopg.Error | None) -> None:
    for read in waiting:
        if read.done():  # the request was cancelled
            continue
        if error is None:
            read.set_result(None)
        else:
            read.set_exception(error)


async def _decode_json(connection: psycopg.AsyncConnection[Any]) -> None:
    """Decodes pages with msgspec, and plans the statement once."""
    set_json_loads(msgspec.json.Decoder(_Page).decode, connection)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
