"""Keeps what was computed for recent messages and transcripts.

A transcript repeats the messages of the request before it. A thousand known messages take about 1 ms instead of 9.
"""

import hashlib
import threading
from collections.abc import Sequence
from itertools import islice, repeat
from typing import Any

import msgspec
from msgspec import Struct

from context.transcripts.chat_messages import Json
from context.transcripts.prefix_hashes import Chain, HashedItem, exact_hashes

INSTRUCTIONS = ("system", "developer")

MAX_MESSAGES = 50_000
"""The limit for single messages, for messages in transcripts, and for messages in prefixes.

All three together take about 50 MB.
"""

NEWEST_MESSAGES = 16
"""At most this many messages of a transcript are expected to be new."""

_encode_as_sent = msgspec.json.Encoder()
_encode = msgspec.json.Encoder(order="sorted").encode


class MessageFacts(Struct, frozen=True, gc=False):
    items: tuple[HashedItem | None, ...]
    is_answer: bool


class TranscriptFacts(Struct, frozen=True, gc=False):
    """What was computed for a transcript. The fields are as in ParsedTranscript."""

    facts: Sequence[MessageFacts] = ()
    ends: Sequence[int] = ()
    chains: Sequence[Chain] = ()


class KnownPrefix(Struct, frozen=True, gc=False):
    """Hashes of the first messages of an earlier request."""

    digests: Sequence[bytes] = ()
    exact: Sequence[bytes] = ()


def digest_of(message: object) -> bytes:
    """The hash of one message. The order of keys does not matter."""
    return hashlib.sha256(_encode(message)).digest()


class KnownMessages:
    """What was computed for recent messages."""

    def __init__(self, max_messages: int = MAX_MESSAGES) -> None:
        self._max_messages = max_messages
        self._facts: dict[bytes, MessageFacts] = {}
        self._transcripts: dict[tuple[bytes, bytes], TranscriptFacts] = {}
        self._in_transcripts = 0
        self._prefixes: dict[bytes, KnownPrefix] = {}
        self._in_prefixes = 0
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> MessageFacts | None:
        return self._facts.get(digest)

    def add(self, digest: bytes, facts: MessageFacts) -> None:
        with self._lock:
            self._facts[digest] = facts
            if len(self._facts) > self._max_messages:
                for oldest in list(islice(self._facts, self._max_messages // 10)):
                    del self._facts[oldest]

    def take_transcript(self, seed: bytes, exact: Sequence[bytes]) -> TranscriptFacts:
        """The longest known transcript that these hashes begin with.

        The transcript is removed here, because the caller adds the new one.
        """
        with self._lock:
            keys = ((seed, hashed) for hashed in reversed(exact))
            found = next((self._transcripts.pop(key) for key in keys if key in self._transcripts), TranscriptFacts())
            self._in_transcripts -= len(found.ends)
            return found

    def add_transcript(self, seed: bytes, exact: Sequence[bytes], facts: TranscriptFacts) -> None:
        with self._lock:
            replaced = self._transcripts.pop((seed, exact[-1]), TranscriptFacts())
            self._transcripts[seed, exact[-1]] = facts
            self._in_transcripts += len(facts.ends) - len(replaced.ends)
            while self._in_transcripts > self._max_messages:
                self._in_transcripts -= len(self._transcripts.pop(next(iter(self._transcripts))).ends)

    def longest_prefix(self, keys: Sequence[bytes]) -> KnownPrefix:
        # One look-up for each key, because another thread may drop the key.
        found = (self._prefixes.get(key) for key in reversed(keys))
        return next((prefix for prefix in found if prefix is not None), KnownPrefix())

    def add_prefix(self, sent: "SentMessages") -> None:
        """Replaces the known prefixes that this request begins with."""
        if not sent.keys:
            return
        with self._lock:
            for key in sent.keys:
                self._in_prefixes -= len(self._prefixes.pop(key, KnownPrefix()).exact)
            self._prefixes[sent.keys[-1]] = KnownPrefix(sent.digests[sent.instructions :], sent.exact)
            self._in_prefixes += len(sent.exact)
            while self._in_prefixes > self._max_messages:
                self._in_prefixes -= len(self._prefixes.pop(next(iter(self._prefixes))).exact)


class SentMessages(Struct, frozen=True):
    """A request's messages, and their hashes.

    `instructions`: how many system and developer messages come first. `exact` and `keys` leave these out. `exact`: for
    each message, the hash of all messages up to it. `are_known`: for each message, whether it was checked in an earlier
    request. `keys`: for each of the NEWEST_MESSAGES last messages, the hash of all messages up to it, as they were
    sent. `keys` is empty for a short transcript.
    """

    messages: Sequence[Json]
    digests: Sequence[bytes]
    instructions: int
    exact: Sequence[bytes]
    are_known: Sequence[bool] = ()
    keys: Sequence[bytes] = ()


def sent_messages(messages: Sequence[Any], known_messages: KnownMessages | None = None) -> SentMessages:
    """Computes the hashes. The messages need not have been checked."""
    known_messages = known_messages or KnownMessages()
    start = next((at for at, message in enumerate(messages) if not _is_instructions(message)), len(messages))
    keys = _keys(messages[start:])
    known_prefix = known_messages.longest_prefix(keys)
    first_new = start + len(known_prefix.exact)
    instructions, new = ([*map(digest_of, part)] for part in (messages[:start], messages[first_new:]))
    return SentMessages(
        messages,
        [*instructions, *known_prefix.digests, *new],
        start,
        [*known_prefix.exact, *exact_hashes(new, known_prefix.exact[-1] if known_prefix.exact else b"")],
        [
            *(known_messages.get(digest) is not None for digest in instructions),
            *repeat(True, len(known_prefix.exact)),
            *(known_messages.get(digest) is not None for digest in new),
        ],
        keys,
    )


def _keys(messages: Sequence[Any]) -> list[bytes]:
    if len(messages) <= NEWEST_MESSAGES:
        return []
    hashed = hashlib.sha256(_encode_as_sent.encode_lines(messages[:-NEWEST_MESSAGES]))
    keys: list[bytes] = []
    for message in messages[-NEWEST_MESSAGES:]:
        hashed.update(_encode_as_sent.encode_lines([message]))
        keys.append(hashed.digest())
    return keys


def _is_instructions(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in INSTRUCTIONS
