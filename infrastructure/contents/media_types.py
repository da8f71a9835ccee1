"""Finds the media type of a content in its first bytes, or else takes the type that the client names."""

import re
from typing import Final

OCTETS: Final = "application/octet-stream"
HEAD_BYTES: Final = 16
"""Only this many bytes are examined."""

_SIGNATURES: Final = (
    ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ("image/gif", re.compile(rb"GIF8[79]a")),
    ("image/webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("application/pdf", re.compile(rb"%PDF-")),
)
_SIGNED: Final = frozenset(media_type for media_type, _ in _SIGNATURES)
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
_OTHER_NAMES: Final = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "application/x-pdf": "application/pdf"}


def media_type_of(head: bytes, claimed: str | None) -> str:
    """`head`: the first HEAD_BYTES of the content. A claimed type that these bytes contradict is not used."""
    by_signature = signed_type(head)
    if by_signature is not None:
        return by_signature
    plain = plain_type(claimed or "")
    return OCTETS if plain is None or plain in _SIGNED else plain


def contradicts(head: bytes, claimed: str) -> bool:
    """Whether the first bytes show that the content is not of the claimed type. `claimed`: as `plain_type` returns it."""
    by_signature = signed_type(head)
    return by_signature != claimed if claimed in _SIGNED else by_signature is not None and claimed != OCTETS


def signed_type(head: bytes) -> str | None:
    """The type that the first bytes belong to. None if they do not say."""
    return next((media_type for media_type, signature in _SIGNATURES if signature.match(head)), None)


def plain_type(text: str) -> str | None:
    """The media type without parameters, in lower case. None if `text` has another form."""
    name = text.partition(";")[0].strip(" \t").lower()
    name = _OTHER_NAMES.get(name, name)
    return name if _MEDIA_TYPE.fullmatch(name) else None
