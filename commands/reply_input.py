"""Decides which items of a request's `input` are taken. Taken items are shown to the model, and stored unless `store`
is false.

- A reference to an item on the path adds nothing.
- A reference to another item that the caller may read adds a copy. The copy keeps the original id as a client's id.
- An item with an id of our form is left out if the path has this id, also as a client's id.
- An item with such an id is also left out if the item was deleted from the path.
- Outputs of calls that repeat the history are left out, and so are repeated items before such an output.

Copies, clients' ids and repeated items are found only as far back as `context/path_history.py` reads.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from commands.command_route import CommandContext
from commands.given_items import GivenItem, ItemReference
from commands.item_links import LINKING
from commands.path_links import linked_to_path
from commands.readable_items import find_items
from commands.reply_target import ReplyTarget
from commands.response_body import MAX_INPUT_BYTES
from commands.target_context import target_segment
from context.path_history import PathHistory
from context.repeated_history import has_outputs, needs_older, repeated
from domain.commands import NewItem
from domain.events import ItemAppended
from domain.items import Item, as_output, as_stored, from_stored, given_id, id_prefix, type_of
from infrastructure.event_log.recorded import Recorded
from infrastructure.http.errors import ApiError
from infrastructure.ids import is_id, mint


class TakenItem(Struct, frozen=True):
    """An item that is taken. `new`: as it is stored. `item`: decoded. `position`: its index in the request's `input`."""

    new: NewItem
    item: Item
    position: int


class TakenInput(Struct, frozen=True):
    """`is_compared`: the items were compared with the path. If the path changes, the items must be compared again."""

    items: list[TakenItem]
    is_compared: bool


async def take_input(
    context: CommandContext, target: ReplyTarget, given: Sequence[GivenItem], repeated: int = 0
) -> TakenInput:
    """The items to show and to store. `repeated`: how many of the first items the target already has.

    Raises ApiError: 404 for a reference to an unknown item, 413 if the input is too large, 400 if nothing is left to
    send.
    """
    entries = [
        item if isinstance(item, ItemReference) else TakenItem(item, from_stored(item.item), position)
        for position, item in enumerate(given[repeated:], repeated)
    ]
    taken = [entry for entry in entries if isinstance(entry, TakenItem)]
    if len(taken) == len(entries) and not any(_needs_history(entry.item) for entry in taken):
        return TakenInput(taken, is_compared=False)
    history = await _history(context, target)
    taken = await _without_known_ids(context, history, entries, repeated)
    taken = await _without_repeated(history, taken)
    if not taken and entries and not target.carried_items:
        message = "Every item of `input` is already in the conversation, or was deleted from it: send something new, or leave `input` out."
        raise ApiError(400, message, code="input_already_in_conversation", param="input")
    _check_size(taken)
    items = await linked_to_path(history, [(entry.new.item_id, entry.item) for entry in taken])
    changed = [_changed(entry, item) for entry, (_, item) in zip(taken, items, strict=True)]
    return TakenInput(changed, is_compared=True)


def _needs_history(item: Item) -> bool:
    return type_of(item) in LINKING or _our_id(item) is not None


def _our_id(item: Item) -> str | None:
    """The client's id, if it has the form of our ids. Any other id is ignored, because a client may give it to several items."""
    item_id = given_id(item)
    return item_id if item_id is not None and is_id(item_id) else None


async def _history(context: CommandContext, target: ReplyTarget) -> PathHistory:
    reader = context.dependencies.reader
    carried = [(new.item_id, from_stored(new.item)) for new in target.carried_items]
    if target.source is None or target.at is None:
        return PathHistory(reader, None, newer=carried)
    end = await target_segment(context, target)
    if target.fork is not None or target.leaf is not None:
        return PathHistory(reader, end, newer=carried, is_past=target.fork is not None)
    snapshot = target.snapshot or None
    recent = snapshot if snapshot is not None and snapshot.is_at(target.at) else None
    return PathHistory(reader, end, recent, carried)


async def _without_known_ids(
    context: CommandContext, history: PathHistory, entries: Sequence[ItemReference | TakenItem], first: int
) -> list[TakenItem]:
    """The entries that are neither on the path nor deleted from the path. References become copies. Raises ApiError
    (404).
    """
    ids = {entry.item_id if isinstance(entry, ItemReference) else _our_id(entry.item) for entry in entries}
    found = await find_items(context, {item_id for item_id in ids if item_id is not None and is_id(item_id)})
    on_path = {item_id for item_id, appended in found.existing.items() if await history.has(appended)}
    deleted = {item_id for item_id, appended in found.deleted.items() if await history.has(appended)}
    retracted = await history.retracted_by_forks(on_path)
    on_path -= retracted
    deleted |= retracted
    on_path |= {item_id for _, item in history.newer if (item_id := _our_id(item)) is not None}
    # Output items of replies that were not stored have no id from a client.
    on_path |= {item_id for item_id, _ in history.newer}
    taken: list[TakenItem] = []
    for position, entry in enumerate(entries, first):
        item_id = entry.item_id if isinstance(entry, ItemReference) else _our_id(entry.item)
        if item_id is not None and (item_id in on_path or await history.find_given(item_id) is not None):
            continue
        if isinstance(entry, ItemReference):
            appended = None if entry.item_id in deleted else found.readable.get(entry.item_id)
            taken.append(_copy(entry, appended, position))
            on_path.add(entry.item_id)  # a second reference to the same item adds nothing
        elif item_id not in deleted:
            taken.append(entry)
    return taken


def _copy(reference: ItemReference, appended: Recorded | None, position: int) -> TakenItem:
    if appended is None:
        message = f"Item with id {reference.item_id[:64]!r} not found."
        raise ApiError(404, message, code="item_not_found", param=f"{reference.param}.id")
    assert isinstance(appended.event, ItemAppended)
    item = {**from_stored(appended.event.item), "id": reference.item_id}
    copy_of = appended.event.copy_of or reference.item_id
    new = NewItem(item_id=mint(id_prefix(item)), item=as_stored(item), copy_of=copy_of)
    return TakenItem(new, item, position)


async def _without_repeated(history: PathHistory, taken: list[TakenItem]) -> list[TakenItem]:
    items = [entry.item for entry in taken]
    if not has_outputs(items):
        return taken
    while needs_older([item for _, item in history.newest_first], items) and await history.read_older():
        pass
    left_out = repeated([item for _, item in history.newest_first], items)
    return [entry for index, entry in enumerate(taken) if index not in left_out]


def _check_size(taken: Sequence[TakenItem]) -> None:
    if sum(len(as_output(entry.new.item_id, entry.new.item)) for entry in taken) > MAX_INPUT_BYTES:
        message = f"`input` is larger than {MAX_INPUT_BYTES} bytes, with the items that it refers to."
        raise ApiError(413, message, code="request_too_large", param="input")


def _changed(entry: TakenItem, item: Item) -> TakenItem:
    if item is entry.item:
        return entry
    return TakenItem(replace(entry.new, item=as_stored(item)), item, entry.position)
