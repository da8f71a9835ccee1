"""Conversations are divided into a fixed number of partitions, so that several projectors share the work (`projections/leases.py`).

The last byte of a conversation's id gives its partition. A fork's id is minted in the partition of its family, so one projector
handles the whole family.
"""

from collections.abc import Iterable, Sequence

PARTITIONS = 8
"""The number of partitions. At most this many projectors can share the work. A view has one position per partition."""

ALL_PARTITIONS: Sequence[int] = range(PARTITIONS)


def partition_of(conversation_id: str) -> int:
    """The partition of a conversation."""
    return int(conversation_id[-2:], 16) % PARTITIONS


def split_partitions(count: int) -> list[tuple[int, ...]]:
    """All partitions in `count` groups of about equal size; in fewer groups if `count` exceeds PARTITIONS, so none is empty."""
    groups = min(count, PARTITIONS)
    return [tuple(range(first, PARTITIONS, groups)) for first in range(groups)]


def position_keys(views: Iterable[str], partitions: Iterable[int] = ALL_PARTITIONS) -> list[str]:
    """The `_id`s of the positions of these views in these partitions."""
    wanted = tuple(partitions)
    return [position_key(view, partition) for view in views for partition in wanted]


def position_key(view: str, partition: int) -> str:
    """The `_id` of a view's position in one partition: `items/3`."""
    return f"{view}/{partition}"


def view_of_key(key: str) -> str:
    """The view in a position's `_id`."""
    return key.partition("/")[0]
