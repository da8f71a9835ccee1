"""Which part of a conversation a model is shown: the newest whole turns that fit. Pure; counts come from outside.

A turn begins with a user's message and runs to the next one, so that an answer stays with its question and a tool's
output with its call. A turn is never cut.
"""

from collections.abc import Sequence

from msgspec import Struct

from domain.errors import ContextTooLong
from domain.items import Item, type_of


class Candidate(Struct, frozen=True, kw_only=True):
    """An item of the path that could be shown. `tokens` is what it adds to a request."""

    item_id: str
    item: Item
    tokens: int


class Selection(Struct, frozen=True, kw_only=True):
    """What is shown, oldest first, and how many of the candidates before it are not. `tokens` counts all that is sent."""

    shown: tuple[Candidate, ...]
    left_out: int
    tokens: int


def begins_turn(item: Item) -> bool:
    """Whether a turn begins with this item."""
    return type_of(item) == "message" and item.get("role") == "user"


def newest_turns(candidates: Sequence[Candidate], *, always: int, asked: int, budget: int, whole: bool) -> Selection:
    """The longest run of whole turns at the end of `candidates` (oldest first) that fits beside what is always sent.

    `always` are the tokens of the instructions, `asked` those of the new input; both are sent whatever happens.
    `whole` says that the candidates begin where the conversation does; else the items before the first beginning of a
    turn are a part of one, and not shown. Raises ContextTooLong when even the new input does not fit.
    """
    needed = always + asked
    if needed > budget:
        raise ContextTooLong(needed, budget)
    start = len(candidates)
    total = needed
    running = needed
    for index in range(len(candidates) - 1, -1, -1):
        running += candidates[index].tokens
        if running > budget:
            break
        if begins_turn(candidates[index].item) or (index == 0 and whole):
            start = index
            total = running
    return Selection(shown=tuple(candidates[start:]), left_out=start, tokens=total)
