"""References to contents: texts that take the place of the data of images and files in stored items.

A content is stored once, apart from the events (`infrastructure/contents/`). Its reference has everything that is needed
to put the data back as it was sent. Clients see the reference as a `file_id`. Pure.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

MARK: Final = "content:"
"""A client may not send a text with this beginning in a slot."""

FILE_BEGINNING: Final = "file-"

ROW_BYTES: Final = 256 * 1024
"""A content is stored and read in rows of this size. The last row may be shorter."""

_FORM = re.compile(r"content:(file-[0-9a-f]{32}):([0-9a-f]{64}):([0-9]{1,12}):(.*)", re.DOTALL)
_DATA_URI = re.compile(r"data:([^,]*);base64,", re.IGNORECASE)
_IMAGES: Final = ("input_image", "computer_screenshot")


class ContentReference(Struct, frozen=True):
    """`label`: what stands between `data:` and `;base64,` in the data URI; None if there is only base64."""

    file_id: str
    sha256: bytes
    size: int
    label: str | None

    @property
    def text(self) -> str:
        label = "" if self.label is None else f"data:{self.label}"
        return f"{MARK}{self.file_id}:{self.sha256.hex()}:{self.size}:{label}"

    @property
    def before_data(self) -> str:
        """What comes before the base64."""
        return "" if self.label is None else f"data:{self.label};base64,"

    @property
    def inline_length(self) -> int:
        """How many characters the data has as it was sent."""
        return len(self.before_data) + self.base64_length

    @property
    def base64_length(self) -> int:
        return (self.size + 2) // 3 * 4


class Slot(Struct, frozen=True):
    """A reference, a data URI or base64 may stand in `owner[name]`. `path`: the path of `owner`.

    `owner` may also have a `file_id`.
    """

    owner: Mapping[str, Any]
    name: str
    path: str

    @property
    def text(self) -> str:
        value = self.owner.get(self.name)
        return value if isinstance(value, str) else ""

    @property
    def is_image(self) -> bool:
        return self.name != "file_data"


def reference_of(text: str) -> ContentReference | None:
    match = _FORM.fullmatch(text) if text.startswith(MARK) else None
    if match is None:
        return None
    file_id, sha256, size, label = match.groups()
    return ContentReference(file_id, bytes.fromhex(sha256), int(size), label[len("data:") :] if label else None)


def inline_reference(tenant: str, sha256: bytes, size: int, label: str | None) -> ContentReference:
    """The reference of data that was sent inside an item. It depends only on the arguments, so that a repeated item is recognised."""
    named = hashlib.sha256(b"\0".join((tenant.encode(), sha256, (label or "base64").encode()))).hexdigest()
    return ContentReference(FILE_BEGINNING + named[:32], sha256, size, label)


def split_data_uri(text: str) -> tuple[str, str] | None:
    """(label, base64). None if `text` is no data URI with base64."""
    match = _DATA_URI.match(text)
    return (match[1], text[match.end() :]) if match and text.startswith("data:") else None


def slot_of(value: Mapping[str, Any], path: str = "") -> Slot | None:
    """The slot that a part of a message has."""
    kind = value.get("type")
    if kind in _IMAGES:
        return Slot(value, "image_url", path)
    if kind == "input_file":
        return Slot(value, "file_data", path)
    if kind in ("image_url", "file") and isinstance(inner := value.get(kind), dict):
        return Slot(inner, "url" if kind == "image_url" else "file_data", f"{path}.{kind}" if path else kind)
    return None


def slots(value: Any, path: str = "") -> Iterator[Slot]:
    """Every slot in an item, a message, or a list."""
    if isinstance(value, list):
        for index, member in enumerate(value):
            yield from slots(member, f"{path}[{index}]")
    elif isinstance(value, dict):
        if (slot := slot_of(value, path)) is not None:
            yield slot
        for name, member in value.items():
            if isinstance(member, dict | list):
                yield from slots(member, f"{path}.{name}" if path else name)


def references(value: Any) -> list[ContentReference]:
    found = (reference_of(slot.text) for slot in slots(value))
    return [reference for reference in found if reference is not None]


def inline_length(item: Mapping[str, Any]) -> int:
    """How many characters the contents of an item have as data URIs."""
    if not any(isinstance(item.get(name), list | dict) for name in ("content", "output")):
        return 0
    return sum(reference.inline_length for reference in references(item))


def with_slots(value: Any, change: Callable[[Slot], Mapping[str, Any]]) -> Any:
    """`value` with changed owners of slots. What does not change is not copied. An owner is changed before what is in it."""
    if isinstance(value, list):
        members = [with_slots(member, change) for member in value]
        is_changed = any(new is not old for new, old in zip(members, value, strict=True))
        return members if is_changed else value
    if not isinstance(value, dict):
        return value
    changed: Mapping[str, Any] = value
    if (slot := slot_of(value)) is not None and (owner := change(slot)) is not slot.owner:
        changed = owner if slot.owner is value else {**value, value["type"]: owner}
    for name, member in list(changed.items()):
        if isinstance(member, dict | list) and (new := with_slots(member, change)) is not member:
            changed = {**changed, name: new}
    return changed


def for_clients(value: Any) -> Any:
    """A `file_id` in place of each reference. In an image of a chat message, the id takes the place of the URL."""

    def named(slot: Slot) -> Mapping[str, Any]:
        reference = reference_of(slot.text)
        if reference is None:
            return slot.owner
        if slot.name == "url":
            return {**slot.owner, "url": reference.file_id}
        kept = {name: member for name, member in slot.owner.items() if name != slot.name}
        return {**kept, "file_id": reference.file_id}

    return with_slots(value, named)
