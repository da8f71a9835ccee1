"""The messages of a Chat Completions request as items, with the hash of each prefix.

`parsed` takes some milliseconds for a thousand messages. Run it in a thread for large bodies.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

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
    """A request's messages, and the hashes of its prefixes.

    The chains depend on the tenant, the subject and the user. `instructions`: the leading system and developer
    messages, as JSON. `messages`: the other messages. `ends`: for each message, how many items there are up to its end.
    `first`: the chain before the first item. `chains`: the chain after each item. `exact`: for each message, the hash
    of all messages up to its end.
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
        return items_of(self.messages[message], self.custom_calls)

    def chain_before(self, message: int) -> Chain:
        return self.chains[self.ends[message - 1] - 1] if message else self.first

    def chain_after(self, message: int) -> Chain:
        return self.chains[self.ends[message] - 1]

    def chains_from(self, message: int, start: Chain) -> list[Chain]:
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
        return any(item is not None for item in self.facts[message].items)

    def is_answer(self, message: int) -> bool:
        return self.facts[message].is_answer


def parsed(
    sent: SentMessages, *, tenant: str, subject: str, user: str | None, known_messages: KnownMessages | None = None
) -> ParsedTranscript:
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
    """The transcript of a Responses request, with items in place of messages."""
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


def transcript_end(transcript: ParsedTranscript, response_id: str, *, read_version: int | None = None) -> TranscriptEnd:
    return TranscriptEnd(
        transcript.chains[-1] if transcript.chains else transcript.first,
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
    """The prefix of each message whose last item is new.

    `matched`: how many items come before the new ones. `response_id`: None if the items are appended before the request.
    `answered`: whether an earlier item is an answer of this store.
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
