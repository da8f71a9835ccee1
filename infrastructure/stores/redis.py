"""Clients of Redis (or Valkey) with short timeouts. No conversation is lost if Redis loses its data."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from infrastructure.settings import Settings

MAX_CONNECTIONS = 64
"""Further commands wait for a connection. An API client that reads a stream holds no connection."""

CONNECTION_TIMEOUT_SECONDS = 0.5


def connect(settings: Settings, *, answer_seconds: float | None = 2.0) -> Redis:
    """Connects at the first use. Without a server, commands fail within about 2 s with ConnectionError or TimeoutError.

    A command without an answer is sent once more, so every command must be idempotent. `answer_seconds` None: no limit.
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
