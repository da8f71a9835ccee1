"""Which texts may name a tenant or a subject."""

import re
from typing import Final

MAX_SUBJECT_BYTES: Final = 255
_TENANT: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_tenant(name: object) -> bool:
    """The name is part of keys in every database."""
    return isinstance(name, str) and _TENANT.fullmatch(name) is not None


def is_subject(name: object) -> bool:
    if not isinstance(name, str) or _CONTROL.search(name):
        return False
    try:
        return 0 < len(name.encode()) <= MAX_SUBJECT_BYTES
    except UnicodeEncodeError:  # JSON can have half of a surrogate pair, UTF-8 cannot
        return False
