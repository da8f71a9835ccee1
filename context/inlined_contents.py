"""Puts the data of images and files back into the body of a request to a provider."""

import hashlib
import re
import secrets
from binascii import b2a_base64
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Literal

import msgspec

from context.conversation_settings import Reader
from context.rendering import request_sha256
from domain.content_references import ContentReference, Slot, for_clients, reference_of, references, with_slots
from domain.errors import ContentGone, ContentsTooLarge
from infrastructure.contents.content_store import row_count

MAX_INLINE_BYTES: Final = 50 * 1024 * 1024
"""The maximum for all data in one request, as base64."""

Body = dict[str, Any]
_Order = Literal["deterministic"] | None


class BodyWithContents:
    """A request's body that names images and files. Iterate over it for its JSON text with their data.

    The text is made anew for each iterator, part by part, so that only a part of it is in memory. An iterator raises
    ContentGone if a content was deleted meanwhile, and psycopg.Error. `fields`: the body with references.
    """

    def __init__(self, reader: Reader, fields: Body) -> None:
        self.fields = fields
        self._reader = reader

    @property
    def size(self) -> int:
        """The length of the text in bytes."""
        parts = self._text_and_contents(None)
        return sum(len(part) if isinstance(part, bytes) else part.base64_length for part in parts)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._encoded(None)

    async def sha256(self) -> bytes:
        """As `request_sha256` of the body with the data. Raises what an iterator raises."""
        sha256 = hashlib.sha256()
        async for part in self._encoded("deterministic"):
            sha256.update(part)
        return sha256.digest()

    async def _encoded(self, order: _Order) -> AsyncIterator[bytes]:
        for part in self._text_and_contents(order):
            if isinstance(part, bytes):
                yield part
                continue
            async for encoded in _base64_parts(self._reader, part):
                yield encoded

    def _text_and_contents(self, order: _Order) -> list[bytes | ContentReference]:
        """The text in parts. Between two parts is the content whose base64 belongs there."""
        name, mark = _messages_of(self.fields), secrets.token_hex(16)  # a mark that is nowhere in the body
        found: list[ContentReference] = []

        def marked(slot: Slot) -> Mapping[str, Any]:
            reference = reference_of(slot.text)
            if reference is None:
                return slot.owner
            found.append(reference)
            return {**slot.owner, slot.name: f"{reference.before_data}{mark}{len(found) - 1}."}

        marked_body = {**self.fields, name: with_slots(self.fields[name], marked)}
        parts = re.split(rb"%b(\d+)\." % mark.encode(), msgspec.json.encode(marked_body, order=order))
        return [found[int(part)] if index % 2 else part for index, part in enumerate(parts)]


RequestBody = Mapping[str, Any] | BodyWithContents
"""The body of a request to a provider."""


def with_contents(reader: Reader, body: Body) -> Body | BodyWithContents:
    """Raises ContentsTooLarge."""
    found = references(body[_messages_of(body)])
    if sum(reference.inline_length for reference in found) > MAX_INLINE_BYTES:
        raise ContentsTooLarge(MAX_INLINE_BYTES)
    return BodyWithContents(reader, body) if found else body


async def body_sha256(body: Body | BodyWithContents) -> bytes:
    """Raises what an iterator over a BodyWithContents raises."""
    return await body.sha256() if isinstance(body, BodyWithContents) else request_sha256(body)


async def encoded_content(reader: Reader, reference: ContentReference) -> str:
    """The content as base64. Raises ContentGone if a part of the content is missing."""
    return b"".join([part async for part in _base64_parts(reader, reference)]).decode()


def without_references(body: Body) -> Body:
    """The body for clients: a `file_id` in place of the data."""
    name = _messages_of(body)
    return {**body, name: for_clients(body[name])}


async def _base64_parts(reader: Reader, reference: ContentReference) -> AsyncIterator[bytes]:
    """Raises ContentGone if a part of the content is missing."""
    rest, size = b"", 0
    for number in range(row_count(reference.size)):
        row = await reader.content_row(reference.sha256, number)
        if row is None:
            raise ContentGone(reference.file_id)
        size += len(row)
        data = rest + row
        rest = data[len(data) // 3 * 3 :]
        yield b2a_base64(memoryview(data)[: len(data) - len(rest)], newline=False)
    if size != reference.size:
        raise ContentGone(reference.file_id)
    yield b2a_base64(rest, newline=False)


def _messages_of(body: Body) -> str:
    return "messages" if "messages" in body else "input"
