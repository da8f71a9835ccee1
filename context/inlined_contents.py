"""Puts the data of images and files into the JSON text of a request to a provider.

The text is never in memory as a whole. It is made while it is hashed or sent, a row of a content at a time.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from context.conversation_settings import Reader
from domain.content_references import (
    ROW_BYTES,
    ContentReference,
    Slot,
    for_clients,
    reference_of,
    references,
    with_slots,
)
from domain.errors import ContentGone, ContentsTooLarge
from infrastructure.contents.content_store import row_count

MAX_INLINE_BYTES: Final = 50 * 1024 * 1024
"""The maximum for all data in one request, as base64."""

Body = dict[str, Any]

ReadRow = Callable[[bytes, int], Awaitable[bytes | None]]
"""As `Reader.content_row`."""


class BodyWithContents(Body):
    """A body with references, and what reads their contents."""

    def __init__(self, body: Body, read_row: ReadRow) -> None:
        super().__init__(body)
        self.read_row = read_row


class InlinedText:
    """A body as JSON text, with the data in place of its references. Each iteration reads the data again.

    An iteration raises ContentGone, and what reading a row raises. `length`: in bytes.
    """

    def __init__(self, body: BodyWithContents, order: Literal["deterministic"] | None = None) -> None:
        self._read_row = body.read_row
        found: list[ContentReference] = []
        mark = secrets.token_hex(16)

        def marked(slot: Slot) -> Mapping[str, Any]:
            reference = reference_of(slot.text)
            if reference is None:
                return slot.owner
            found.append(reference)
            return {**slot.owner, slot.name: f"{reference.before_data}{mark}:{len(found) - 1};"}

        name = _messages_of(body)
        text = msgspec.json.encode({**body, name: with_slots(body[name], marked)}, order=order)
        chunks = re.split(rb"%s:(\d+);" % mark.encode(), text)
        self._texts = chunks[::2]
        self._references = [found[int(number)] for number in chunks[1::2]]
        self.length = sum(map(len, self._texts)) + sum(reference.base64_length for reference in self._references)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._texts[0]
        for reference, text in zip(self._references, self._texts[1:], strict=True):
            async for chunk in base64_chunks(self._read_row, reference):
                yield chunk
            yield text


def with_contents(reader: Reader, body: Body) -> Body:
    """A BodyWithContents if the body has references. Raises ContentsTooLarge."""
    found = references(body[_messages_of(body)])
    if sum(reference.inline_length for reference in found) > MAX_INLINE_BYTES:
        raise ContentsTooLarge(MAX_INLINE_BYTES)
    return BodyWithContents(body, reader.content_row) if found else body


async def inlined_sha256(body: BodyWithContents) -> bytes:
    """As `request_sha256` of the body with its data. Raises ContentGone, and what reading a row raises."""
    hashed = hashlib.sha256()
    async for chunk in InlinedText(body, order="deterministic"):
        hashed.update(chunk)
    return hashed.digest()


async def base64_chunks(read_row: ReadRow, reference: ContentReference) -> AsyncIterator[bytes]:
    """Raises ContentGone if a part of the content is missing."""
    rest = b""
    for number in range(row_count(reference.size)):
        row = await read_row(reference.sha256, number)
        if row is None or len(row) != min(ROW_BYTES, reference.size - number * ROW_BYTES):
            raise ContentGone(reference.file_id)
        data = rest + row
        end = len(data) - len(data) % 3
        rest = data[end:]
        yield base64.b64encode(memoryview(data)[:end])
    yield base64.b64encode(rest)


async def encoded_content(read_row: ReadRow, reference: ContentReference) -> str:
    """The content as base64. Raises ContentGone if a part of the content is missing."""
    return b"".join([chunk async for chunk in base64_chunks(read_row, reference)]).decode()


def without_references(body: Body) -> Body:
    """The body for clients: a `file_id` in place of the data."""
    name = _messages_of(body)
    return {**body, name: for_clients(body[name])}


def _messages_of(body: Body) -> str:
    return "messages" if "messages" in body else "input"
