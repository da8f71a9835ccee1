"""An id is a prefix that names the kind, and a UUIDv7 in hex. Minted ids of one kind sort by time."""

import re
from functools import lru_cache
from uuid import UUID

import uuid_utils
from uuid_utils import compat

CONVERSATION = "conv"
RESPONSE = "resp"
COMPLETION = "chatcmpl"
KEY = "key"
FILE = "file"
_FORM = re.compile(rf"(?:[a-z]{{1,12}}_|{FILE}-)[0-9a-f]{{32}}")
_REPLY_FORM = re.compile(rf"(?:{RESPONSE}_|{COMPLETION}-)([0-9a-f]{{32}})")


def mint(prefix: str) -> str:
    """A new id, such as `conv_0192…`."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def mint_file() -> str:
    return f"{FILE}-{uuid_utils.uuid7().hex}"


def mint_in_partition_of(existing_id: str) -> str:
    """A new id in the same partition of the views. The last byte of an id decides the partition."""
    prefix, _, digits = existing_id.rpartition("_")
    return f"{prefix}_{uuid_utils.uuid7().hex[:-2]}{digits[-2:]}"


def mint_uuid() -> UUID:
    """For ids that clients never see."""
    return compat.uuid7()


def is_id(text: str, prefix: str | None = None) -> bool:
    return _FORM.fullmatch(text) is not None and (prefix is None or text.startswith(beginning(prefix)))


def beginning(prefix: str) -> str:
    """What ids of this kind begin with."""
    return f"{prefix}-" if prefix == FILE else f"{prefix}_"


def completion_id(response_id: str) -> str:
    return f"{COMPLETION}-{response_id.rpartition('_')[2]}"


def response_id_of(text: str) -> str | None:
    """Reads ids of responses and of chat completions."""
    match = _REPLY_FORM.fullmatch(text)
    return None if match is None else f"{RESPONSE}_{match[1]}"


@lru_cache(16_384)
def uuid_of(text: str) -> UUID:
    """Cached, because one request asks for the same id several times."""
    return UUID(hex=text[-32:])


def conversation_id(uuid: UUID) -> str:
    return f"{CONVERSATION}_{uuid.hex}"


def minted_seconds(text: str) -> int:
    """Whole seconds since 1970 (UTC). A UUIDv7 begins with 48 bits of milliseconds (RFC 9562, 5.7)."""
    return (uuid_of(text).int >> 80) // 1000


def first_uuid_at(seconds: float) -> UUID:
    """UUIDs that are minted later are greater. `seconds`: since 1970 (UTC)."""
    return UUID(int=int(seconds * 1000) << 80)
