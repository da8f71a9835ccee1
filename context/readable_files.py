"""Finds files that the caller uploaded, and files in items that the caller may read."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Final, TypeVar

from msgspec import Struct

from context.pinned_items import undeleted_on_path
from domain.content_references import ContentReference
from domain.paths import PathSegment
from infrastructure.contents.file_store import PAGE_ITEMS, FileStore, NamingItem, reader_of
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.event_log.version_lookup import MAX_BATCH_LOOKUPS

MAX_PAGES: Final = 20
"""The maximum for pages of items that name a file. Usually the first item that is found is readable."""

MAX_CHECKED_FORKS: Final = 32
"""Counts only forks that the caller may read. Usually one fork is enough."""

MAX_READ_ITEMS: Final = 10
"""At most this many items of a fork are read at once. Each may have a megabyte."""

T = TypeVar("T")


class FoundFile(Struct, frozen=True):
    reference: ContentReference
    filename: str | None


async def find_files(reader: PrincipalReader, store: FileStore, file_ids: Collection[str]) -> dict[str, FoundFile]:
    """The files by id, without files that do not exist or that the caller may not read."""
    if not file_ids:
        return {}
    uploaded = await store.get_each(reader_of(reader.principal), file_ids)
    found = {
        file.id: FoundFile(ContentReference(file.id, file.sha256, file.size, file.media_type), file.filename)
        for file in uploaded
    }
    missing = [file_id for file_id in file_ids if file_id not in found]
    return found | await files_in_items(reader, store, missing) if missing else found


async def files_in_items(reader: PrincipalReader, store: FileStore, file_ids: Collection[str]) -> dict[str, FoundFile]:
    """The files in items that the caller may read, also through a fork that inherits the item."""
    found: dict[str, FoundFile] = {}
    missing = list(file_ids)
    for page in range(MAX_PAGES):
        naming = await store.naming(reader.tenant, reader.principal.subject, missing, skip=page * PAGE_ITEMS)
        for each in await _readable(reader, store, naming):
            found.setdefault(each.file_id, FoundFile(each.reference, each.filename))
        counts = Counter(each.file_id for each in naming)
        missing = [file_id for file_id in missing if file_id not in found and counts[file_id] == PAGE_ITEMS]
        if not missing:
            break
    return found


async def _readable(reader: PrincipalReader, store: FileStore, naming: Sequence[NamingItem]) -> list[NamingItem]:
    deleted = await reader.deleted_items({each_id for each in naming for each_id in _ids(each)}) if naming else set()
    existing = [each for each in naming if deleted.isdisjoint(_ids(each))]
    conversations = await _readable_conversations(reader, {each.conversation_id for each in existing})
    readable = [each for each in existing if each.conversation_id in conversations]
    found = {each.file_id for each in readable}
    # A fork inherits only items that have joined the conversation.
    others = [each for each in existing if each.file_id not in found and each.row_key == each.item_id]
    return readable + await _inherited(reader, store, others) if others else readable


def _ids(naming: NamingItem) -> set[str]:
    """If one of these is deleted, the item is deleted."""
    return {naming.row_key, naming.item_id, *(naming.copy_of.split("/") if naming.copy_of else ())}


async def _readable_conversations(reader: PrincipalReader, conversation_ids: Collection[str]) -> dict[str, int]:
    """The versions of the conversations that the caller may read."""
    found: dict[str, int] = {}
    for page in _pages(list(conversation_ids), MAX_BATCH_LOOKUPS):
        for conversation_id, head in zip(page, await reader.head_of_each(page), strict=True):
            if (readable := reader.readable(head)) is not None:
                found[conversation_id] = readable.version
    return found


async def _inherited(reader: PrincipalReader, store: FileStore, naming: Sequence[NamingItem]) -> list[NamingItem]:
    """The items that forks show to the caller. Stops when each file has such an item."""
    origins = {each.conversation_id for each in naming}
    forks = await store.forks_of(reader.tenant, reader.principal.subject, origins)
    versions = await _readable_conversations(reader, forks)
    shown: list[NamingItem] = []
    missing = list(naming)
    for fork in [fork for fork in forks if fork in versions][:MAX_CHECKED_FORKS]:
        for page in _pages(missing, MAX_READ_ITEMS):
            end = PathSegment(fork, versions[fork])
            on_path = await undeleted_on_path(reader, end, [each.item_id for each in page])
            shown += [each for each in page if each.item_id in on_path]
        found = {each.file_id for each in shown}
        missing = [each for each in missing if each.file_id not in found]
        if not missing:
            break
    return shown


def _pages(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
