"""The Redis (or Valkey) client: one per process, with short timeouts. Redis never has the only copy of anything."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from infrastructure.settings import Settings

MAX_CONNECTIONS = 4096
"""A request that follows a reply holds a connection while it waits. So this many can follow at once; others read the reply's record."""


def connect(settings: Settings, *, answer_seconds: float | None = 2.0) -> Redis:
    """A client that connects at its first use, and returns bytes. Close it with `await client.aclose()`.

    A command fails with redis.exceptions.ConnectionError within about 2 s if no server can be reached, and with TimeoutError after
    `answer_seconds` if the server does not answer (None: the caller sets the timeout). It is sent twice at most, so it must be
    idempotent.
    """
    return Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=1.0,
        socket_timeout=answer_seconds,
        socket_keepalive=True,
        health_check_interval=15,
        max_connections=MAX_CONNECTIONS,
        retry=Retry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), retries=1),
    )
