"""Reads a path's items, newest first: from the snapshot, then from the log, as far back as needed."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence

from context.conversation_settings import Reader
from context.deleted_content import deleted_items
from context.forks import read_path
from context.history_backwards import RecentItems
from context.path_backwards import PathPage, path_backwards
from domain.events import ItemAppended
from domain.items import Item, from_stored, given_id
from domain.paths import Path, PathSegment
from infrastructure.event_log.recorded import Recorded

MAX_READ_ITEMS = 2_000
MAX_READ_BYTES = 16 * 1024 * 1024
"""Items further back are not read, and count as missing."""


class PathHistory:
    """The items of a path that were read so far.

    `is_past`: the conversation may have later events than `end`. `newer`: items that will be appended after the path.
    These are searched too.
    """

    def __init__(
        self,
        reader: Reader,
        end: PathSegment | None,
        recent: RecentItems | None = None,
        newer: Sequence[tuple[str, Item]] = (),
        *,
        is_past: bool = False,
    ) -> None:
        self._reader = reader
        self._end = end
        self._is_past = is_past
        self._reaches_start = end is None
        self._known_from = None if recent is None or not recent.items else recent.items[0].depth
        self._pages: AsyncIterator[PathPage] | None = None
        self._read_items = self._read_bytes = 0
        self._path: Path | None = None
        self._by_given_id: dict[str, tuple[str, Item]] = {}
        self._indexed = 0
        """How many items of `newest_first` were searched for given ids."""
        self.newer = newer
        self.newest_first: list[tuple[str, Item]] = list(reversed(newer))
        if recent is not None:
            self.newest_first += [(item.item_id, item.item) for item in reversed(recent.items)]

    async def read_older(self) -> bool:
        """Adds a page to `newest_first`. Returns False at the path's start, or if MAX_READ_ITEMS or MAX_READ_BYTES are
        reached.
        """
        is_enough = self._read_items >= MAX_READ_ITEMS or self._read_bytes >= MAX_READ_BYTES
        if self._end is None or self._reaches_start or is_enough:
            return False
        if self._pages is None:
            self._pages = path_backwards(self._reader, self._end, is_past=self._is_past)
        page = await anext(self._pages, None)
        if page is None:
            self._reaches_start = True
            return False
        self._read_items += len(page.items)
        self._read_bytes += sum(len(event.item) for event in page.items)
        self.newest_first += [
            (event.item_id, from_stored(event.item))
            for event in page.items
            if self._known_from is None or event.depth < self._known_from
        ]
        return True

    async def find(self, matches: Callable[[str, Item], bool]) -> tuple[str, Item] | None:
        """The newest (id, item) that matches, as far back as `read_older` reads."""
        index = 0
        while True:
            while index < len(self.newest_first):
                if matches(*self.newest_first[index]):
                    return self.newest_first[index]
                index += 1
            if not await self.read_older():
                return None

    async def find_given(self, item_id: str) -> tuple[str, Item] | None:
        """The newest (id, item) to which a client gave this id, or which is a copy of the item with this id."""
        while True:
            for entry in self.newest_first[self._indexed :]:
                if (name := given_id(entry[1])) is not None:
                    self._by_given_id.setdefault(name, entry)
            self._indexed = len(self.newest_first)
            if item_id in self._by_given_id:
                return self._by_given_id[item_id]
            if not await self.read_older():
                return None

    async def has(self, appended: Recorded) -> bool:
        """Whether the item is on the path. Deleted items count too."""
        event, conversation_id = appended.event, appended.conversation_id
        assert isinstance(event, ItemAppended)
        path = await self._path_through(conversation_id)
        return path is not None and path.contains(conversation_id, event.branch, event.depth, appended.version)

    async def retracted_by_forks(self, item_ids: Collection[str]) -> frozenset[str]:
        """Which of these items a fork of the path has retracted for itself.

        Each item must be on the path (`has`), and not deleted in its own conversation.
        """
        if self._path is None:  # no item is inherited
            return frozenset()
        conversations = [segment.conversation_id for segment in self._path.segments]
        return await deleted_items(self._reader, dict.fromkeys(item_ids), conversations)

    async def _path_through(self, conversation_id: str) -> Path | None:
        if self._end is None:
            return None
        if conversation_id == self._end.conversation_id:
            return Path((self._end,))
        if self._path is None:
            self._path = await read_path(self._reader, self._end)
        return self._path
