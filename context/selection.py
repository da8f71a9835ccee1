"""Chooses which part of a conversation a model is shown.

Pure.

A turn starts with a user's message and ends before the next user's message. The newest whole turns are
shown, as a window on the path's end. A call is never separated from its output. Pinned items of older turns are shown too, with their calls and
outputs.

A window begins as early as the budget allows, or it is stable. A stable window begins where the last request's window
began. So the provider's prompt cache has the request's beginning. If a request no longer fits, the window moves
forward by many turns at once, so that the next requests fit.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby

from msgspec import Struct

from context.rendering.orphans import pairs
from domain.content_references import inline_length
from domain.errors import ContentsTooLarge, ContextTooLong
from domain.events import LeftOut
from domain.items import PLAIN_FORMS, Item, in_full, type_of

BUDGET = "budget"
SUMMARIZED = "summarized"
DELETED = "deleted"

Unsendable = Callable[[Sequence[Item]], Mapping[int, str]]


class ContextItem(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """An item that a model may be shown.

    `pinned`: shown even if its turn is not. `stored`, `form`: mostly the short form (`in_short`); a pinned item is in
    full. `copy_of`: the id of the original, if this is a copy. `before_gap`: the next item of the path was found
    deleted.

    A context has thousands of these. As arrays, and without the garbage collector, decoding takes 0.6 times as long.
    """

    item_id: str
    stored: str | Item
    tokens: int
    depth: int = 0
    form: int = 0
    copy_of: str | None = None
    pinned: bool = False
    before_gap: bool = False

    @property
    def item(self) -> Item:
        """For the short form, this is a new dict each time."""
        return in_full(self.stored, self.form) if isinstance(self.stored, str) else self.stored

    @property
    def begins_turn(self) -> bool:
        return begins_turn(PLAIN_FORMS[self.form] if isinstance(self.stored, str) else self.stored)


class ContextInput(Struct, frozen=True, kw_only=True):
    """What a selection is made from.

    `reaches_start`: only summarized items lie before `path`. If false, `path` may begin within a turn. `unread`: how
    many items lie before `path`, without pinned and summarized ones, but with deleted ones. `pins`: pinned items before
    `path`, with their calls and outputs. `lost`: inherited items whose conversation was deleted. `input_unknown`: there
    is no input yet, so the window may be empty.
    """

    path: Sequence[ContextItem]
    input: Sequence[ContextItem] = ()
    pins: Sequence[ContextItem] = ()
    base_tokens: int = 0
    reaches_start: bool = True
    unread: int = 0
    summarized: LeftOut | None = None
    lost: Sequence[LeftOut] = ()
    input_unknown: bool = False


class StableWindow(Struct, frozen=True, kw_only=True):
    """A moved window starts at the first turn with which the request has at most `refill` (0 to 1) times the budget.

    If there is no such turn, the window starts at the last turn. `first_depth`: where the last request's window began.
    None: there was no request, or the summary has changed.
    """

    refill: float
    first_depth: int | None = None


class Selection(Struct, frozen=True, kw_only=True):
    pins: tuple[ContextItem, ...]
    window: tuple[ContextItem, ...]
    sent: tuple[ContextItem, ...]
    left_out: tuple[LeftOut, ...]
    tokens: int


def begins_turn(item: Item) -> bool:
    return item.get("role") == "user" and type_of(item) == "message"


def select(
    context_input: ContextInput,
    budget: int,
    unsendable: Unsendable,
    stable: StableWindow | None = None,
    max_content_length: int | None = None,
) -> Selection:
    """Selects the newest whole turns that fit in `budget`, and whose images and files have at most `max_content_length` characters.

    Raises ContextTooLong if the newest turn and the pinned items do not fit in the budget, and ContentsTooLarge.
    """
    everything = [*context_input.pins, *context_input.path, *context_input.input]
    others = _others(everything)
    unsent = _unsent(others, unsendable)
    calls = _sent_pairs(others, unsent)
    always_sent = _always_sent(everything, others, calls, unsent)
    sizes = [context_item.tokens for context_item in everything]
    for index in unsent:
        sizes[index] = 0
    total = context_input.base_tokens + sum(sizes)
    for index in always_sent:
        sizes[index] = 0
    start = len(context_input.pins)
    tokens = total - sum(sizes[:start])  # what is sent if the window starts at `start`
    starts = _window_starts(context_input, everything, calls, always_sent)
    if max_content_length is not None and (contents := _content_lengths(others, unsent)):
        starts = _within(max_content_length, contents, always_sent, starts)
    limited = (
        ((start, budget) for start in starts) if stable is None else _limited(context_input, starts, budget, stable)
    )
    for next_start, limit in limited:
        tokens -= sum(sizes[start:next_start])
        start = next_start
        if tokens <= limit:
            # Without calls and unsendable items, no window needs this check.
            check = unsendable if unsent or calls else None
            selection = _selection(context_input, start, always_sent, unsent, check, tokens=tokens)
            if selection.tokens <= limit:
                return selection
    # If the window can start nowhere, `path` alone is larger than the budget.
    raise ContextTooLong(max(tokens, budget + 1), budget)


def _content_lengths(others: Sequence[tuple[int, Item]], unsent: Collection[int]) -> dict[int, int]:
    lengths = ((index, inline_length(item)) for index, item in others if index not in unsent)
    return {index: length for index, length in lengths if length}


def _within(
    max_content_length: int, contents: Mapping[int, int], always_sent: Collection[int], starts: Iterable[int]
) -> Iterator[int]:
    """The starts of windows whose contents are not too long. Raises ContentsTooLarge if the contents of every window are too long."""
    is_found: bool | None = None
    for start in starts:
        is_found = is_found or False
        sent = (length for index, length in contents.items() if index >= start or index in always_sent)
        if sum(sent) <= max_content_length:
            is_found = True
            yield start
    if is_found is False:
        raise ContentsTooLarge(max_content_length)


def _limited(
    context_input: ContextInput, starts: Iterable[int], budget: int, stable: StableWindow
) -> Iterator[tuple[int, int]]:
    """(index, limit of tokens) of each possible start of a stable window, the best first.

    A window that has not moved may fill the budget. A moved window may fill only the `refill` part, which leaves
    room to grow. If no window fits, the final start is tried again with the whole budget.
    """
    first = 0
    stands = context_input.reaches_start
    if stable.first_depth is not None:
        path = context_input.path
        first = len(context_input.pins) + bisect_left(path, stable.first_depth, key=lambda item: item.depth)
        stands = context_input.reaches_start or (bool(path) and stable.first_depth >= path[0].depth)
    refilled = int(budget * stable.refill)
    last: int | None = None
    for last in starts:
        if last >= first:
            yield last, budget if stands else refilled
            stands = False
    if last is not None:
        yield last, budget


def window_starts(context_input: ContextInput, unsendable: Unsendable) -> list[int]:
    """The indexes in `path` at which a window may start."""
    everything = [*context_input.pins, *context_input.path, *context_input.input]
    others = _others(everything)
    unsent = _unsent(others, unsendable)
    calls = _sent_pairs(others, unsent)
    always_sent = _always_sent(everything, others, calls, unsent)
    return [start - len(context_input.pins) for start in _window_starts(context_input, everything, calls, always_sent)]


def _others(items: Sequence[ContextItem]) -> list[tuple[int, Item]]:
    return [(index, item.item) for index, item in not_plain(items)]


def not_plain(items: Sequence[ContextItem]) -> list[tuple[int, ContextItem]]:
    """(index, item) of each item that is not in the short form."""
    if not [item for item in items if not item.form]:
        return []
    return [(index, item) for index, item in enumerate(items) if not item.form]


def _unsent(others: Sequence[tuple[int, Item]], unsendable: Unsendable) -> dict[int, str]:
    return {others[n][0]: reason for n, reason in unsendable([item for _, item in others]).items()}


def _sent_pairs(others: Sequence[tuple[int, Item]], unsent: Mapping[int, str]) -> list[tuple[int, int]]:
    found = [(others[call][0], others[output][0]) for call, output in pairs([item for _, item in others])]
    return [pair for pair in found if not unsent.keys() & set(pair)]


def _always_sent(
    everything: Sequence[ContextItem],
    others: Sequence[tuple[int, Item]],
    calls: Sequence[tuple[int, int]],
    unsent: Collection[int],
) -> frozenset[int]:
    indices = {index for index, _ in others if everything[index].pinned and index not in unsent}
    for pair in calls:
        if indices & set(pair):
            indices |= set(pair)
    return frozenset(indices)


def _window_starts(
    context_input: ContextInput,
    items: Sequence[ContextItem],
    calls: Sequence[tuple[int, int]],
    always_sent: Collection[int],
) -> Iterator[int]:
    """An iterator, because `select` mostly needs only the first few."""
    first = len(context_input.pins)
    end = first + len(context_input.path)
    # splits[start]: how many pairs a window that starts at `start` would split.
    changes = [0] * (end + 2)
    for call, output in calls:
        if call not in always_sent and call < end:
            changes[call + 1] += 1
            changes[min(output, end) + 1] -= 1
    splits = list(accumulate(changes)) if calls else changes
    for index in range(first, end + 1):
        if index == first and context_input.reaches_start:
            begins = True
        elif index == end:
            begins = context_input.input_unknown or any(item.begins_turn for item in items[end:])
        else:
            begins = items[index].begins_turn
        if begins and not splits[index]:
            yield index


def _selection(
    context_input: ContextInput,
    start: int,
    always_sent: Collection[int],
    unsent: Mapping[int, str],
    unsendable: Unsendable | None,
    *,
    tokens: int,
) -> Selection:
    """`unsendable`: None if all items are sent, wherever the window starts.

    Then `tokens` is the selection's number of tokens.
    """
    everything = [*context_input.pins, *context_input.path]
    before_window, window = everything[:start], everything[start:]
    pins = [item for index, item in enumerate(before_window) if index in always_sent]
    unsent_pins = [(item, unsent[index]) for index, item in enumerate(before_window) if item.pinned and index in unsent]
    shown = [*pins, *window, *context_input.input]
    unsent_shown = _unsent(_others(shown), unsendable) if unsendable else {}
    sent = (
        tuple(item for index, item in enumerate(shown) if index not in unsent_shown) if unsent_shown else tuple(shown)
    )
    left_out = [context_input.summarized] if context_input.summarized else []
    left_out += context_input.lost
    first = len(context_input.pins)
    over_budget = [
        item for index, item in enumerate(before_window[first:], first) if index not in always_sent and not item.pinned
    ]
    if over_budget or not context_input.reaches_start:
        left_out.append(
            LeftOut(
                reason=BUDGET,
                first=over_budget[0].item_id if context_input.reaches_start else None,
                last=over_budget[-1].item_id if over_budget else None,
                count=context_input.unread + len(over_budget),
            )
        )
    left_out += _ranges(unsent_pins)
    if unsent_shown:
        left_out += _ranges([(item, unsent_shown.get(index)) for index, item in enumerate(shown)])
    return Selection(
        pins=tuple(pins),
        window=tuple(window),
        sent=sent,
        left_out=tuple(left_out),
        tokens=context_input.base_tokens + sum(item.tokens for item in sent) if unsendable else tokens,
    )


def _ranges(reasons: Sequence[tuple[ContextItem, str | None]] | Sequence[tuple[ContextItem, str]]) -> list[LeftOut]:
    ranges: list[LeftOut] = []
    for reason, group in groupby(reasons, key=lambda item_and_reason: item_and_reason[1]):
        if reason is not None:
            ids = [item.item_id for item, _ in group]
            ranges.append(LeftOut(reason=reason, first=ids[0], last=ids[-1], count=len(ids)))
    return ranges
