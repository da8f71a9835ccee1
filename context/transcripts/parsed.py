"""The messages of a Chat Completions request as a transcript: its items, and the hash of each prefix. Does no I/O.

`parsed` takes some milliseconds for a thousand messages. Run it in a thread for large bodies.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from context.transcripts.chat_messages import custom_calls, items_of
from context.transcripts.known_messages import KnownMessages, MessageFacts, SentMessages, TranscriptFacts
from context.transcripts.prefix_hashes import (
    Chain,
    TranscriptEnd,
    chain_after,
    first_chain,
    hash_of_all,
    hashed_item,
    is_of_answer,
)
from domain.commands import Prefix
from domain.items import Item

Json = dict[str, Any]


class ParsedTranscript(Struct, frozen=True, kw_only=True):
    """A transcript and its hashes. The hashes depend on the tenant, the subject and the user of the request.

    instructions  the leading system and developer messages, as JSON texts
    messages      the messages after them
    custom_calls  the ids of the calls of custom tools in `messages`
    facts         what is known of each message
    ends          for each message, how many items it and the messages before it have
    first         the chain before the first item
    chains        for each item, the chain after it
    exact         for each message, the exact hash of it and the messages before it
    """

    instructions: tuple[bytes, ...]
    messages: Sequence[Json]
    custom_calls: frozenset[str]
    facts: Sequence[MessageFacts]
    ends: Sequence[int]
    first: Chain
    chains: Sequence[Chain]
    exact: Sequence[bytes]

    def message_items(self, message: int) -> Sequence[Item]:
        """The items of one message."""
        return items_of(self.messages[message], self.custom_calls)

    def chain_before(self, message: int) -> Chain:
        """The chain before a message."""
        return self.chains[self.ends[message - 1] - 1] if message else self.first

    def chain_after(self, message: int) -> Chain:
        """The chain after a message."""
        return self.chains[self.ends[message] - 1]

    def chains_from(self, message: int, start: Chain) -> list[Chain]:
        """The chain after each message from this one on. `start`: the chain before this message."""
        chains: list[Chain] = []
        for facts in self.facts[message:]:
            for hashed in facts.items:
                start = chain_after(start, hashed)
            chains.append(start)
        return chains

    def hash_of(self, message: int) -> bytes:
        """The hash of one message alone."""
        return hash_of_all(self.facts[message].items)

    def is_hashed(self, message: int) -> bool:
        """Whether any item of the message is hashed."""
        return any(item is not None for item in self.facts[message].items)

    def is_answer(self, message: int) -> bool:
        """Whether this is an assistant's message."""
        return self.facts[message].is_answer


def parsed(
    sent: SentMessages, *, tenant: str, subject: str, user: str | None, known_messages: KnownMessages | None = None
) -> ParsedTranscript:
    """The transcript of a request with these messages, which were checked. `user`: the request's `safety_identifier` or `user`."""
    messages, start = sent.messages, sent.instructions
    rest = messages[start:]
    calls = custom_calls(rest)
    first = first_chain(tenant, subject, user)
    before = known_messages.take_transcript(first.seed, sent.exact) if known_messages else TranscriptFacts()
    all_facts, ends, chains = list(before.facts), list(before.ends), list(before.chains)
    chain = chains[-1] if chains else first
    for message, digest in list(zip(rest, sent.digests[start:], strict=True))[len(ends) :]:
        facts = known_messages.get(digest) if known_messages else None
        if facts is None:
            facts = _facts_of(message, calls)
            if known_messages:
                known_messages.add(digest, facts)
        for hashed in facts.items:
            chain = chain_after(chain, hashed)
            chains.append(chain)
        all_facts.append(facts)
        ends.append(len(chains))
    if known_messages and rest:
        known_messages.add_transcript(first.seed, sent.exact, TranscriptFacts(all_facts, ends, chains))
        known_messages.add_prefix(sent)
    return ParsedTranscript(
        instructions=tuple(map(msgspec.json.encode, messages[:start])),
        messages=rest,
        custom_calls=calls,
        facts=all_facts,
        ends=ends,
        first=first,
        chains=chains,
        exact=sent.exact,
    )


def _facts_of(message: Json, custom_calls: frozenset[str]) -> MessageFacts:
    items = items_of(message, custom_calls)
    return MessageFacts(tuple(map(hashed_item, items)), is_of_answer(items[-1]))


def parsed_items(items: Sequence[Item], *, tenant: str, subject: str, user: str | None) -> ParsedTranscript:
    """The transcript of a Responses request, which has items in place of messages."""
    first = chain = first_chain(tenant, subject, user)
    facts = [MessageFacts((hashed_item(item),), is_of_answer(item)) for item in items]
    chains = [chain := chain_after(chain, fact.items[0]) for fact in facts]
    return ParsedTranscript(
        instructions=(),
        messages=(),
        custom_calls=frozenset(),
        facts=facts,
        ends=range(1, len(items) + 1),
        first=first,
        chains=chains,
        exact=(),
    )


def transcript_end(
    transcript: ParsedTranscript, response_id: str, *, answered: bool, read_version: int | None = None
) -> TranscriptEnd:
    """The end of the whole transcript. `answered`: whether the transcript has an answer of this store."""
    chain = transcript.chains[-1] if transcript.chains else transcript.first
    return TranscriptEnd(
        replace(chain, answered=answered),
        len(transcript.messages),
        transcript.exact[-1] if transcript.exact else b"",
        response_id,
        read_version,
    )


def input_prefixes(
    transcript: ParsedTranscript,
    matched: int,
    new_ids: Sequence[str],
    response_id: str | None,
    *,
    answered: bool,
    read_version: int | None = None,
) -> tuple[Prefix, ...]:
    """The prefixes that end with a message whose last item is new.

    The first `matched` items of the transcript are not new.

    `new_ids`: the ids of the items that are appended now. They follow the first `matched` items. `response_id`: None if
    the items are appended before the request. `answered`: whether one of the first `matched` items is an answer of this
    store. `read_version`: as in Prefix.
    """
    return tuple(
        Prefix(
            item_id=new_ids[end - matched - 1],
            hash=transcript.chains[end - 1].hash,
            answered=answered,
            response_id=response_id,
            messages=0 if response_id is None else number,
            exact=b"" if response_id is None else transcript.exact[number - 1],
            read_version=read_version,
        )
        for number, end in enumerate(transcript.ends, 1)
        if matched < end <= matched + len(new_ids)
    )
