"""Finds files by their ids: those that the caller uploaded, and those in items that the caller may read."""

from collections.abc import Collection, Sequence
from typing import Final

from msgspec import Struct

from context.pinned_items import undeleted_on_path
from context.readable_items import find_items
from domain.content_references import ContentReference
from domain.paths import PathSegment
from infrastructure.contents.file_store import FileStore, reader_of
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.event_log.version_lookup import MAX_BATCH_LOOKUPS

MAX_CHECKED_FORKS: Final = 32
"""The newest forks that the caller may read. Usually one is enough."""


class FoundFile(Struct, frozen=True):
    reference: ContentReference
    filename: str | None


async def find_files(reader: PrincipalReader, store: FileStore, file_ids: Collection[str]) -> dict[str, FoundFile]:
    """By id. A file that is not there, or that the caller may not read, is absent."""
    if not file_ids:
        return {}
    uploaded = await store.find_each(reader_of(reader.principal), file_ids)
    found = {
        file.id: FoundFile(ContentReference(file.id, file.sha256, file.size, file.media_type), file.filename)
        for file in uploaded
    }
    missing = [file_id for file_id in file_ids if file_id not in found]
    return found | await files_in_items(reader, store, missing) if missing else found


async def files_in_items(reader: PrincipalReader, store: FileStore, file_ids: Collection[str]) -> dict[str, FoundFile]:
    """Those that an item names which the caller may read, also through a fork that inherits it."""
    named = await store.named(reader.tenant, reader.principal.subject, file_ids)
    items = await find_items(reader, {each.item_id for each in named})
    readable = set(items.readable)
    if others := [each for each in named if each.item_id in items.existing and each.item_id not in readable]:
        forks = await store.forks_of(reader.tenant, {each.conversation_id for each in others})
        readable |= await _inherited(reader, forks, {each.item_id for each in others})
    return {each.file_id: FoundFile(each.reference, each.filename) for each in named if each.item_id in readable}


async def _inherited(reader: PrincipalReader, forks: Sequence[str], item_ids: Collection[str]) -> set[str]:
    """Those items that one of these forks shows to the caller."""
    shown: set[str] = set()
    checked = 0
    for start in range(0, len(forks), MAX_BATCH_LOOKUPS):
        page = forks[start : start + MAX_BATCH_LOOKUPS]
        for fork, head in zip(page, await reader.head_of_each(page), strict=True):
            missing = [item_id for item_id in item_ids if item_id not in shown]
            if (readable := reader.readable(head)) is None or not missing:
                continue
            if checked == MAX_CHECKED_FORKS:
                return shown
            checked += 1
            shown |= (await undeleted_on_path(reader, PathSegment(fork, readable.version), missing)).keys()
    return shown
