"""Makes the record of a transcript: the ids of its items, and how each message differs from what its items make.

Most transcripts begin with an earlier request's transcript. Then the record names that request, and has only what
follows.
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
"""Says that the items of the part are one message."""


def recorded_transcript(
    transcript: ParsedTranscript, match: Match | None, input_ids: Sequence[Sequence[str]]
) -> Transcript:
    """`input_ids`: for each message after the match, the ids of its new items."""
    base = None if match is None else match.base
    first, first_new = base.count if base else 0, match.messages if match else 0
    parts = _Parts()
    for index in range(first, len(transcript.messages)):
        if match is not None and index < first_new:
            stored = match.aligned[index]
        else:
            items = transcript.message_items(index)
            stored = tuple(zip(input_ids[index - first_new], items, strict=True))
        parts.add(transcript.messages[index], stored)
    return Transcript(instructions=transcript.instructions, base=base, parts=parts.all())


class _Parts:
    """Consecutive messages become one part if each equals what its items make. Two answers never share a part."""

    def __init__(self) -> None:
        self._parts: list[TranscriptPart] = []
        self._plain_ids: list[str] = []
        self._last_role = ""

    def add(self, message: Json, stored: Sequence[tuple[str, Item]]) -> None:
        """`stored`: (id, item) of each item of the message; empty if unknown."""
        if self._last_role == message["role"] == "assistant":
            self._end_part()  # in one part, the items of two answers could become one message
        self._last_role = message["role"]
        if not stored:
            self._end_part()
            self._parts.append(TranscriptPart(message=msgspec.json.encode(message)))
            return
        ids = tuple(item_id for item_id, _ in stored)
        changes = _changes(message, [item for _, item in stored])
        if changes is None:
            self._plain_ids += ids
        else:
            self._end_part()
            self._parts.append(TranscriptPart(items=ids, changes=changes))

    def all(self) -> tuple[TranscriptPart, ...]:
        self._end_part()
        return tuple(self._parts)

    def _end_part(self) -> None:
        if self._plain_ids:
            self._parts.append(TranscriptPart(items=tuple(self._plain_ids)))
            self._plain_ids.clear()


def _changes(message: Json, items: Sequence[Item]) -> bytes | None:
    plain = messages_of(items)
    if len(plain) == 1:
        return changes_between(plain[0].message, message)
    return changes_between(one_message(items), message) or _NO_CHANGES
