"""Finds files by their ids: those that the caller uploaded, and those in items that the caller may read."""

from collections.abc import Collection

from msgspec import Struct

from context.readable_items import find_items
from domain.content_references import ContentReference
from infrastructure.contents.file_store import FileStore, reader_of
from infrastructure.event_log.reader import PrincipalReader


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
    """Those that an item names which the caller may read."""
    named = await store.named(reader.tenant, reader.principal.subject, file_ids)
    items = await find_items(reader, {each.item_id for each in named})
    return {each.file_id: FoundFile(each.reference, each.filename) for each in named if each.item_id in items.readable}
