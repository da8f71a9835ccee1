"""Links between items: a field of one item names another item, the target. Pure.

These items have links:

    mcp_approval_response, mcp_call    `approval_request_id`: the id of an `mcp_approval_request`
    outputs of calls                   `call_id`: the `call_id` or the `id` of the call
    outputs without a `call_id`        `id`: the `call_id` or the `id` of the call

A link in a request may hold the client's id of the target. If the target is found, the stored link holds the target's
`call_id`, or our id.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from context.rendering.orphans import CALLS, call_key
from domain.commands import NewItem
from domain.items import Item, as_stored, from_stored, given_id, type_of
from infrastructure.ids import is_id

_APPROVAL_FIELD = "approval_request_id"
_APPROVED = ("mcp_approval_response", "mcp_call")
_CALL_FIELD = "call_id"
_OUTPUTS = tuple(f"{call}_output" for call in CALLS)
_TARGETS = frozenset(("mcp_approval_request", *CALLS))
LINKING = frozenset((*_APPROVED, *_OUTPUTS, *CALLS))
"""Items with a link, and calls, which may get a `call_id`."""


class Link(Struct, frozen=True):
    """The link of one item. `given`: the id or `call_id` of the target, as the client sent it."""

    field: str
    target_type: str
    given: str

    def leads_to(self, item_id: str, item: Item) -> bool:
        return type_of(item) == self.target_type and self.given in _names(item_id, item)

    def changed(self, item: Item, target_id: str, target: Item) -> Item:
        """The item with a link to our id, or to the `call_id`, of the target."""
        if self.field == _APPROVAL_FIELD:
            return {**item, self.field: target_id}
        return {**item, self.field: target.get(_CALL_FIELD) or target_id}


def link_of(item: Item) -> Link | None:
    kind = type_of(item)
    if kind in _APPROVED:
        given = item.get(_APPROVAL_FIELD)
        return Link(_APPROVAL_FIELD, "mcp_approval_request", given) if isinstance(given, str) else None
    if kind in _OUTPUTS:
        key = call_key(item)
        assert key is not None
        return Link(_CALL_FIELD, key[0], key[1]) if key[1] else None
    return None


def linked(items: Sequence[NewItem]) -> tuple[NewItem, ...]:
    """A link to an earlier item of the list is replaced: by that item's `call_id` if it has one, otherwise by our id of
    that item. A link to an approval request is always replaced by our id.

    A call without a `call_id` gets the client's id as its `call_id`.
    """
    pairs = [(new.item_id, from_stored(new.item)) for new in items]
    links = link(pairs)
    return tuple(
        new if item is before else replace(new, item=as_stored(item))
        for new, (_, before), (_, item) in zip(items, pairs, links, strict=True)
    )


def link(items: Sequence[tuple[str, Item]]) -> list[tuple[str, Item]]:
    """As `linked`, for pairs (id, item). An item that does not change stays the same object."""
    targets = _Targets()
    done: list[tuple[str, Item]] = []
    for item_id, item in items:
        changed = _with_call_id(item)
        if (item_link := link_of(item)) is not None and (target := targets.find(item_link)) is not None:
            changed = item_link.changed(item, *target)
        targets.add(item_id, changed)
        done.append((item_id, changed))
    return done


def open_links(items: Sequence[tuple[str, Item]]) -> dict[int, Link]:
    """The links whose target must be looked up on the path, by the index of the item.

    An output's `call_id` is looked up only if it has the form of our ids.
    """
    targets = _Targets()
    links: dict[int, Link] = {}
    for index, (item_id, item) in enumerate(items):
        if (item_link := link_of(item)) is not None and targets.find(item_link) is None:
            if item_link.field == _APPROVAL_FIELD or not item.get(_CALL_FIELD) or is_id(item_link.given):
                links[index] = item_link
        targets.add(item_id, item)
    return links


class _Targets:
    """The possible targets. A match by `call_id` goes before a match by id, and a later item before an earlier item."""

    def __init__(self) -> None:
        self._by_call_id: dict[tuple[str, str], tuple[str, Item]] = {}
        self._by_id: dict[tuple[str, str], tuple[str, Item]] = {}

    def add(self, item_id: str, item: Item) -> None:
        kind = type_of(item)
        if kind not in _TARGETS:
            return
        for name in _names(item_id, item):
            by_name = self._by_call_id if name == item.get(_CALL_FIELD) else self._by_id
            by_name[kind, name] = (item_id, item)

    def find(self, item_link: Link) -> tuple[str, Item] | None:
        name = (item_link.target_type, item_link.given)
        return self._by_call_id.get(name) or self._by_id.get(name)


def _names(item_id: str, item: Item) -> Iterator[str]:
    yield item_id
    for name in (given_id(item), item.get(_CALL_FIELD)):
        if isinstance(name, str):
            yield name


def _with_call_id(item: Item) -> Item:
    """A call without a `call_id` gets the client's id as its `call_id`. The call's output can then name this id."""
    if type_of(item) in CALLS and not item.get(_CALL_FIELD) and (item_id := given_id(item)) is not None:
        return {**item, _CALL_FIELD: item_id}
    return item
