"""Finds where a transcript goes on: the conversation, and the last item that it has in common with the transcript."""

from collections.abc import Sequence

from msgspec import Struct

from context.path_backwards import path_backwards
from context.transcripts.chat_messages import is_in_transcripts, items_of, messages_of
from context.transcripts.parsed import ParsedTranscript
from context.transcripts.prefix_hashes import message_hash
from domain.events import TranscriptBase
from domain.items import Item, from_stored
from domain.paths import PathSegment
from infrastructure.event_log.reader import FoundPrefix, PrincipalReader

NEWEST_MESSAGES = 16
"""How many of the newest messages are looked up first. Most transcripts continue near their end."""

StoredItems = tuple[tuple[str, Item], ...]
"""The (id, item) of each item of one message."""


class Match(Struct, frozen=True, kw_only=True):
    """Where a transcript leaves the conversations that exist.

    item_id   the last common item, in `conversation_id`, at `depth`
    items     how many items of the transcript lie up to it, and how many messages: all of these are stored
    answered  whether one of them is an answer of this store
    read_version  the version of the conversation when it was compared
    base      an earlier request whose messages the transcript begins with, exactly
    aligned   for each of these messages the stored items that it stands for; empty inside `base`, and if it is like none of them
    """

    conversation_id: str
    item_id: str
    depth: int
    items: int
    messages: int
    answered: bool
    read_version: int
    base: TranscriptBase | None
    aligned: Sequence[StoredItems]


async def find_match(
    reader: PrincipalReader, transcript: ParsedTranscript, *, only_in: str | None = None
) -> Match | None:
    """The longest prefix of the transcript that is stored. None: none is, or none that has an answer of this store.

    `only_in`: the only conversation that counts. Then an answer is not needed.
    """
    numbers = list(range(len(transcript.messages) - 1, -1, -1))
    for some in (numbers[:NEWEST_MESSAGES], numbers[NEWEST_MESSAGES:]):
        hashes = [transcript.chains[transcript.ends[number] - 1].hash for number in some]
        found = [
            prefix
            for prefix in (await reader.prefixes_with(hashes) if hashes else ())
            if (prefix.answered if only_in is None else prefix.conversation_id == only_in)
        ]
        if found:
            nearest = min(prefix.number for prefix in found)
            best = await _best(reader, [prefix for prefix in found if prefix.number == nearest])
            return await _match(reader, transcript, some[nearest], best)
    return None


async def _best(reader: PrincipalReader, found: Sequence[FoundPrefix]) -> FoundPrefix:
    """The newest prefix that no item follows; else the newest."""
    if len(found) == 1:
        return found[0]
    followed = await reader.are_followed(found)
    return next((prefix for prefix, is_followed in zip(found, followed, strict=True) if not is_followed), found[0])


async def _match(reader: PrincipalReader, transcript: ParsedTranscript, number: int, prefix: FoundPrefix) -> Match:
    count = prefix.messages
    is_exact = prefix.response_id is not None and 0 < count <= number + 1
    base = None
    if is_exact and prefix.response_id is not None and transcript.exact[count - 1] == prefix.exact:
        base = TranscriptBase(conversation_id=prefix.conversation_id, response_id=prefix.response_id, count=count)
    first = base.count if base else 0
    aligned = await _aligned(reader, transcript, range(first, number + 1), prefix) if first <= number else []
    return Match(
        conversation_id=prefix.conversation_id,
        item_id=prefix.item_id,
        depth=prefix.depth,
        items=transcript.ends[number],
        messages=number + 1,
        answered=prefix.answered,
        read_version=prefix.read_version,
        base=base,
        aligned=(*((),) * first, *aligned),
    )


async def _aligned(
    reader: PrincipalReader, transcript: ParsedTranscript, numbers: range, prefix: FoundPrefix
) -> list[StoredItems]:
    """The stored items of these messages, the last of which ends with the item of `prefix`."""
    wanted = transcript.ends[numbers[-1]] - (transcript.ends[numbers[0] - 1] if numbers[0] else 0)
    path: list[tuple[str, Item]] = []
    end = PathSegment(prefix.conversation_id, prefix.read_version).up_to(prefix.depth)
    async for page in path_backwards(reader, end, is_past=True):
        path += [(event.item_id, from_stored(event.item)) for event in page.items]
        if sum(is_in_transcripts(item) for _, item in path) > wanted:
            break
    path.reverse()
    made = messages_of([item for _, item in path])
    starts = [0]
    for message in made:
        starts.append(starts[-1] + message.count)
    aligned: list[StoredItems] = []
    place = len(made) - 1
    for number in reversed(numbers):
        sent = message_hash(transcript.items[transcript.ends[number - 1] if number else 0 : transcript.ends[number]])
        at = next((at for at in range(place, -1, -1) if message_hash(items_of(made[at].message)) == sent), None)
        if at is None:
            aligned.append(())
            continue
        aligned.append(tuple(entry for entry in path[starts[at] : starts[at + 1]] if is_in_transcripts(entry[1])))
        place = at - 1
    aligned.reverse()
    return aligned
