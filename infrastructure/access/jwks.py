"""The user service's public keys for its tokens (a JWK Set, RFC 7517), kept in memory.

The keys are read again when a token names an unknown key. They are also read again when they are old, because a
withdrawn key must be forgotten. If a read fails, the known keys still work.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import httpx2
import msgspec
import structlog
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from msgspec import Struct

from infrastructure.access.refusals import CannotCheckCredential

log = structlog.get_logger(__name__)

ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
MAX_BYTES: Final = 1024 * 1024

Keys = Mapping[tuple[str | None, str], PyJWK]
"""Keys by id (or None) and algorithm."""


class JwksTimes(Struct, frozen=True, kw_only=True):
    """Seconds. `refresh`: the age at which the keys are read again. `retry`: the pause between attempts. `first_retry`: the pause while no attempt has succeeded yet. `answer`: the limit for one attempt."""

    answer: float = 3.0
    refresh: float = 300.0
    retry: float = 10.0
    first_retry: float = 1.0


class JwksKeys:
    def __init__(self, url: str, times: JwksTimes | None = None) -> None:
        self._url = url
        self._times = times or JwksTimes()
        self._published: Keys = MappingProxyType({})
        self._text = b""
        self._read_at = self._ended_at = -math.inf
        self._may_follow = False
        """Whether a read without a pause may follow the last one."""
        self._reading: asyncio.Task[None] | None = None
        # Redirects are not followed, because another address must not decide which tokens are valid. No connection stays
        # open, so the client need not be closed.
        self._client = httpx2.AsyncClient(
            follow_redirects=False, timeout=self._times.answer, limits=httpx2.Limits(max_keepalive_connections=0)
        )

    @property
    def current(self) -> Keys:
        """The same object until the keys change. Starts to read them again if they are too old."""
        if self._published and time.monotonic() - self._read_at >= self._times.refresh:
            self._start_reading()
        return self._published

    async def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """Without an id, finds the key of the algorithm, if there is only one. Raises CannotCheckCredential if keys were never read."""
        running = self._reading
        key = _find(self.current, key_id, algorithm)
        if key is None and running is not None:
            await asyncio.shield(running)  # if this request is cancelled, others may still wait for the read
            key = _find(self._published, key_id, algorithm)
        # The running read may have begun before the key was published.
        if key is None and (reading := self._start_reading(follows=running is not None)) is not None:
            await asyncio.shield(reading)
            key = _find(self._published, key_id, algorithm)
        if key is None and not self._published:
            raise CannotCheckCredential("The keys of the user service could not be read yet.")
        return key

    def _start_reading(self, *, follows: bool = False) -> asyncio.Task[None] | None:
        """None if the last read ended too recently.

        `follows`: needs no pause if the last read succeeded and came after a pause. So unknown key ids cause at most
        two reads without a pause between them.
        """
        pause = self._times.retry if self._published else self._times.first_retry
        is_due = time.monotonic() - self._ended_at >= pause
        if self._reading is None and (is_due or (follows and self._may_follow)):
            self._reading = asyncio.create_task(self._read(may_be_followed=is_due))
        return self._reading

    async def _read(self, *, may_be_followed: bool) -> None:
        """Logs errors. The known keys then stay in use."""
        self._may_follow = False
        try:
            async with asyncio.timeout(self._times.answer):
                text = await self._fetch()
            if text != self._text:
                self._published, self._text = await asyncio.to_thread(_parse, text), text
                log.info("jwks_read", keys=len(self._published))
            self._read_at = time.monotonic()
            self._may_follow = may_be_followed
        except Exception as error:  # noqa: BLE001 - whatever the error is, the keys were not read
            # The error's text is not logged, because it may contain the URL with a password.
            log.warning("jwks_not_read", error_type=type(error).__name__, keys=len(self._published))
        finally:
            self._ended_at = time.monotonic()
            self._reading = None

    async def _fetch(self) -> bytes:
        text = bytearray()
        # No compression, because a small answer could become a very large one.
        async with self._client.stream("GET", self._url, headers={"accept-encoding": "identity"}) as answer:
            if answer.status_code != 200:
                raise _Unusable
            async for chunk in answer.aiter_raw():
                text += chunk
                if len(text) > MAX_BYTES:
                    raise _Unusable
        return bytes(text)


class _Unusable(Exception):
    """The status is not 200, or the answer is too large, is not JSON, or has no usable key."""


def _find(keys: Keys, key_id: str | None, algorithm: str) -> PyJWK | None:
    if key_id is not None:
        return keys.get((key_id, algorithm))
    of_algorithm = [key for (_, name), key in keys.items() if name == algorithm]
    return of_algorithm[0] if len(of_algorithm) == 1 else None


def _parse(text: bytes) -> Keys:
    """Raises _Unusable if no key can check a signature."""
    try:
        jwks = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _Unusable from error
    listed = jwks.get("keys") if isinstance(jwks, dict) else None
    usable = (key for entry in listed if (key := _key(entry)) is not None) if isinstance(listed, list) else ()
    keys = {(key.key_id, key.algorithm_name): key for key in usable}
    if not keys:
        raise _Unusable
    return MappingProxyType(keys)


def _key(entry: Any) -> PyJWK | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or not isinstance(entry.get("kid", ""), str):
        return None
    try:
        key = PyJWK(entry)
    except (PyJWTError, ValueError, TypeError, AttributeError):  # what PyJWK raises for fields of a wrong type
        return None
    is_public = not hasattr(key.key, "private_bytes")
    is_long_enough = key.Algorithm.check_key_length(key.key) is None
    return key if key.algorithm_name in ALGORITHMS and is_public and is_long_enough else None
