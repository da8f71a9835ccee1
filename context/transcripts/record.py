"""What an event records of a transcript: the ids of the items that its messages are, and how each differs from what is made of these. Pure.

Most of a transcript repeats an earlier request's. Then the record names that request, and has only what follows: an answer, and the new messages.
"""

from collections.abc import Sequence

import msgspec

from context.transcripts.chat_messages import Json, messages_of, one_message
from context.transcripts.matching import Match
from context.transcripts.message_changes import changes_between
from context.transcripts.parsed import ParsedTranscript
from domain.events import Transcript, TranscriptPart
from domain.items import Item

_NO_CHANGES = b'{"fields":[{},[]]}'
"""Changes that change nothing."""


def recorded_transcript(
    transcript: ParsedTranscript, match: Match | None, input_ids: Sequence[Sequence[str]]
) -> Transcript:
    """The record of a transcript. `input_ids`: for each message after the match, the ids of its new items."""
    base = None if match is None else match.base
    first, first_new = base.count if base else 0, match.messages if match else 0
    parts: list[TranscriptPart] = []
    last: Sequence[Item] = ()
    for index in range(first, len(transcript.messages)):
        if match is not None and index < first_new:
            stored = match.aligned[index]
        else:
            items = transcript.message_items(index)
            stored = tuple(zip(input_ids[index - first_new], items, strict=True))
        part = _part(transcript.messages[index], stored)
        items = [item for _, item in stored]
        if parts and _continues(parts[-1], last, part, items):
            part = TranscriptPart(items=parts.pop().items + part.items)
        parts.append(part)
        last = items
    return Transcript(instructions=transcript.instructions, base=base, parts=tuple(parts))


def _part(message: Json, stored: Sequence[tuple[str, Item]]) -> TranscriptPart:
    """The part for one message. `stored`: the (id, item) of each of its items; empty if no items are like it."""
    if not stored:
        return TranscriptPart(message=msgspec.json.encode(message))
    items = [item for _, item in stored]
    changes = changes_between(one_message(items), message)
    if changes is None and len(messages_of(items)) != 1:
        changes = _NO_CHANGES
    return TranscriptPart(items=tuple(item_id for item_id, _ in stored), changes=changes)


def _continues(before: TranscriptPart, last: Sequence[Item], part: TranscriptPart, items: Sequence[Item]) -> bool:
    """Whether both parts can be one. `last`: the items of the last message of `before`. They must not become one message with `items`."""
    are_plain = all(each.message is None and each.changes is None for each in (before, part))
    return are_plain and [message.count for message in messages_of([*last, *items])] == [len(last), len(items)]
