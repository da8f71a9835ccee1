"""The conversations in a fixed number of buckets: what several projectors share between them (`leases.py`).

A conversation's bucket is in the last byte of its id. A fork gets an id in the bucket of its family, so that all of a family
is one projector's work.
"""

from collections.abc import Iterable, Sequence

BUCKETS = 8
"""How many projectors can share the work at most. A view's positions are kept for each of them."""

ALL_BUCKETS: Sequence[int] = range(BUCKETS)


def bucket_of(conversation_id: str) -> int:
    """The bucket of a conversation."""
    return int(conversation_id[-2:], 16) % BUCKETS


def shares(count: int) -> list[tuple[int, ...]]:
    """The buckets in so many shares of about the same size, none of them empty."""
    number = min(count, BUCKETS)
    return [tuple(range(first, BUCKETS, number)) for first in range(number)]


def idents(views: Iterable[str], buckets: Iterable[int] = ALL_BUCKETS) -> list[str]:
    """The `_id`s of the places of these views in these buckets: `items/3`."""
    wanted = tuple(buckets)
    return [ident(view, bucket) for view in views for bucket in wanted]


def ident(view: str, bucket: int) -> str:
    """The `_id` of a view's place in a bucket."""
    return f"{view}/{bucket}"


def view_of(name: str) -> str:
    """The view of a place's `_id`."""
    return name.partition("/")[0]
