"""API keys in memory: which keys are accepted, how soon changes take effect, and how many statements are sent."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest

from infrastructure.access.api_key import InvalidField
from infrastructure.access.api_keys import ApiKeys
from infrastructure.access.principal import Principal
from infrastructure.access.refusals import CannotCheckCredential, InvalidCredential
from infrastructure.ids import mint, uuid_of
from infrastructure.settings import Settings
from tests.access.made_keys import execute, new_test_key, store_keys, store_new_key
from tests.access.statement_count import StatementCount
from tests.log import Log
from tests.queries.proxy import Proxy

REVOKED_WITHIN_SECONDS = 5.0


@asynccontextmanager
async def opened(postgres_url: str, **seconds: float) -> AsyncIterator[ApiKeys]:
    keys = ApiKeys(postgres_url, **seconds)
    async with keys.opened():
        yield keys


@pytest.fixture
async def keys(settings: Settings) -> AsyncIterator[ApiKeys]:
    async with opened(settings.postgres_url) as opened_keys:
        yield opened_keys


async def refusal(keys: ApiKeys, text: str) -> str:
    """The message of the refusal. The message must have no part of the key."""
    with pytest.raises(InvalidCredential) as refused:
        await keys.principal_of(text)
    message = str(refused.value)
    assert refused.value.code == "invalid_api_key"
    assert not [part for part in text.split("_") if len(part) > 3 and part in message]
    return message


async def seconds_until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> float:
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
    return time.monotonic() - started


async def is_refused(keys: ApiKeys, text: str) -> bool:
    try:
        await keys.principal_of(text)
    except InvalidCredential:
        return True
    return False


async def test_only_the_hash_of_a_secret_is_stored(settings: Settings, keys: ApiKeys) -> None:
    key = store_new_key(settings.postgres_url, tenant="acme", subject="Zoë", scopes=["write", "read", "act_as", "read"])
    principal = await keys.principal_of(key.secret)
    assert principal == Principal("acme", "Zoë", frozenset({"read", "write", "act_as"}), key.id)
    [(row,)] = Log(settings.postgres_url).rows("SELECT to_jsonb(api_keys)::text FROM api_keys")
    assert key.secret.rpartition("_")[2] not in row


async def test_a_wrong_or_malformed_key_is_refused_and_not_shown(settings: Settings, keys: ApiKeys) -> None:
    key, other = store_new_key(settings.postgres_url), store_new_key(settings.postgres_url)
    secret = key.secret.rpartition("_")[2]
    of_another_store = new_test_key().secret
    mixed = f"{key.secret.rpartition('_')[0]}_{other.secret.rpartition('_')[2]}"
    changed = key.secret[:-1] + ("0" if key.secret[-1] != "0" else "1")
    for text in (of_another_store, mixed, changed):
        assert await refusal(keys, text) == "The API key is not valid in this store."
    malformed = (
        "cs_",
        f"cs__{secret}",
        key.secret.upper(),
        key.secret[:-1],
        f"{key.secret}0",
        f"{key.secret}\n",
        f"{key.secret}\0",
        f" {key.secret}",
        f"cs_{key.id}_{secret}",
        "cs_" + "a" * 10_240,
        "cs_" + "é" * 97,
    )
    for text in malformed:
        assert await refusal(keys, text) == "The API key does not have the form of a key of this store."
    assert (await keys.principal_of(key.secret)).key_id == key.id


async def test_an_error_says_expired_or_revoked_only_for_the_right_secret(settings: Settings, keys: ApiKeys) -> None:
    expired, revoked = store_new_key(settings.postgres_url), store_new_key(settings.postgres_url)
    execute(settings.postgres_url, "UPDATE api_keys SET expires_at = '2020-01-02' WHERE id = %s", uuid_of(expired.id))
    execute(settings.postgres_url, "UPDATE api_keys SET revoked_at = now() WHERE id = %s", uuid_of(revoked.id))
    assert await refusal(keys, expired.secret) == "The API key expired at 2020-01-02 00:00:00 UTC."
    assert await refusal(keys, revoked.secret) == "The API key was revoked."
    for key in (expired, revoked):
        guessed = f"{key.secret.rpartition('_')[0]}_{secrets.token_hex(32)}"
        assert await refusal(keys, guessed) == "The API key is not valid in this store."


async def test_while_postgres_is_down_a_key_still_expires_at_its_time(
    settings: Settings, keys: ApiKeys, postgres: Proxy
) -> None:
    key = store_new_key(settings.postgres_url, expires_at=int(time.time()) + 2)
    async with opened(postgres.url) as cut_off:
        await cut_off.principal_of(key.secret)
        await postgres.cut()
        await seconds_until(lambda: is_refused(cut_off, key.secret))
        assert time.time() >= (key.expires_at or 0)


@pytest.fixture
async def postgres(settings: Settings) -> AsyncIterator[Proxy]:
    proxy = Proxy(settings.postgres_url)
    await proxy.restore()
    yield proxy
    await proxy.cut()


async def test_a_new_key_works_immediately_and_a_revoked_one_is_soon_refused(settings: Settings, keys: ApiKeys) -> None:
    async with opened(settings.postgres_url) as other_process:
        for _ in range(5):
            key = store_new_key(settings.postgres_url)
            for process in (other_process, keys):
                await process.principal_of(key.secret)
        execute(settings.postgres_url, "UPDATE api_keys SET revoked_at = now() WHERE id = %s", uuid_of(key.id))
        started = time.monotonic()
        for process in (keys, other_process):
            await seconds_until(lambda process=process: is_refused(process, key.secret))  # type: ignore[misc]
        assert time.monotonic() - started < REVOKED_WITHIN_SECONDS


async def test_a_key_whose_transaction_ends_late_is_not_missed(settings: Settings, keys: ApiKeys) -> None:
    """The second change waits for the first."""
    insert = "INSERT INTO api_keys (id, secret_sha256, tenant_id, subject, scopes) VALUES (%s, sha256(%s), 'a', 'b', '{read}')"
    first, second = new_test_key(), new_test_key()
    values = {key.id: (uuid_of(key.id), key.secret.rpartition("_")[2].encode()) for key in (first, second)}
    with psycopg.connect(settings.postgres_url) as slow:
        slow.execute(insert.encode(), values[first.id])
        quick = asyncio.create_task(asyncio.to_thread(execute, settings.postgres_url, insert, *values[second.id]))
        await asyncio.sleep(0.2)
        await refusal(keys, new_test_key().secret)  # now `keys` has read all changes so far
        slow.commit()
        await quick
    await keys.principal_of(second.secret)
    await keys.principal_of(first.secret)


async def test_known_keys_cost_no_statement_and_unknown_keys_cost_few(settings: Settings) -> None:
    known_keys = [new_test_key() for _ in range(1_000)]
    store_keys(settings.postgres_url, known_keys)
    count = StatementCount()
    proxy = Proxy(settings.postgres_url, count.watch)
    await proxy.restore()
    async with opened(proxy.url) as keys:
        await keys.principal_of(known_keys[0].secret)
        before, started = len(count.statements), time.monotonic()
        for _ in range(10):
            for key in known_keys:
                await keys.principal_of(key.secret)
        seconds = time.monotonic() - started
        assert len(count.statements) - before <= seconds + 2  # only the statements of the poll
        before, started = len(count.statements), time.monotonic()
        for _ in range(20):  # each round waits for a new read of the changes
            flood = [keys.principal_of(new_test_key().secret) for _ in range(100)]
            refusals = {str(error) for error in await asyncio.gather(*flood, return_exceptions=True)}
            assert refusals == {"The API key is not valid in this store."}
        seconds = time.monotonic() - started
        assert len(count.statements) - before <= seconds / 0.05 + 2
        assert set(count.statements[before:]) == {"api_key_changes"}
    await proxy.cut()


async def test_while_postgres_is_down_known_keys_work_and_others_cannot_be_checked(
    settings: Settings, postgres: Proxy
) -> None:
    key, to_be_revoked = store_new_key(settings.postgres_url), store_new_key(settings.postgres_url)
    async with opened(postgres.url) as keys:
        await keys.principal_of(key.secret)
        await postgres.cut()
        execute(
            settings.postgres_url, "UPDATE api_keys SET revoked_at = now() WHERE id = %s", uuid_of(to_be_revoked.id)
        )
        await keys.principal_of(key.secret)
        await keys.principal_of(to_be_revoked.secret)
        with pytest.raises(CannotCheckCredential):
            await keys.principal_of(store_new_key(settings.postgres_url).secret)
        await postgres.restore()
        assert await seconds_until(lambda: is_refused(keys, to_be_revoked.secret)) < REVOKED_WITHIN_SECONDS
        await keys.principal_of(key.secret)


async def test_a_process_that_starts_without_postgres_accepts_keys_once_postgres_is_up(
    settings: Settings, postgres: Proxy
) -> None:
    key = store_new_key(settings.postgres_url)
    await postgres.cut()
    async with opened(postgres.url) as keys:
        with pytest.raises(CannotCheckCredential):
            await keys.principal_of(key.secret)
        await postgres.restore()
        await keys.principal_of(key.secret)


async def test_only_keys_of_the_backup_are_accepted_after_a_restore(settings: Settings, keys: ApiKeys) -> None:
    """The backup was made before the first key was revoked and before the second key was made."""
    first = store_new_key(settings.postgres_url)
    await keys.principal_of(first.secret)
    dump = "CREATE TABLE backup AS SELECT * FROM api_keys"
    execute(settings.postgres_url, dump)
    second = store_new_key(settings.postgres_url)
    execute(settings.postgres_url, "UPDATE api_keys SET revoked_at = now() WHERE id = %s", uuid_of(first.id))
    await keys.principal_of(second.secret)
    await seconds_until(lambda: is_refused(keys, first.secret))
    with psycopg.connect(settings.postgres_url) as restoring:
        restoring.execute("SET session_replication_role = replica")  # a restore copies rows without triggers
        restoring.execute("DELETE FROM api_keys")
        restoring.execute("INSERT INTO api_keys SELECT * FROM backup")
        restoring.execute("DROP TABLE backup")
    assert await seconds_until(lambda: is_refused(keys, second.secret)) < REVOKED_WITHIN_SECONDS
    await keys.principal_of(first.secret)


async def test_a_key_whose_row_is_deleted_is_refused_after_a_full_read(settings: Settings) -> None:
    key, other = store_new_key(settings.postgres_url), store_new_key(settings.postgres_url)
    async with opened(settings.postgres_url, reload_seconds=0.5) as keys:
        await keys.principal_of(key.secret)
        execute(settings.postgres_url, "DELETE FROM api_keys WHERE id = %s", uuid_of(key.id))
        assert await seconds_until(lambda: is_refused(keys, key.secret)) < REVOKED_WITHIN_SECONDS
        await keys.principal_of(other.secret)


async def test_the_last_use_of_a_key_is_stored_in_the_background_and_at_close(settings: Settings) -> None:
    used, unused, late = (store_new_key(settings.postgres_url) for _ in range(3))
    log = Log(settings.postgres_url)

    def times() -> dict[str, float | None]:
        rows = log.rows("SELECT 'key_' || replace(id::text, '-', ''), extract(epoch FROM last_used_at) FROM api_keys")
        return {key_id: None if seconds is None else float(seconds) for key_id, seconds in rows}

    async def is_stored() -> bool:
        return times()[used.id] is not None

    started = time.time()
    async with opened(settings.postgres_url, record_use_seconds=0.2) as keys:
        for _ in range(3):
            await keys.principal_of(used.secret)
        await is_refused(keys, new_test_key().secret)
        await seconds_until(is_stored)
    async with opened(settings.postgres_url) as keys:
        await keys.principal_of(late.secret)
    stored = times()
    assert stored[unused.id] is None
    for key in (used, late):
        assert started - 1 <= (stored[key.id] or 0) <= time.time() + 1


async def test_an_older_time_of_use_does_not_replace_a_newer_one(settings: Settings) -> None:
    key = store_new_key(settings.postgres_url)
    execute(settings.postgres_url, "UPDATE api_keys SET last_used_at = '2100-01-01'")
    async with opened(settings.postgres_url) as keys:
        await keys.principal_of(key.secret)
    assert Log(settings.postgres_url).rows("SELECT extract(year FROM last_used_at)::int FROM api_keys") == [(2100,)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "a" * 65}, "tenant"),
        ({"subject": ""}, "subject"),
        ({"subject": "a\nb"}, "subject"),
        ({"subject": "é" * 128}, "subject"),
        ({"subject": "\ud800"}, "subject"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["read", "root"]}, "scopes"),
        ({"name": ""}, "name"),
        ({"name": "x" * 10_000}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"expires_at": 1}, "expires_at"),
        ({"expires_at": int(time.time())}, "expires_at"),
        ({"expires_at": 2**62}, "expires_at"),
    ],
)
def test_a_key_with_a_wrong_field_is_not_made(fields: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidField) as refused:
        new_test_key(**fields)
    assert refused.value.param == param


def test_the_id_of_a_key_is_part_of_the_secret() -> None:
    key = new_test_key()
    assert len(key.id) == len(mint("key"))
    assert key.secret.startswith(f"cs_{key.id.removeprefix('key_')}_")
