"""The keys that the user service publishes for its tokens (a JWK Set, RFC 7517), read from AUTH_JWKS_URL and kept.

They are read again

- in the background, when a token comes and they are older than `JwksTimes.refresh`: so a key that was withdrawn is forgotten
- before an answer, when a token names a key that is not known, at most every `JwksTimes.retry`: so a new key is found

Only one read runs at a time. While the user service does not answer, or answers nonsense, the known keys go on working.
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
"""By the key's id, which it may lack, and its algorithm."""


class JwksTimes(Struct, frozen=True, kw_only=True):
    """In seconds."""

    answer: float = 3.0
    """How long the user service may take to send its keys."""
    refresh: float = 300.0
    retry: float = 10.0
    first_retry: float = 1.0
    """As `retry`, while no keys were ever read."""


class JwksKeys:
    """The keys at this URL. Nothing is read before the first token comes."""

    def __init__(self, url: str, times: JwksTimes | None = None) -> None:
        self._url = url
        self._times = times or JwksTimes()
        self._published: Keys = MappingProxyType({})
        self._text = b""
        self._read_at = self._ended_at = -math.inf
        """When keys were read last, and when the last attempt to read them ended."""

        self._reading: asyncio.Task[None] | None = None
        # A redirect is not followed: it would let another address say which tokens are valid. No connection is kept, so none must be closed.
        self._client = httpx2.AsyncClient(
            follow_redirects=False, timeout=self._times.answer, limits=httpx2.Limits(max_keepalive_connections=0)
        )

    @property
    def current(self) -> Keys:
        """The keys that were read last. It is the same object until they change."""
        if self._published and time.monotonic() - self._read_at >= self._times.refresh:
            self._start_reading()
        return self._published

    async def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """The key with this id; without an id, the only key of this algorithm. None if there is none.

        Raises CannotCheckCredential if keys were never read.
        """
        key = _find(self.current, key_id, algorithm)
        if key is None and self._reading is not None:
            await asyncio.shield(self._reading)  # it goes on for the others if this request is cancelled
            key = _find(self._published, key_id, algorithm)
        if key is None and (reading := self._start_reading()) is not None:  # the other may have begun too early
            await asyncio.shield(reading)
            key = _find(self._published, key_id, algorithm)
        if key is None and not self._published:
            raise CannotCheckCredential("The keys of the user service could not be read yet.")
        return key

    def _start_reading(self) -> asyncio.Task[None] | None:
        """The read that runs, or a new one. None if the last one ended too short a time ago."""
        pause = self._times.retry if self._published else self._times.first_retry
        if self._reading is None and time.monotonic() - self._ended_at >= pause:
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        """Never raises."""
        try:
            async with asyncio.timeout(self._times.answer):
                text = await self._fetch()
            if text != self._text:
                self._published, self._text = await asyncio.to_thread(_parse, text), text
                log.info("jwks_read", keys=len(self._published))
            self._read_at = time.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever it is, the keys were not read
            # Not the error's text: it may have the URL, which may have a password.
            log.warning("jwks_not_read", error_type=type(error).__name__, keys=len(self._published))
        finally:
            self._ended_at = time.monotonic()
            self._reading = None

    async def _fetch(self) -> bytes:
        text = bytearray()
        # Not compressed: a small answer could otherwise become a very large one.
        async with self._client.stream("GET", self._url, headers={"accept-encoding": "identity"}) as answer:
            if answer.status_code != 200:
                raise _Unusable
            async for chunk in answer.aiter_raw():
                text += chunk
                if len(text) > MAX_BYTES:
                    raise _Unusable
        return bytes(text)


class _Unusable(Exception):
    """The answer is no JWK Set with a key that can be used."""


def _find(keys: Keys, key_id: str | None, algorithm: str) -> PyJWK | None:
    if key_id is not None:
        return keys.get((key_id, algorithm))
    of_algorithm = [key for (_, name), key in keys.items() if name == algorithm]
    return of_algorithm[0] if len(of_algorithm) == 1 else None


def _parse(text: bytes) -> Keys:
    """The keys that can check a signature. Others, such as those for encryption, are skipped. Raises _Unusable if there are none."""
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
