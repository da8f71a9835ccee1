"""The keys that the user service publishes for its tokens (a JWK Set, RFC 7517). They are read from AUTH_JWKS_URL and kept in memory.

They are read again in two cases:

- A token comes, and the keys are older than `JwksTimes.refresh`. The request does not wait. In this way, a key that was withdrawn is forgotten.
- A token names an unknown key, and the last read ended at least `JwksTimes.retry` ago. The request waits. In this way, a new key is found.

Only one read runs at a time. While the user service does not answer, or its answer cannot be used, the known keys still work.
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
"""Each key by its id (or None) and its algorithm."""


class JwksTimes(Struct, frozen=True, kw_only=True):
    """Times in seconds. `refresh`: how old the keys may become before they are read again. `retry`: the pause between attempts to read them."""

    answer: float = 3.0
    """How long the user service may take to send its keys."""
    refresh: float = 300.0
    retry: float = 10.0
    first_retry: float = 1.0
    """Used in place of `retry` until keys were read for the first time."""


class JwksKeys:
    """The keys at this URL. They are first read when the first token comes."""

    def __init__(self, url: str, times: JwksTimes | None = None) -> None:
        self._url = url
        self._times = times or JwksTimes()
        self._published: Keys = MappingProxyType({})
        self._text = b""
        self._read_at = self._ended_at = -math.inf
        """When keys were read last, and when the last attempt to read them ended."""

        self._reading: asyncio.Task[None] | None = None
        # Redirects are not followed: another address must not decide which tokens are valid.
        # No connection is kept open, so the client need not be closed.
        self._client = httpx2.AsyncClient(
            follow_redirects=False, timeout=self._times.answer, limits=httpx2.Limits(max_keepalive_connections=0)
        )

    @property
    def current(self) -> Keys:
        """The keys that were read last. The same object is returned until they change. If they are too old, starts to read them again."""
        if self._published and time.monotonic() - self._read_at >= self._times.refresh:
            self._start_reading()
        return self._published

    async def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """The key with this id; without an id, the only key of this algorithm. None if there is none, or if there are several without an id.

        Raises CannotCheckCredential if keys were never read.
        """
        key = _find(self.current, key_id, algorithm)
        if key is None and self._reading is not None:
            await asyncio.shield(self._reading)  # if this request is cancelled, others may still wait for the read
            key = _find(self._published, key_id, algorithm)
        if (
            key is None and (reading := self._start_reading()) is not None
        ):  # the read that ran may have begun before the key was published
            await asyncio.shield(reading)
            key = _find(self._published, key_id, algorithm)
        if key is None and not self._published:
            raise CannotCheckCredential("The keys of the user service could not be read yet.")
        return key

    def _start_reading(self) -> asyncio.Task[None] | None:
        """The read that runs, or a new one. None if the last one ended less than `retry` seconds ago."""
        pause = self._times.retry if self._published else self._times.first_retry
        if self._reading is None and time.monotonic() - self._ended_at >= pause:
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        """Reads the published keys. If that fails, the known keys stay in use. Never raises."""
        try:
            async with asyncio.timeout(self._times.answer):
                text = await self._fetch()
            if text != self._text:
                self._published, self._text = await asyncio.to_thread(_parse, text), text
                log.info("jwks_read", keys=len(self._published))
            self._read_at = time.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever the error is, the keys were not read
            # The error's text is not logged: it may contain the URL, and the URL may contain a password.
            log.warning("jwks_not_read", error_type=type(error).__name__, keys=len(self._published))
        finally:
            self._ended_at = time.monotonic()
            self._reading = None

    async def _fetch(self) -> bytes:
        text = bytearray()
        # No compression: a small compressed answer could become a very large one.
        async with self._client.stream("GET", self._url, headers={"accept-encoding": "identity"}) as answer:
            if answer.status_code != 200:
                raise _Unusable
            async for chunk in answer.aiter_raw():
                text += chunk
                if len(text) > MAX_BYTES:
                    raise _Unusable
        return bytes(text)


class _Unusable(Exception):
    """The answer has another status than 200, is too large, or is not a JWK Set with a key that can be used."""


def _find(keys: Keys, key_id: str | None, algorithm: str) -> PyJWK | None:
    if key_id is not None:
        return keys.get((key_id, algorithm))
    of_algorithm = [key for (_, name), key in keys.items() if name == algorithm]
    return of_algorithm[0] if len(of_algorithm) == 1 else None


def _parse(text: bytes) -> Keys:
    """The keys that can check a signature. Other keys, such as those for encryption, are skipped. Raises _Unusable if none is left."""
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
