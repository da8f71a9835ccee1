"""Which texts may be the name of a tenant, or of a subject. The same rules hold for keys, tokens, headers and shares."""

import re
from typing import Final

MAX_SUBJECT_BYTES: Final = 255
_TENANT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_tenant(name: object) -> bool:
    """Whether this is the name of a tenant: 1 to 64 letters, digits, `.`, `_` and `-`. The name is part of the keys of rows and documents in every database."""
    return isinstance(name, str) and _TENANT.fullmatch(name) is not None


def is_subject(name: object) -> bool:
    """Whether this is the name of a subject: 1 to 255 bytes of UTF-8 without control characters."""
    if not isinstance(name, str) or _CONTROL.search(name):
        return False
    try:
        return 0 < len(name.encode()) <= MAX_SUBJECT_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can have it, UTF-8 cannot
        return False
