"""Redis (or Valkey): one client a process, which gives up soon when it is away. Nothing kept there is the only copy."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from infrastructure.settings import Settings

MAX_CONNECTIONS = 4096
"""Who follows a reply holds one while nothing comes: as many as that can follow at once, and the rest look at its record."""


def connect(settings: Settings, *, answer_seconds: float | None = 2.0) -> Redis:
    """A client that connects at its first use and gives back bytes; `await client.aclose()` ends it.

    A command that finds no server fails within about 2 s with redis.exceptions.ConnectionError, one that is not answered
    after `answer_seconds` with TimeoutError (None: whoever asks looks at the clock). It is tried twice, so send what may arrive twice.
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
