"""The data of images in listed items, for `include[]=message.input_image.image_url`."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from context.inlined_contents import encoded_content
from domain.content_references import MARK, ContentReference, Slot, slots, with_slots
from domain.errors import ContentGone
from infrastructure.ids import FILE, is_id
from queries.paging import MAX_PAGE_BYTES, Page
from queries.query_context import QueryContext

INCLUDED: Final = frozenset({"message.input_image.image_url", "computer_call_output.output.image_url"})
_SIGN: Final = b'"file-'


async def include_images(context: QueryContext, page: Page, include: Collection[str] | None) -> None:
    """Adds the data URI of each image that this store has. The page ends before an item for which it has no room."""
    if not INCLUDED.intersection(include or ()) or not any(_SIGN in entry for entry in page.entries):
        return
    async with context.dependencies.connections.large_answer(context.principal.tenant):
        size = 0
        for index, entry in enumerate(page.entries):
            with_data = await with_images(context, entry)
            size += len(with_data)
            if index and size > MAX_PAGE_BYTES:
                del page.entries[index:], page.ids[index:]
                page.has_more = True
                return
            page.entries[index] = with_data


async def with_images(context: QueryContext, entry: bytes) -> bytes:
    """`entry`: an item as JSON, which the caller may read."""
    if _SIGN not in entry:
        return entry
    item = msgspec.json.decode(entry)
    ids = {file_id for slot in slots(item) if (file_id := _image_id(slot)) is not None}
    files, tenant = context.dependencies.files, context.principal.tenant
    references = await files.references(tenant, item["id"], ids) if ids else {}
    data = {file_id: await _data_uri(context, reference) for file_id, reference in references.items()}

    def included(slot: Slot) -> Mapping[str, Any]:
        uri = data.get(_image_id(slot) or "")
        return slot.owner if uri is None else {**slot.owner, "image_url": uri}

    return msgspec.json.encode(with_slots(item, included))


def _image_id(slot: Slot) -> str | None:
    file_id = slot.owner.get("file_id")
    is_ours = slot.name == "image_url" and isinstance(file_id, str) and is_id(file_id, FILE)
    return file_id if is_ours and not slot.text.startswith(MARK) else None


async def _data_uri(context: QueryContext, reference: ContentReference) -> str | None:
    try:
        return reference.before_data + await encoded_content(context.dependencies.log.content_row, reference)
    except ContentGone:
        return None
