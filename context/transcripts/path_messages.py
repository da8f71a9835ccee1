"""Reads the messages of a path, newest first, and aligns a transcript with these messages."""

from collections.abc import AsyncIterator, Sequence

from msgspec import Struct

from context.branch_paths import opening_of
from context.path_backwards import path_backwards
from context.transcripts.chat_messages import answer_message, items_of
from context.transcripts.parsed import ParsedTranscript
from context.transcripts.prefix_hashes import is_hashed, is_of_answer, message_hash, text_of_message
from context.transcripts.rewritten import is_rewritten_answer, is_rewritten_question
from domain.events import ItemAppended
from domain.items import Item, from_stored, type_of
from domain.paths import PathSegment, up_to_item
from infrastructure.event_log.incarnation import LogMoved
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.event_log.recorded import Recorded

MAX_MESSAGES = 2_000

MAX_SKIPPED = 20
"""A message is looked for among this many messages of the path, because the transcript may leave some out."""

MAX_UNKNOWN = 100
"""The comparison ends after this many unknown messages in a row."""

Aligned = tuple[tuple[str, Item], ...]


class PathMessage(Struct, frozen=True):
    items: Aligned
    hash: bytes
    text: str
    depth: int

    @property
    def bodies(self) -> list[Item]:
        return [item for _, item in self.items]

    @property
    def is_answer(self) -> bool:
        return is_of_answer(self.items[-1][1])


class PathMessages:
    """The path's messages, read when they are needed. All items of one answer are one message, as clients get them."""

    def __init__(self, reader: PrincipalReader, end: PathSegment, first_page: Sequence[Recorded] = ()) -> None:
        self.end = end
        self._messages = _messages(_appended(reader, end, first_page))
        self._read: list[PathMessage] = []

    @classmethod
    async def up_to(
        cls, reader: PrincipalReader, conversation_id: str, version: int, first_events: int = 5
    ) -> "PathMessages":
        """The messages up to the item that was appended at this version.

        By default, `first_events` is small, because an answer, its question and the request are usually enough. Raises LogMoved
        if the log has lost the item.
        """
        page = await reader.conversation_backwards(conversation_id, until=version, limit=first_events)
        if not page or page[0].version != version or not isinstance(event := page[0].event, ItemAppended):
            raise LogMoved(f"the log no longer has the item at version {version} of {conversation_id}")
        branches = up_to_item(event, version, await opening_of(reader, conversation_id, event))
        return cls(reader, PathSegment(conversation_id, version, branches), page)

    async def get(self, index: int) -> PathMessage | None:
        """The newest message has index 0."""
        while len(self._read) <= index < MAX_MESSAGES:
            message = await anext(self._messages, None)
            if message is None:
                return None
            self._read.append(message)
        return self._read[index] if index < len(self._read) else None

    async def find(self, hashed: bytes, start: int) -> int | None:
        for index in range(start, start + MAX_SKIPPED):
            message = await self.get(index)
            if message is None or message.hash == hashed:
                return index if message else None
        return None


class Alignment(Struct, frozen=True):
    """Which items of a path the messages of a transcript stand for.

    `equal`: how many messages are equal on both sides. `length`: how many messages of the path the alignment spans.
    """

    items: list[Aligned]
    equal: int
    length: int


async def align(path: PathMessages, transcript: ParsedTranscript, count: int, since: int) -> Alignment:
    """Aligns the first `count` messages of the transcript with the path.

    If the last of these messages is not found, it stands for the newest message of the path. Messages before `since`
    are not compared.
    """
    aligned: list[Aligned] = [()] * count
    equal = position = unknown = 0
    for index in range(count - 1, since - 1, -1):
        here = await path.get(position)
        if here is None or unknown == MAX_UNKNOWN:
            break
        unknown += 1
        found = await path.find(transcript.hash_of(index), position)
        if found is not None and (other := await path.get(found)) is not None:
            equal += 1
            aligned[index], position, unknown = other.items, found + 1, 0
        elif index == count - 1 or _is_rewritten(here, transcript.message_items(index)):
            aligned[index], position, unknown = here.items, position + 1, 0
    return Alignment(aligned, equal, position)


async def align_gaps(path: PathMessages, transcript: ParsedTranscript, aligned: list[Aligned], since: int) -> None:
    """Aligns the messages that are not aligned yet with equal messages among the newest MAX_MESSAGES of the path.

    Otherwise the record of the request would hold the text of these messages, also after the items are deleted.
    """
    missing = [index for index in range(since, len(aligned)) if not aligned[index] and transcript.is_hashed(index)]
    if not missing:
        return
    items: dict[bytes, Aligned] = {}
    position = 0
    while (message := await path.get(position)) is not None:
        items.setdefault(message.hash, message.items)
        position += 1
    for index in missing:
        aligned[index] = items.get(transcript.hash_of(index), ())


async def count_of_items(reader: PrincipalReader, end: PathSegment, most: int) -> int:
    """How many items of the path are hashed, counted up to `most`."""
    count = 0
    async for event in _appended(reader, end):
        count += is_hashed(from_stored(event.item))
        if count == most:
            break
    return count


def _is_rewritten(stored: PathMessage, sent: Sequence[Item]) -> bool:
    if stored.is_answer != is_of_answer(sent[-1]):
        return False
    if stored.is_answer:
        return is_rewritten_answer(stored.text, stored.bodies, sent)
    return is_rewritten_question(stored.text, sent)


async def _appended(
    reader: PrincipalReader, end: PathSegment, first_page: Sequence[Recorded] = ()
) -> AsyncIterator[ItemAppended]:
    async for older in path_backwards(reader, end, first_page=first_page):
        for event in older.items:
            yield event


async def _messages(newest_first: AsyncIterator[ItemAppended]) -> AsyncIterator[PathMessage]:
    answer: list[tuple[ItemAppended, Item]] = []
    async for event in newest_first:
        item = from_stored(event.item)
        if not is_hashed(item):
            continue
        if answer and not (is_of_answer(item) and _belong_together((event, item), answer[-1])):
            yield _path_message(answer)
            answer = []
        if is_of_answer(item):
            answer.append((event, item))
        else:
            yield _path_message([(event, item)])
    if answer:
        yield _path_message(answer)


def _belong_together(older: tuple[ItemAppended, Item], newer: tuple[ItemAppended, Item]) -> bool:
    """Two consecutive items of the assistant are in one message if the newer item is no `message`, or if both are from one reply."""
    response_id = newer[0].response_id
    return type_of(newer[1]) != "message" or (response_id is not None and response_id == older[0].response_id)


def _path_message(newest_first: Sequence[tuple[ItemAppended, Item]]) -> PathMessage:
    items = tuple((event.item_id, item) for event, item in reversed(newest_first))
    bodies = [item for _, item in items]
    as_sent = items_of(answer_message(bodies)) if len(bodies) > 1 else bodies
    return PathMessage(items, message_hash(as_sent), text_of_message(bodies), newest_first[0][0].depth)
