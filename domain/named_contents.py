"""Which contents an event names. Pure."""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from domain.content_references import FILE_BEGINNING, MARK, ContentReference, reference_of, slots
from domain.events import (
    Event,
    ItemAppended,
    ReplyCancelled,
    ReplyFailed,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
)

_SIGN: Final = f'"{MARK}{FILE_BEGINNING}'.encode()
"""How a reference begins in JSON text."""


class NamedContent(Struct, frozen=True, gc=False):
    """`item_id`: the item that names the content; the response's id if a transcript names the content. `copy_of`: as in ItemAppended."""

    item_id: str
    reference: ContentReference
    filename: str | None
    copy_of: str | None = None


def named_contents(event: Event) -> Iterator[NamedContent]:
    for item_id, text, copy_of in _texts(event):
        if _SIGN in text:
            for slot in slots(msgspec.json.decode(text)):
                if (reference := reference_of(slot.text)) is not None:
                    filename = slot.owner.get("filename")
                    yield NamedContent(item_id, reference, filename if isinstance(filename, str) else None, copy_of)


def _texts(event: Event) -> Iterator[tuple[str, bytes, str | None]]:
    """JSON texts in which a content may be named, each with the item's id and `copy_of`."""
    match event:
        case ItemAppended():
            yield event.item_id, event.item, event.copy_of
        case ReplyQueued() | ReplyRequested():
            yield from ((item.item_id, item.item, item.copy_of) for item in event.input)
            if isinstance(event, ReplyRequested) and event.transcript is not None:
                yield from ((event.response_id, text, None) for text in event.transcript.instructions)
                for part in event.transcript.parts:
                    texts = (part.message, part.changes)
                    yield from ((event.response_id, text, None) for text in texts if text is not None)
        case ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            yield from ((item.item_id, item.item, item.copy_of) for item in event.output)
        case _:
            return
