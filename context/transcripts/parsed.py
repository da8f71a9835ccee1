"""The messages of a Chat Completions request as a transcript: its items, and the hash of each prefix. Pure.

`parsed` takes some milliseconds for a thousand messages. Run it in a thread for large bodies.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from context.transcripts.chat_messages import custom_calls, items_of
from context.transcripts.prefix_hashes import Chain, TranscriptEnd, chains_of, first_chain, next_exact
from domain.commands import Prefix
from domain.items import Item

Json = dict[str, Any]

_INSTRUCTIONS = ("system", "developer")


class ParsedTranscript(Struct, frozen=True, kw_only=True):
    """A transcript, and whose it is.

    instructions  the leading system and developer messages, as JSON texts
    messages      the messages after them
    items         the items of all messages, in order
    ends          for each message, how many items it and the messages before it have
    first         the chain before the first item
    chains        for each item, the chain after it
    exact         for each message, the exact hash of it and the messages before it
    """

    instructions: tuple[bytes, ...]
    messages: Sequence[Json]
    items: Sequence[Item]
    ends: Sequence[int]
    first: Chain
    chains: Sequence[Chain]
    exact: Sequence[bytes]


def parsed(messages: Sequence[Json], *, tenant: str, subject: str, user: str | None) -> ParsedTranscript:
    """The transcript of a request with these messages. `user`: its `safety_identifier` or `user`."""
    start = next((at for at, message in enumerate(messages) if message["role"] not in _INSTRUCTIONS), len(messages))
    rest = messages[start:]
    calls = custom_calls(rest)
    items: list[Item] = []
    ends: list[int] = []
    exact: list[bytes] = []
    last_exact = b""
    for message in rest:
        items += items_of(message, calls)
        ends.append(len(items))
        last_exact = next_exact(last_exact, message)
        exact.append(last_exact)
    first = first_chain(tenant, subject, user)
    return ParsedTranscript(
        instructions=tuple(map(msgspec.json.encode, messages[:start])),
        messages=rest,
        items=items,
        ends=ends,
        first=first,
        chains=chains_of(first, items),
        exact=exact,
    )


def transcript_end(transcript: ParsedTranscript, response_id: str, *, answered: bool) -> TranscriptEnd:
    """The end of the whole transcript. `answered`: it has an answer of this store."""
    chain = transcript.chains[-1] if transcript.chains else transcript.first
    return TranscriptEnd(
        msgspec.structs.replace(chain, answered=answered),
        len(transcript.messages),
        transcript.exact[-1] if transcript.exact else b"",
        response_id,
    )


def input_prefixes(
    transcript: ParsedTranscript, matched: int, new_ids: Sequence[str], response_id: str | None, *, answered: bool
) -> tuple[Prefix, ...]:
    """The prefixes that end with new items: those after the first `matched` items of the transcript, as many as there are `new_ids`.

    `response_id` None: the items are appended before the request. `answered`: the first `matched` items have an answer of this store.
    """
    message_ends = {} if response_id is None else {end: count for count, end in enumerate(transcript.ends, 1)}
    prefixes: list[Prefix] = []
    before = transcript.chains[matched - 1] if matched else transcript.first
    for item_id, (index, chain) in zip(new_ids, enumerate(transcript.chains[matched:], matched), strict=False):
        if chain is not before:
            count = message_ends.get(index + 1, 0)
            prefixes.append(
                Prefix(
                    item_id=item_id,
                    hash=chain.hash,
                    answered=answered,
                    response_id=response_id,
                    messages=count,
                    exact=transcript.exact[count - 1] if count else b"",
                )
            )
        before = chain
    return tuple(prefixes)
