"""What a model is told to summarize, and in which portions. Pure; counts come from outside.

A summary stands for the path's items from the first on, to the end of a turn. What is longer than a portion is summarized
in several, each with the summary of all before it.
"""

import re
from collections.abc import Callable, Sequence

from context.rendering import counted_text
from context.rendering.orphans import call_key, is_output, pairs
from context.selection import ContextInput, Unsendable, begins_turn, turns_from
from domain.items import Item, text_of, type_of

PROMPT = (
    "You keep the memory of a conversation. Write one summary of what you are given: the summary so far, if there is one, and "
    "what was said after it. Keep names, numbers, dates, decisions, open questions and what the user wants; leave out "
    "pleasantries. Write plain sentences about the people in it, in the language of the conversation. Answer with the summary alone."
)
SO_FAR = "The summary so far:\n"
AFTER = "What was said after it:\n"

_SENTENCE = re.compile(r"[.!?](?=\s)|[。！？\n]")  # noqa: RUF001 - they end sentences


def transcript(item: Item) -> str:
    """An item as it stands in what is to be summarized; empty where it says nothing."""
    if type_of(item) == "message":
        text = text_of(item).strip()
        return f"{item['role']}: {text}" if text else ""
    if call_key(item) is not None:
        return f"{'output of the tool' if is_output(item) else 'tool called'}: {counted_text(item)}"
    return ""


def kept_from(known: ContextInput, always: int, room: int, unsendable: Unsendable) -> int | None:
    """The depth of the first item that stays as it is, where the newest turns shall fill `room` tokens with all else that is sent.

    The newest turn stays in any case. `always`: as in `known`, without the old summary. None where a turn began that far back that it is not known.
    """
    starts = turns_from(known, unsendable)
    if not starts:
        return None
    taken = always + sum(each.tokens for each in (*known.pins, *known.input))
    chosen = starts[-1]
    for start in reversed(starts):
        if taken + sum(each.tokens for each in known.path[start:]) > room:
            break
        chosen = start
    if chosen < len(known.path):
        return known.path[chosen].depth
    return known.path[-1].depth + 1 if known.path else None


def portions(items: Sequence[Item], sizes: Sequence[int], room: int) -> list[int]:
    """Where each portion of `items` ends: as many as fit in `room` tokens, one at least, whole turns where that is possible."""
    ends: list[int] = []
    begin = 0
    while begin < len(items):
        end, size = begin + 1, sizes[begin]
        while end < len(items) and size + sizes[end] <= room:
            size += sizes[end]
            end += 1
        if end < len(items):
            end = next((at for at in range(end, begin, -1) if begins_turn(items[at])), end)
        ends.append(end)
        begin = end
    return ends


def may_end(items: Sequence[Item], end: int) -> bool:
    """Whether a summary may stand for the items before `end`: a turn begins there, or nothing follows, and no call is parted from its output."""
    if end < len(items) and not begins_turn(items[end]):
        return False
    return not any(call < end <= output for call, output in pairs(items))


def bounded(text: str, most: int, count: Callable[[str], int]) -> str:
    """The text, or as much of its beginning as `most` tokens hold: whole sentences if half of it are, else whole words."""
    text = text.strip()
    if count(text) <= most:
        return text
    low, high = 0, min(len(text), 8 * most)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= most:
            low = middle
        else:
            high = middle - 1
    part = text[:low]
    ends = [found.end() for found in _SENTENCE.finditer(part)]
    if ends and ends[-1] > low // 2:
        return part[: ends[-1]].strip()
    word = part.rstrip().rfind(" ")
    return (part[:word] if word > low // 2 else part).strip()


def shortened(text: str, most: int, count: Callable[[str], int]) -> str:
    """The text, or its beginning and its end where it is longer than `most` tokens: no portion may be filled by one item."""
    if count(text) <= most:
        return text
    half = max(1, most // 2 - 4)
    begin = bounded(text, half, count)
    return f"{begin} […] {bounded(text[-4 * half :], half, count)}"
