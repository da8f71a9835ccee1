"""Makes clients of Redis (or Valkey) with short timeouts. Redis never has the only copy of anything."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from infrastructure.settings import Settings

MAX_CONNECTIONS = 64
"""The maximum number of commands at once; further commands wait for a connection. An API client that reads a stream holds no connection."""

CONNECTION_TIMEOUT_SECONDS = 0.5


def connect(settings: Settings, *, answer_seconds: float | None = 2.0) -> Redis:
    """A client that connects at its first use, and returns bytes. Close it with `await client.aclose()`.

    If no server can be reached, a command fails within about 2 s with ConnectionError or TimeoutError of redis.exceptions. If the server
    does not answer within `answer_seconds`, the command is sent once more, and then fails with TimeoutError. So every command must be
    idempotent. With `answer_seconds` None, commands wait without a limit, so the caller sets a timeout.
    """
    pool = BlockingConnectionPool.from_url(
        settings.redis_url,
        socket_connect_timeout=1.0,
        socket_timeout=answer_seconds,
        socket_keepalive=True,
        health_check_interval=15,
        max_connections=MAX_CONNECTIONS,
        timeout=CONNECTION_TIMEOUT_SECONDS,
        retry=Retry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), retries=1),
    )
    return Redis.from_pool(pool)
