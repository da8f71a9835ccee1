"""Faults of a Redis server that answers, but refuses to work.

Each fault changes the whole server. No other test may use this server meanwhile.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import hiredis
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests import servers

Fault = Callable[[Redis], AbstractAsyncContextManager[None]]
"""Makes the server refuse work until the block ends. The client must be used by nothing else."""


@asynccontextmanager
async def own_valkey() -> AsyncIterator[str]:
    """An empty Valkey for this test worker alone."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    url = await asyncio.to_thread(lambda: servers.shared_urls(f"valkey_{worker}", "REDIS_URL")["REDIS_URL"])
    async with Redis.from_url(url) as client:
        await client.flushall()
    yield url


@asynccontextmanager
async def out_of_memory(redis: Redis) -> AsyncIterator[None]:
    """OOM: no memory for new keys, and no eviction."""
    limit, policy = [await config(redis, name) for name in ("maxmemory", "maxmemory-policy")]
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        await redis.config_set("maxmemory", limit)
        await redis.config_set("maxmemory-policy", policy)


@asynccontextmanager
async def read_only_replica(redis: Redis) -> AsyncIterator[None]:
    """READONLY: the server becomes a replica of a server that is down."""
    await redis.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        await redis.replicaof("NO", "ONE")


@asynccontextmanager
async def too_few_replicas(redis: Redis) -> AsyncIterator[None]:
    """NOREPLICAS: writes need a replica, and there is none."""
    await redis.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        await redis.config_set("min-replicas-to-write", 0)


@asynccontextmanager
async def failed_save(redis: Redis) -> AsyncIterator[None]:
    """MISCONF: the last save to disk failed, because a directory has the file's name."""
    file = Path(await config(redis, "dir")) / await config(redis, "dbfilename")
    file.mkdir()
    await redis.config_set("save", "3600 1000000")
    with suppress(RedisError):
        await redis.save()
    with suppress(RedisError):
        await redis.bgsave()
    while (await redis.info("persistence"))["rdb_last_bgsave_status"] != "err":  # noqa: ASYNC110  # another process changes it
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        await redis.config_set("save", "")
        file.rmdir()


@asynccontextmanager
async def no_permission(redis: Redis) -> AsyncIterator[None]:
    """NOPERM: no HSET and no XADD."""
    await redis.execute_command("ACL", "SETUSER", "default", "-hset", "-xadd")  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        await redis.execute_command("ACL", "SETUSER", "default", "+@all")  # type: ignore[no-untyped-call]


@asynccontextmanager
async def busy_script(redis: Redis) -> AsyncIterator[None]:
    """BUSY: another client runs an endless script."""
    await redis.config_set("busy-reply-threshold", 20)
    async with Redis.from_url(_url(redis), socket_timeout=None) as other:
        running = asyncio.ensure_future(other.execute_command("EVAL", "while true do end", 0))  # type: ignore[no-untyped-call]
        while not await _is_busy(redis):  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            await redis.execute_command("SCRIPT", "KILL")  # type: ignore[no-untyped-call]
            await asyncio.gather(running, return_exceptions=True)


FAULTS = [
    pytest.param(fault, id=fault.__name__)
    for fault in (out_of_memory, read_only_replica, too_few_replicas, failed_save, no_permission, busy_script)
]


@asynccontextmanager
async def refusing_server(error: str) -> AsyncIterator[str]:
    """Yields the URL of a server that answers every command with `error`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while parser.gets() is not False:
                writer.write(f"-{error}\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()


async def config(redis: Redis, name: str) -> Any:
    return (await redis.config_get(name))[name]


async def _is_busy(redis: Redis) -> bool:
    try:
        await redis.get("any")
    except RedisError as error:
        return "BUSY" in str(error)
    return False


def _url(redis: Redis) -> str:
    options = redis.connection_pool.connection_kwargs
    return f"redis://:{options['password']}@{options['host']}:{options['port']}/{options.get('db', 0)}"
