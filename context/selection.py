"""Chooses which part of a conversation a model is shown. Pure: token counts come from outside.

A turn starts with a user's message and runs to the next one. The newest whole turns are shown, as a window on the path's end: a turn is never
cut, and a call is never separated from its output. Pinned items of older turns are shown too: a pinned call with its output, and a
pinned output with its call. Items that the renderer cannot send are not counted. `left_out` names them.

A window begins as early as the budget allows, or it is stable: it begins where the window of the last request began, as
long as that fits. Then each request begins like the last one, and the provider's prompt cache has this beginning. When
a request no longer fits, the window moves forward by many turns at once, so that the next requests fit again.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby

from msgspec import Struct

from context.rendering.orphans import pairs
from domain.errors import ContextTooLong
from domain.events import LeftOut
from domain.items import PLAIN_FORMS, Item, in_full, type_of

BUDGET = "budget"
SUMMARIZED = "summarized"
DELETED = "deleted"
"""The reason for items that a fork inherited from a conversation that is deleted now."""

Unsendable = Callable[[Sequence[Item]], Mapping[int, str]]
"""A function that returns which of the items are not sent: the reason by the item's index."""


class ContextItem(Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """An item that may be shown. `tokens`: what it adds to a request. `pinned`: it is shown even if its turn is not.

    `stored`, `form`: the item, mostly in its short form (`in_short`). Pinned items are always in full. `copy_of`: the id of the original, if the item is a copy. `before_gap`: the next item of the path is deleted now.

    A context has thousands of these, and most are decoded from a snapshot. They are encoded as arrays, and the garbage
    collector does not track them. So decoding takes 0.6 times as long.
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
        """The item. If it is in its short form, this is a new dict each time."""
        return in_full(self.stored, self.form) if isinstance(self.stored, str) else self.stored

    @property
    def begins_turn(self) -> bool:
        """As the function `begins_turn`."""
        return begins_turn(PLAIN_FORMS[self.form] if isinstance(self.stored, str) else self.stored)


class ContextInput(Struct, frozen=True, kw_only=True):
    """What there is to choose from, each list oldest first.

    path           consecutive items of the path, up to its last one
    reaches_start  whether no items lie before `path`, except summarized ones. If false, `path` may begin within a turn
    unread         how many items lie before `path`, without pinned and summarized ones. Deleted ones are counted: only depths are known
    pins           pinned items before `path`, and the calls and outputs that belong to them
    input          the new items of the request
    base_tokens    tokens of what is sent in any case: instructions, summary, tools, answer format
    summarized     what the summary replaces
    lost           in a fork: the inherited items that are gone, because their conversation was deleted
    input_unknown  there is no input yet, so the window may be empty
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
    """A window that begins where the window of the last request began, as long as the request fits in the budget.

    `refill`: a window that moves starts at the first turn with which the request fills at most this part (0 to 1) of the
    budget. If there is no such turn, it starts at the last one.
    `first_depth`: the depth at which the last request's window began. None: there is no such request, or the summary has changed since.
    """

    refill: float
    first_depth: int | None = None


class Selection(Struct, frozen=True, kw_only=True):
    """What is shown: `pins` of older turns, then `window`, the end of the path.

    `sent`: the items of `pins`, `window` and the input, without those that cannot be sent. `left_out`: what is not sent, and why.
    `tokens`: the tokens of `sent`, plus `base_tokens`.
    """

    pins: tuple[ContextItem, ...]
    window: tuple[ContextItem, ...]
    sent: tuple[ContextItem, ...]
    left_out: tuple[LeftOut, ...]
    tokens: int


def begins_turn(item: Item) -> bool:
    """Whether a turn starts with this item."""
    return item.get("role") == "user" and type_of(item) == "message"


def select(
    context_input: ContextInput, budget: int, unsendable: Unsendable, stable: StableWindow | None = None
) -> Selection:
    """Selects the newest whole turns that fit in `budget` tokens together with `base_tokens`. Without `stable`, as many as fit.

    Raises ContextTooLong if the newest turn and the pinned items do not fit. The newest turn is the input. If the input has no user
    message, the newest turn is the last turn of the path and the input together.
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
    limited = (
        ((start, budget) for start in starts) if stable is None else _limited(context_input, starts, budget, stable)
    )
    for next_start, limit in limited:
        tokens -= sum(sizes[start:next_start])
        start = next_start
        if tokens <= limit:
            # If every item can be sent and there are no calls and outputs, no window can separate a call from its output: no check is needed.
            check = unsendable if unsent or calls else None
            selection = _selection(context_input, start, always_sent, unsent, check, tokens=tokens)
            if selection.tokens <= limit:
                return selection
    # If the window can start nowhere, the newest turn began before `path`, and `path` alone is larger than the budget.
    raise ContextTooLong(max(tokens, budget + 1), budget)


def _limited(
    context_input: ContextInput, starts: Iterable[int], budget: int, stable: StableWindow
) -> Iterator[tuple[int, int]]:
    """The indices at which a stable window may start, the best first, each with a limit for the request's tokens.

    The first is the start of the last request's window, or the path's start if there is no such window. From this start,
    if `path` reaches back to it, the request may fill the budget. From later starts, it may fill only the `refill` part, which leaves room to grow. The
    last start comes a second time: from there, the request may fill the budget.
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
    """The indices in `path` at which the window may start, ascending. The length of `path` means an empty window."""
    everything = [*context_input.pins, *context_input.path, *context_input.input]
    others = _others(everything)
    unsent = _unsent(others, unsendable)
    calls = _sent_pairs(others, unsent)
    always_sent = _always_sent(everything, others, calls, unsent)
    return [start - len(context_input.pins) for start in _window_starts(context_input, everything, calls, always_sent)]


def _others(items: Sequence[ContextItem]) -> list[tuple[int, Item]]:
    """(index, item) of all items but those in their short form: a plain message is always sent, and it is no call and no output."""
    return [(index, item.item) for index, item in not_plain(items)]


def not_plain(items: Sequence[ContextItem]) -> list[tuple[int, ContextItem]]:
    """(index, item) of the items that are not in their short form. Mostly there are none, so this is checked first."""
    if not [item for item in items if not item.form]:
        return []
    return [(index, item) for index, item in enumerate(items) if not item.form]


def _unsent(others: Sequence[tuple[int, Item]], unsendable: Unsendable) -> dict[int, str]:
    """Which of `others` are not sent: the reason by the item's index."""
    return {others[n][0]: reason for n, reason in unsendable([item for _, item in others]).items()}


def _sent_pairs(others: Sequence[tuple[int, Item]], unsent: Mapping[int, str]) -> list[tuple[int, int]]:
    """The indices (call, output) of each pair whose call and output are both sent."""
    found = [(others[call][0], others[output][0]) for call, output in pairs([item for _, item in others])]
    return [pair for pair in found if not unsent.keys() & set(pair)]


def _always_sent(
    everything: Sequence[ContextItem],
    others: Sequence[tuple[int, Item]],
    calls: Sequence[tuple[int, int]],
    unsent: Collection[int],
) -> frozenset[int]:
    """The indices of items that are sent wherever the window starts: pinned items, and the calls and outputs that belong to them."""
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
    """The indices in `items` at which the window may start, ascending. An iterator, because `select` mostly needs only the first few."""
    first = len(context_input.pins)
    end = first + len(context_input.path)
    # splits[start]: how many pairs a window that starts at `start` would split. Of a split pair, only the output is in the window.
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
    """The selection of a window that starts at `start`. `unsendable`: None if all items are sent, wherever the window starts.

    In that case, `tokens` is the number of tokens of the selection.
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
    """The items that are left out, as ranges. Neighbours with the same reason form one range.

    Items without a reason are sent.
    """
    ranges: list[LeftOut] = []
    for reason, group in groupby(reasons, key=lambda item_and_reason: item_and_reason[1]):
        if reason is not None:
            ids = [item.item_id for item, _ in group]
            ranges.append(LeftOut(reason=reason, first=ids[0], last=ids[-1], count=len(ids)))
    return ranges
