"""Conversations are divided into partitions, so that several projectors share the work.

The last byte of a conversation's id gives its partition. A fork's id is minted in the partition of its family, so one
projector handles the whole family.
"""

from collections.abc import Iterable, Sequence

PARTITIONS = 8
"""At most this many projectors can share the work. A view has one position per partition."""

ALL_PARTITIONS: Sequence[int] = range(PARTITIONS)


def partition_of(conversation_id: str) -> int:
    return int(conversation_id[-2:], 16) % PARTITIONS


def split_partitions(count: int) -> list[tuple[int, ...]]:
    """Divides the partitions into at most `count` groups."""
    groups = min(count, PARTITIONS)
    return [tuple(range(first, PARTITIONS, groups)) for first in range(groups)]


def position_keys(views: Iterable[str], partitions: Iterable[int] = ALL_PARTITIONS) -> list[str]:
    wanted = tuple(partitions)
    return [position_key(view, partition) for view in views for partition in wanted]


def position_key(view: str, partition: int) -> str:
    """Such as `items/3`."""
    return f"{view}/{partition}"


def view_of_key(key: str) -> str:
    return key.partition("/")[0]
