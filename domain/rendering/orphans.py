"""Calls without an output and outputs without a call, which no provider takes."""

from collections.abc import Sequence

from domain.items import Item, type_of
from domain.rendering.pairs import is_call, pairs


def orphans(items: Sequence[Item]) -> dict[int, str]:
    """The items without the other half of their pair, by index: `orphaned_call` or `orphaned_output`.

    A call whose output comes before it is an orphan, and so is that output.
    """
    paired = pairs(items)
    whole = paired.keys() | set(paired.values())
    return {
        index: "orphaned_call" if is_call(item) else "orphaned_output"
        for index, item in enumerate(items)
        if index not in whole and (is_call(item) or type_of(item).endswith("_call_output"))
    }
