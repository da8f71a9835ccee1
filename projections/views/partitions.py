"""The conversations in a fixed number of buckets: what several projectors share between them (`leases.py`).

A conversation's bucket is in the last byte of its id. A fork gets an id in the bucket of its family, so that all of a family
is one projector's work.
"""

from collections.abc import Iterable, Sequence

PARTITIONS = 8
"""How many projectors can share the work at most. A view's positions are kept for each of them."""

ALL_PARTITIONS: Sequence[int] = range(PARTITIONS)


def partition_of(conversation_id: str) -> int:
    """The bucket of a conversation."""
    return int(conversation_id[-2:], 16) % PARTITIONS


def shares(count: int) -> list[tuple[int, ...]]:
    """The buckets in so many shares of about the same size, none of them empty."""
    number = min(count, PARTITIONS)
    return [tuple(range(first, PARTITIONS, number)) for first in range(number)]


def idents(views: Iterable[str], partitions: Iterable[int] = ALL_PARTITIONS) -> list[str]:
    """The `_id`s of the places of these views in these buckets: `items/3`."""
    wanted = tuple(partitions)
    return [ident(view, partition) for view in views for partition in wanted]


def ident(view: str, partition: int) -> str:
    """The `_id` of a view's place in a bucket."""
    return f"{view}/{partition}"


def view_of(name: str) -> str:
    """The view of a place's `_id`."""
    return name.partition("/")[0]
