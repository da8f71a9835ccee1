"""Which contents an event names. Pure."""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from domain.content_references import MARK, ContentReference, reference_of, slots
from domain.events import (
    Event,
    ItemAppended,
    ReplyCancelled,
    ReplyFailed,
    ReplyInterrupted,
    ReplyQueued,
    ReplyRequested,
)

_MARK: Final = MARK.encode()


class NamedContent(Struct, frozen=True, gc=False):
    """`item_id`: the item that names the content; the response's id if only its transcript does."""

    item_id: str
    reference: ContentReference
    filename: str | None


def named_contents(event: Event) -> Iterator[NamedContent]:
    for item_id, text in _texts(event):
        if _MARK in text:
            for slot in slots(msgspec.json.decode(text)):
                if (reference := reference_of(slot.text)) is not None:
                    filename = slot.owner.get("filename")
                    yield NamedContent(item_id, reference, filename if isinstance(filename, str) else None)


def _texts(event: Event) -> Iterator[tuple[str, bytes]]:
    """JSON texts in which a content may be named."""
    match event:
        case ItemAppended():
            yield event.item_id, event.item
        case ReplyQueued() | ReplyRequested():
            yield from ((item.item_id, item.item) for item in event.input)
            if isinstance(event, ReplyRequested) and event.transcript is not None:
                yield from ((event.response_id, text) for text in event.transcript.instructions)
                for part in event.transcript.parts:
                    yield from ((event.response_id, text) for text in (part.message, part.changes) if text is not None)
        case ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
            yield from ((item.item_id, item.item) for item in event.output)
        case _:
            return
