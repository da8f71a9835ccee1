"""Small contents of several types."""

import base64
import os
import zlib
from typing import Any

PDF = b"%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <<>>\n%%EOF\n"


def png(size: int = 100, *, seed: bytes | None = None) -> bytes:
    """A PNG of one pixel. After its end come `seed`, or random bytes up to `size` bytes in all."""
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", bytes.fromhex("00000001000000010800000000"))
    image = head + _chunk(b"IDAT", zlib.compress(b"\0\0")) + _chunk(b"IEND", b"")
    return image + (seed or os.urandom(max(size - len(image), 0)))


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def with_image(**image: Any) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "input_image", "detail": "low", **image}
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is it?"}, part]}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
