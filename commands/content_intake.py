"""Puts references in the place of images and files in a request's body. Refuses references that clients send."""

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NoReturn

from msgspec import Struct

from context.readable_files import FoundFile, find_files
from domain.content_references import (
    MARK,
    ContentReference,
    Slot,
    inline_reference,
    reference_of,
    slots,
    split_data_uri,
    with_slots,
)
from infrastructure.access.principal import Principal
from infrastructure.contents.file_store import FileStore
from infrastructure.contents.media_types import HEAD_BYTES, contradicts, plain_type
from infrastructure.contents.staged_contents import StagedContents
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.http.errors import ApiError
from infrastructure.http.multipart import MAX_FILE_BYTES
from infrastructure.ids import FILE, is_id

_SIGNS: Final = (b'"input_image"', b'"input_file"', b'"computer_screenshot"', b'"image_url"', b'"file"')
"""The types of parts that may hold an image or a file."""

MAX_FILENAME_BYTES: Final = 255
_FIELDS: Final = ("input", "item", "items", "messages")
"""The fields of bodies that have items or messages."""

_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:5[fF]|[67])")
"""A body with such an escape may have types that `_SIGNS` does not find."""

MAX_CONTENTS: Final = 1_000
"""Images and files in one body. Each takes a look-up or a transaction."""

_LARGE_CHARACTERS: Final = 64 * 1024
"""Longer data is decoded, and written to disk, in a thread."""


Keep = Literal["stored", "request", "inline"]
"""What happens to data in a body: it is stored, it is kept for this request alone, or it stays in the body."""


class Contents(Struct, frozen=True):
    """What the intake uses for one caller."""

    principal: Principal
    reader: PrincipalReader
    store: FileStore


class StagedBody(Struct, frozen=True):
    """A body whose data is on disk. `value`: with references in place of data, but not yet of ids."""

    value: Any
    file_ids: frozenset[str] = frozenset()
    contents: StagedContents | None = None
    keep: Keep = "stored"


def may_have_contents(raw: bytes) -> bool:
    """A fast check, because most bodies have no images or files."""
    return any(sign in raw for sign in _SIGNS) or (b"\\u00" in raw and _ESCAPED_LETTER.search(raw) is not None)


async def take_contents(contents: Contents, body: Any, *, size: int, max_bytes: int, keep: Keep) -> Any:
    """As `stage_contents`, then `keep_contents`."""
    staged = await stage_contents(contents.principal.tenant, body, size=size, max_bytes=max_bytes, keep=keep)
    return await keep_contents(contents, staged)


async def stage_contents(tenant: str, body: Any, *, size: int, max_bytes: int, keep: Keep) -> StagedBody:
    """Checks the data in the body, and puts references in its place. Waits for no client and no database.

    `size`: the bytes of the body as JSON text. `max_bytes`: the maximum for what stays in the body. Raises ApiError (400, 413) and NoSpace.
    """
    given = _given(body)
    found = [slot for slot in slots(given) if _file_id(slot) or not _is_elsewhere(slot)]
    if len(found) > MAX_CONTENTS:
        message = f"The body has more than {MAX_CONTENTS} images and files."
        raise ApiError(413, message, code="request_too_large", headers={"connection": "close"})
    for slot in found:
        if slot.text.startswith(MARK):
            _refuse(slot, slot.name, f"it must not begin with `{MARK}`")
        filename = slot.owner.get("filename")
        if isinstance(filename, str) and len(filename.encode()) > MAX_FILENAME_BYTES:
            _refuse(slot, "filename", f"it has more than {MAX_FILENAME_BYTES} bytes")
    if len({id(slot.owner) for slot in found}) < len(found):
        _refuse(found[0], found[0].name, "a part may have only one image or file")
    staged = StagedContents() if keep != "inline" else None
    inline = {id(slot.owner): data for slot in found if (data := await _inline_data(tenant, slot, staged))}
    taken_bytes = sum(reference.inline_length for reference in inline.values()) if keep != "inline" else 0
    if size - taken_bytes > max_bytes:
        message = f"The body is larger than {max_bytes} bytes, without the images and files in it."
        raise ApiError(413, message, code="request_too_large", headers={"connection": "close"})

    def staged_slot(slot: Slot) -> Mapping[str, Any]:
        reference = inline.get(id(slot.owner))
        if reference is not None and _file_id(slot) is not None:
            return {**slot.owner, slot.name: reference.text}
        return slot.owner if reference is None or keep == "inline" else _with_file(FoundFile(reference, None), slot)

    file_ids = frozenset(file_id for slot in found if (file_id := _file_id(slot)) is not None)
    value = {**body, **with_slots(given, staged_slot)} if inline else body
    return StagedBody(value, file_ids, staged if inline else None, keep)


async def keep_contents(contents: Contents, staged: StagedBody) -> Any:
    """Keeps the data, and puts references in place of ids. Returns the body. Raises ApiError (400, 404), psycopg.Error."""
    value = staged.value
    if staged.file_ids:
        files = await find_files(contents.reader, contents.store, staged.file_ids)
        given = _given(value)
        named = [(slot, file_id) for slot in slots(given) if (file_id := _file_id(slot)) is not None]
        taken = {id(slot.owner): _checked_file(slot, file_id, files.get(file_id)) for slot, file_id in named}

        def named_slot(slot: Slot) -> Mapping[str, Any]:
            file = taken.get(id(slot.owner))
            return slot.owner if file is None else _with_file(file, slot)

        value = {**value, **with_slots(given, named_slot)}
    if staged.contents is not None and staged.keep == "stored":
        await contents.store.keep(contents.principal.tenant, staged.contents)
        staged.contents.close()
    elif staged.contents is not None:
        contents.reader.given_content_row = staged.contents.row
    return value


def _given(body: Any) -> dict[str, Any]:
    return {name: body[name] for name in _FIELDS if name in body} if isinstance(body, dict) else {}


def _checked_file(slot: Slot, file_id: str, file: FoundFile | None) -> FoundFile:
    """Raises ApiError (400, 404)."""
    param = _param(slot, _id_field(slot))
    if file is None:
        raise ApiError(404, f"There is no file {file_id}.", code="file_not_found", param=param)
    data = reference_of(slot.text)
    if data is not None and data.sha256 != file.reference.sha256:
        _refuse(slot, slot.name, "its data is not that of the `file_id`")
    if slot.is_image and not (file.reference.label or "").lower().startswith("image/"):
        _refuse(slot, _id_field(slot), "the file is no image")
    return file


def _with_file(file: FoundFile, slot: Slot) -> Mapping[str, Any]:
    replaced = slot.name if slot.name in slot.owner else "file_id"
    changed = {
        slot.name if name == replaced else name: file.reference.text if name == replaced else value
        for name, value in slot.owner.items()
        if name == replaced or name != "file_id"
    }
    names_file = not slot.is_image and file.filename and not changed.get("filename")
    return {**changed, "filename": file.filename} if names_file else changed


def _is_elsewhere(slot: Slot) -> bool:
    """Whether the slot has a URL, or nothing."""
    return not slot.text or slot.text.startswith(("http:", "https:"))


def _id_field(slot: Slot) -> str:
    return "url" if slot.name == "url" else "file_id"


def _file_id(slot: Slot) -> str | None:
    """The id of a file of this store. Ids of other forms are the provider's."""
    file_id = slot.owner.get(_id_field(slot))
    return file_id if isinstance(file_id, str) and is_id(file_id, FILE) else None


async def _inline_data(tenant: str, slot: Slot, staged: StagedContents | None) -> ContentReference | None:
    """Stages the data in a slot. None if the slot has no data. Raises ApiError and NoSpace."""
    text = slot.text
    label: str | None = None
    if text[:5].lower() == "data:":
        split = split_data_uri(text)
        if split is None:
            _refuse(slot, slot.name, "a data URI must have the form `data:<media type>;base64,<data>`")
        label, encoded = split
    elif slot.is_image or not text:
        return None
    else:
        encoded = text
    data = await asyncio.to_thread(_decoded, encoded) if len(encoded) > _LARGE_CHARACTERS else _decoded(encoded)
    if data is None:
        if label is None:
            return None
        _refuse(slot, slot.name, "its data is not base64")
    if not data:
        if label is None:
            return None
        _refuse(slot, slot.name, "it is empty")
    if len(data) > MAX_FILE_BYTES:
        message = f"`{_param(slot, slot.name)}` has more than {MAX_FILE_BYTES} bytes."
        raise ApiError(413, message, code="item_too_large", param=_param(slot, slot.name))
    claimed = plain_type(label or "")
    if claimed is not None and contradicts(data[:HEAD_BYTES], claimed):
        _refuse(slot, slot.name, f"its data is not of the type {claimed}")
    if label is not None and slot.is_image and not (claimed or "").startswith("image/"):
        _refuse(slot, slot.name, "it is no image")
    is_large = len(data) > _LARGE_CHARACTERS
    sha256 = await asyncio.to_thread(_staged, staged, data) if is_large else _staged(staged, data)
    return inline_reference(tenant, sha256, len(data), label)


def _decoded(encoded: str) -> bytes | None:
    """None if the decoded data, encoded again, would be another text."""
    last = encoded[-4:]
    try:
        if len(encoded) % 4 or base64.b64encode(base64.b64decode(last, validate=True)).decode() != last:
            return None
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None


def _staged(contents: StagedContents | None, data: bytes) -> bytes:
    """The data's SHA-256. Raises NoSpace."""
    sha256 = hashlib.sha256(data).digest()
    if contents is not None:
        contents.add(sha256, data)
    return sha256


def _param(slot: Slot, name: str) -> str:
    return f"{slot.path}.{name}" if slot.path else name


def _refuse(slot: Slot, name: str, problem: str) -> NoReturn:
    param = _param(slot, name)
    raise ApiError(400, f"Invalid `{param}`: {problem}.", code="invalid_value", param=param)
