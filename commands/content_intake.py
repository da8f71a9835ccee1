"""Puts references in the place of images and files in a request's body. Refuses references that clients send.

`take_data` needs memory for the data, and no store. `keep_contents` then needs the stores, and little memory.
"""

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NoReturn

from msgspec import Struct

from context.readable_files import FoundFile, find_files
from domain.content_references import (
    MARK,
    ContentReference,
    Slot,
    inline_reference,
    slots,
    split_data_uri,
    with_slots,
)
from infrastructure.access.principal import Principal
from infrastructure.contents.file_store import FileStore
from infrastructure.contents.media_types import HEAD_BYTES, contradicts, plain_type
from infrastructure.event_log.reader import PrincipalReader
from infrastructure.given_contents import GivenContents
from infrastructure.http.errors import ApiError
from infrastructure.http.multipart import MAX_FILE_BYTES
from infrastructure.ids import FILE, is_id

_SIGNS: Final = (b'"input_image"', b'"input_file"', b'"computer_screenshot"', b'"image_url"', b'"file"')
"""The types of parts that have slots."""

MAX_FILENAME_BYTES: Final = 255
_FIELDS: Final = ("input", "item", "items", "messages")
"""The fields of bodies that have items or messages."""

_ESCAPED_LETTER: Final = re.compile(rb"\\u00(?:5[fF]|[67])")
"""A body with such an escape may have types that `_SIGNS` does not find."""

MAX_CONTENTS: Final = 1_000
"""Images and files in one body. Each takes a look-up or a transaction."""

_LARGE_CHARACTERS: Final = 64 * 1024
"""Longer data is decoded in a thread."""


Keep = Literal["stored", "request", "inline"]
"""What happens to data in a body: it is stored, it is kept for this request alone, or it stays in the body."""


class Contents(Struct, frozen=True):
    """What the intake uses for one caller."""

    principal: Principal
    reader: PrincipalReader
    store: FileStore


class TakenBody(Struct, frozen=True):
    """`value`: a body with references in place of its data. Ids of files are still in it.

    `data`: what is to be stored. `references`: of data that stands beside the id of a file, by the slot's path.
    """

    value: Any
    data: GivenContents | None = None
    references: Mapping[str, ContentReference] = MappingProxyType({})
    has_ids: bool = False


class _Data(Struct, frozen=True):
    reference: ContentReference
    data: bytes


def may_have_contents(raw: bytes) -> bool:
    """A fast check, because most bodies have no images or files."""
    return any(sign in raw for sign in _SIGNS) or (b"\\u00" in raw and _ESCAPED_LETTER.search(raw) is not None)


async def take_data(contents: Contents, body: Any, *, size: int, max_bytes: int, keep: Keep) -> TakenBody:
    """Takes the data out of the body, one image or file after the other.

    `size`: of the body as JSON text. `max_bytes`: the maximum for what remains. Raises ApiError (400, 413) and NoSpace.
    """
    given = _with_slots_in(body)
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
    kept = contents.reader.given_contents if keep == "request" else GivenContents()
    references: dict[str, ContentReference] = {}
    changed: dict[int, Mapping[str, Any]] = {}
    for slot in found:
        data = await _inline_data(contents.principal.tenant, slot)
        if data is None:
            continue
        references[slot.path] = data.reference
        if keep == "inline":
            continue
        await asyncio.to_thread(kept.add, data.reference.sha256, data.data)
        if _file_id(slot) is not None:
            changed[id(slot.owner)] = {**slot.owner, slot.name: data.reference.text}
        else:
            changed[id(slot.owner)] = _with_file(slot, FoundFile(data.reference, None))
    taken_bytes = sum(reference.inline_length for reference in references.values()) if keep != "inline" else 0
    if size - taken_bytes > max_bytes:
        message = f"The body is larger than {max_bytes} bytes, without the images and files in it."
        raise ApiError(413, message, code="request_too_large", headers={"connection": "close"})
    has_ids = any(_file_id(slot) is not None for slot in found)
    value = {**body, **_with_owners(given, changed)} if changed else body
    return TakenBody(value, kept if changed and keep == "stored" else None, references, has_ids)


async def keep_contents(contents: Contents, taken: TakenBody) -> Any:
    """Stores the data. Returns the body with references also in place of ids. Raises ApiError (400, 404) and NoSpace."""
    value = taken.value
    if taken.has_ids:
        given = _with_slots_in(value)
        found = [(slot, file_id) for slot in slots(given) if (file_id := _file_id(slot)) is not None]
        files = await find_files(contents.reader, contents.store, {file_id for _, file_id in found})
        changed: dict[int, Mapping[str, Any]] = {}
        for slot, file_id in found:
            file = _checked_file(slot, file_id, files.get(file_id), taken.references.get(slot.path))
            changed[id(slot.owner)] = _with_file(slot, file)
        value = {**value, **_with_owners(given, changed)}
    if taken.data is not None:
        await contents.store.keep(contents.principal.tenant, taken.data)
    return value


def _with_slots_in(body: Any) -> dict[str, Any]:
    return {name: body[name] for name in _FIELDS if name in body} if isinstance(body, dict) else {}


def _with_owners(given: dict[str, Any], changed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """`changed`: new owners of slots, by the `id` of the owner."""
    with_changed: dict[str, Any] = with_slots(given, lambda slot: changed.get(id(slot.owner), slot.owner))
    return with_changed


def _checked_file(slot: Slot, file_id: str, file: FoundFile | None, data: ContentReference | None) -> FoundFile:
    """`data`: of what is in the slot beside the id. Raises ApiError (400, 404)."""
    param = _param(slot, _id_field(slot))
    if file is None:
        raise ApiError(404, f"There is no file {file_id}.", code="file_not_found", param=param)
    if data is not None and data.sha256 != file.reference.sha256:
        _refuse(slot, slot.name, "its data is not that of the `file_id`")
    if slot.is_image and not (file.reference.label or "").lower().startswith("image/"):
        _refuse(slot, _id_field(slot), "the file is no image")
    return file


def _with_file(slot: Slot, file: FoundFile) -> Mapping[str, Any]:
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


async def _inline_data(tenant: str, slot: Slot) -> _Data | None:
    """The data in a slot, or None if the slot has no data. Raises ApiError."""
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
    hashed = await asyncio.to_thread(_sha256, data) if len(data) > _LARGE_CHARACTERS else _sha256(data)
    return _Data(inline_reference(tenant, hashed, len(data), label), data)


def _decoded(encoded: str) -> bytes | None:
    """None if the decoded data, encoded again, would be another text."""
    last = encoded[-4:]
    try:
        if len(encoded) % 4 or base64.b64encode(base64.b64decode(last, validate=True)).decode() != last:
            return None
        return base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _param(slot: Slot, name: str) -> str:
    return f"{slot.path}.{name}" if slot.path else name


def _refuse(slot: Slot, name: str, problem: str) -> NoReturn:
    param = _param(slot, name)
    raise ApiError(400, f"Invalid `{param}`: {problem}.", code="invalid_value", param=param)
