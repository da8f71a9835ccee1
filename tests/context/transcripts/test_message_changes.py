"""What differs between a sent message and the message that its items make."""

from typing import Any

import pytest
from msgspec import json

from context.transcripts.message_changes import changed, changes_between
from domain.content_references import ContentReference, inline_reference, reference_of, slots

FIRST = inline_reference("acme", b"\1" * 32, 300, "image/png")
SECOND = inline_reference("acme", b"\2" * 32, 300, "image/png")


def image(reference: ContentReference) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": reference.text, "detail": "low"}}


def file(reference: ContentReference) -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": reference.text, "filename": "a.pdf"}}


def our_image(reference: ContentReference) -> dict[str, Any]:
    return {"type": "input_image", "image_url": reference.text}


@pytest.mark.parametrize("part", [image, file, our_image])
def test_a_changed_content_reference_is_recorded_whole(part: Any) -> None:
    text = {"type": "text", "text": "What is it?"}
    plain = {"role": "user", "content": [text, part(FIRST)]}
    sent = {"role": "user", "content": [{"type": "text", "text": "What is it? Look."}, part(SECOND)], "name": "Ann"}
    changes = changes_between(plain, sent)
    assert changes is not None
    assert changed(plain, changes) == sent
    assert [reference_of(slot.text) for slot in slots(json.decode(changes))] == [SECOND]


def test_a_changed_text_is_recorded_as_a_change_of_the_text() -> None:
    plain = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image(FIRST)]}
    sent = {"role": "user", "content": [{"type": "text", "text": "What is it? Look."}, image(FIRST)]}
    changes = changes_between(plain, sent)
    assert changes is not None
    assert b"content:" not in changes
    assert changed(plain, changes) == sent
