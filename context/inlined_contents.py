"""Puts the data of images and files back into the body of a request to a provider."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any, Final

from context.conversation_settings import Reader
from domain.content_references import ContentReference, Slot, for_clients, reference_of, references, with_slots
from domain.errors import ContentGone, ContentsTooLarge
from infrastructure.contents.content_store import row_count

MAX_INLINE_BYTES: Final = 50 * 1024 * 1024
"""The maximum for all data in one request, as base64."""

Body = dict[str, Any]


async def with_contents(reader: Reader, body: Body) -> Body:
    """Raises ContentsTooLarge, and ContentGone if a content was deleted meanwhile."""
    name = _messages_of(body)
    found = references(body[name])
    if not found:
        return body
    if sum(reference.inline_length for reference in found) > MAX_INLINE_BYTES:
        raise ContentsTooLarge(MAX_INLINE_BYTES)
    encoded: dict[bytes, str] = {}
    for reference in found:
        if reference.sha256 not in encoded:
            encoded[reference.sha256] = await encoded_content(reader, reference)

    def inlined(slot: Slot) -> Mapping[str, Any]:
        reference = reference_of(slot.text)
        if reference is None:
            return slot.owner
        return {**slot.owner, slot.name: reference.before_data + encoded[reference.sha256]}

    return {**body, name: with_slots(body[name], inlined)}


def names_contents(body: Body) -> bool:
    return bool(references(body[_messages_of(body)]))


async def encoded_content(reader: Reader, reference: ContentReference) -> str:
    """The content as base64. Raises ContentGone if a part of the content is missing."""
    rows = [await reader.content_row(reference.sha256, number) for number in range(row_count(reference.size))]
    data = b"".join(row for row in rows if row is not None)
    if len(data) != reference.size:
        raise ContentGone(reference.file_id)
    return await asyncio.to_thread(_base64, data)


def without_references(body: Body) -> Body:
    """The body for clients: a `file_id` in place of the data."""
    name = _messages_of(body)
    return {**body, name: for_clients(body[name])}


def _messages_of(body: Body) -> str:
    return "messages" if "messages" in body else "input"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
