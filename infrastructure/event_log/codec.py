"""Events as bytes. The first byte of a stored state names the format of the rest.

Format byte: bits 0-3 the codec (1: MessagePack map by field name), bits 4-5 the compression (0: none, 1: zstd), bits
6-7 the encryption (0: none). Fields with their default value are left out. Unknown fields are ignored.
"""

import msgspec
import zstandard

from domain.events import BY_TOPIC, Event

_MSGPACK = 0x01
_ZSTD = 0x10
_COMPRESS_FROM = 512
_MAX_STATE_BYTES = 64 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoders = {topic: msgspec.msgpack.Decoder(event) for topic, event in BY_TOPIC.items()}


class UnreadableEvent(Exception):
    """The topic or format is unknown, or the bytes cannot be decoded."""


def encode(event: Event) -> bytes:
    """Raises UnreadableEvent if the state could not be decoded again."""
    body = _encoder.encode(event)
    try:
        _decoders[event.topic].decode(body)
    except msgspec.MsgspecError as error:
        raise UnreadableEvent(f"An event of topic {event.topic!r} could not be read back: {error}") from error
    if len(body) >= _COMPRESS_FROM:
        # A compressor must not be shared between threads. Making one costs a microsecond.
        compressed = zstandard.ZstdCompressor(level=3).compress(body)
        if len(compressed) < len(body):
            return bytes((_MSGPACK | _ZSTD,)) + compressed
    return bytes((_MSGPACK,)) + body


def decode(topic: str, state: bytes) -> Event:
    """Raises UnreadableEvent."""
    decoder = _decoders.get(topic)
    if decoder is None:
        raise UnreadableEvent(f"No event has the topic {topic!r}")
    try:
        match state[0]:
            case 0x01:
                event: Event = decoder.decode(memoryview(state)[1:])
            case 0x11:
                body = zstandard.ZstdDecompressor().decompress(memoryview(state)[1:], max_output_size=_MAX_STATE_BYTES)
                event = decoder.decode(body)
            case unknown:
                raise UnreadableEvent(f"An event of topic {topic!r} has the unknown format {unknown:#04x}")
    except (msgspec.MsgspecError, zstandard.ZstdError, IndexError) as error:
        raise UnreadableEvent(f"An event of topic {topic!r} cannot be read: {error}") from error
    return event


def decoded_size(state: bytes) -> int:
    """About how many bytes a state takes when decompressed."""
    if state[:1] != b"\x11":
        return len(state)
    try:
        return max(len(state), zstandard.frame_content_size(state[1:20]))
    except zstandard.ZstdError:
        return len(state)
