"""Which part of a conversation a model is shown. Pure; counts come from outside, and the same input gives the same selection.

A turn begins with a user's message and runs to the next one, so that an answer stays with its question. The newest whole
turns that fit are shown: a turn is never cut, a call never parted from its output. Pinned items of older turns are shown too,
with the other half of a pinned call or output. What the renderer can not send is not sent, not counted, and named.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate, groupby

from msgspec import Struct
from msgspec.structs import replace

from context.rendering.orphans import pairs
from domain.errors import ContextTooLong
from domain.events import LeftOut
from domain.items import Item, type_of

BUDGET = "budget"
SUMMARIZED = "summarized"

Unsendable = Callable[[Sequence[Item]], Mapping[int, str]]
"""Which of the items to send are not sent, by index, and why."""


def _nothing(_: Sequence[Item]) -> Mapping[int, str]:
    """Which are not sent, where all are."""
    return {}


class ContextItem(Struct, frozen=True, kw_only=True):
    """An item that could be shown. `tokens` is what it adds to a request; `pinned`: it is shown whatever else fits."""

    item_id: str
    item: Item
    tokens: int
    depth: int = 0
    pinned: bool = False


class ContextInput(Struct, frozen=True, kw_only=True):
    """What there is to choose from, each oldest first.

    `path` are consecutive items up to the path's last, `whole` says that nothing but what is summarized lies before them, else
    the items before the first beginning of a turn are a part of one. `pins` are pinned items before `path`, and their other
    halves. `input` is new. `always` are the tokens of what is sent in any case: instructions, summary, tools. `summarized` is
    what the summary stands for. `open`: what will be asked is not known yet.
    """

    path: Sequence[ContextItem]
    input: Sequence[ContextItem] = ()
    pins: Sequence[ContextItem] = ()
    always: int = 0
    reaches_start: bool = True
    summarized: LeftOut | None = None
    open: bool = False


class Selection(Struct, frozen=True, kw_only=True):
    """What is shown: `pins` of older turns, then `window`, the path's end. `sent` are those of both and of the input that are sent.

    `left_out` says what is not, and why; `tokens` counts all that is sent.
    """

    pins: tuple[ContextItem, ...]
    window: tuple[ContextItem, ...]
    sent: tuple[ContextItem, ...]
    left_out: tuple[LeftOut, ...]
    tokens: int


def begins_turn(item: Item) -> bool:
    """Whether a turn begins with this item."""
    return item.get("role") == "user" and type_of(item) == "message"


def select(known: ContextInput, budget: int, unsendable: Unsendable) -> Selection:
    """The newest whole turns that fit in `budget` tokens beside what is always sent.

    Raises ContextTooLong when not even the newest turn does: all the input, and where that has no user's message, the turn of
    the path that it goes on with.
    """
    everything = [*known.pins, *known.path, *known.input]
    items = [each.item for each in everything]
    unsent = unsendable(items)
    together = _together(items, unsent)
    kept = _kept(everything, together, unsent)
    sizes = [each.tokens for each in everything]
    for index in unsent:
        sizes[index] = 0
    total = known.always + sum(sizes)
    # How much of it is not sent when the window begins at an index: those before it, but for those that are kept.
    for index in kept:
        sizes[index] = 0
    skipped = [0, *accumulate(sizes)]
    start = len(known.pins)
    for start in _starts(known, items, together, kept):
        if total - skipped[start] <= budget:
            # Where all is sent, and nothing belongs together, there is no call that a part of it could have without its output.
            again = unsendable if unsent or together else _nothing
            chosen = _selection(known, start, kept, unsent, again)
            if chosen.tokens <= budget:
                return chosen
    # Where the beginning of the newest turn is not even known, it is longer than what fits.
    raise ContextTooLong(max(total - skipped[start], budget + 1), budget)


def turns_from(known: ContextInput, unsendable: Unsendable) -> list[int]:
    """Where in `known.path` the window may begin, ascending; its length where it may be empty."""
    everything = [*known.pins, *known.path, *known.input]
    items = [each.item for each in everything]
    unsent = unsendable(items)
    together = _together(items, unsent)
    kept = _kept(everything, together, unsent)
    return [start - len(known.pins) for start in _starts(known, items, together, kept)]


def _together(items: Sequence[Item], unsent: Mapping[int, str]) -> list[tuple[int, int]]:
    """The indices of calls and their outputs, where both are sent."""
    return [pair for pair in pairs(items) if not unsent.keys() & set(pair)]


def _kept(
    everything: Sequence[ContextItem], together: Sequence[tuple[int, int]], unsent: Collection[int]
) -> frozenset[int]:
    """The indices of those that are sent wherever the window begins: pinned ones, and the other half of each."""
    kept = {index for index, each in enumerate(everything) if each.pinned and index not in unsent}
    for pair in together:
        if kept & set(pair):
            kept |= set(pair)
    return frozenset(kept)


def _starts(
    known: ContextInput, items: Sequence[Item], together: Sequence[tuple[int, int]], kept: Collection[int]
) -> Iterator[int]:
    """The indices of all items at which the window may begin, ascending: one of the first few is as a rule the one."""
    first = len(known.pins)
    end = first + len(known.path)
    parted = [0] * (end + 2)
    for call, output in together:
        if call not in kept and call < end:
            parted[call + 1] += 1
            parted[min(output, end) + 1] -= 1
    parts = list(accumulate(parted))
    for index in range(first, end + 1):
        if index == first and known.reaches_start:
            begins = True
        elif index == end:
            begins = known.open or any(map(begins_turn, items[end:]))
        else:
            begins = begins_turn(items[index])
        if begins and not parts[index]:
            yield index


def _selection(
    known: ContextInput, start: int, kept: Collection[int], unsent: Mapping[int, str], unsendable: Unsendable
) -> Selection:
    everything = [*known.pins, *known.path]
    before, window = everything[:start], everything[start:]
    pins = [each for index, each in enumerate(before) if index in kept]
    # A pinned item that can not be sent is named too.
    unsent_pins = [(each, unsent[index]) for index, each in enumerate(before) if each.pinned and index in unsent]
    shown = [*pins, *window, *known.input]
    named = unsendable([each.item for each in shown])
    sent = tuple(each for index, each in enumerate(shown) if index not in named) if named else tuple(shown)
    left_out = [known.summarized] if known.summarized else []
    first = len(known.pins)
    out = [each for index, each in enumerate(before[first:], first) if index not in kept and not each.pinned]
    if out or not known.reaches_start:
        left_out.append(
            LeftOut(
                reason=BUDGET,
                first=out[0].item_id if known.reaches_start else None,
                last=out[-1].item_id if out else None,
                count=len(out) if known.reaches_start else None,
            )
        )
    left_out += _ranges(unsent_pins)
    if named:
        left_out += _ranges([(each, named.get(index)) for index, each in enumerate(shown)])
    return Selection(
        pins=tuple(pins),
        window=tuple(window),
        sent=sent,
        left_out=tuple(left_out),
        tokens=known.always + sum([each.tokens for each in sent]),
    )


def _ranges(reasons: Sequence[tuple[ContextItem, str | None]] | Sequence[tuple[ContextItem, str]]) -> list[LeftOut]:
    """Neighbours that are left out for one reason, as one."""
    found: list[LeftOut] = []
    for reason, group in groupby(reasons, key=lambda each: each[1]):
        if reason is not None:
            ids = [each.item_id for each, _ in group]
            found.append(LeftOut(reason=reason, first=ids[0], last=ids[-1], count=len(ids)))
    return found


def on_record(left_out: Sequence[LeftOut], most: int = 16) -> tuple[LeftOut, ...]:
    """As much of it as an event keeps, however long the conversation is: where there are more than `most`, one for each reason."""
    if len(left_out) <= most:
        return tuple(left_out)
    merged: dict[str, LeftOut] = {}
    for each in left_out:
        held = merged.get(each.reason)
        if held is None:
            merged[each.reason] = each
        else:
            count = None if held.count is None or each.count is None else held.count + each.count
            merged[each.reason] = replace(held, last=each.last, count=count)
    return tuple(merged.values())
