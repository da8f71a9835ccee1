"""Decides what a model is asked to summarize, and in which portions.

A summary replaces the path's items from the first one to the end of a turn. Each portion is sent with the summary of
everything before it.
"""

import re
from collections.abc import Callable, Sequence

from context.item_tokens import counted_text
from context.rendering.orphans import call_key, is_output, pairs
from context.selection import ContextInput, Unsendable, begins_turn, window_starts
from domain.items import Item, text_of, type_of

PROMPT = (
    "You keep the memory of a conversation. Write one summary of what you are given: the summary so far, if there is one, and "
    "what was said after it. Keep names, numbers, dates, decisions, open questions and what the user wants; leave out "
    "pleasantries. Write plain sentences about the people in it, in the language of the conversation. Answer with the summary alone."
)
SO_FAR = "The summary so far:\n"
AFTER = "What was said after it:\n"

_SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？\n]")  # noqa: RUF001 - they end sentences


def transcript(item: Item) -> str:
    """The item as text for the model that summarizes. Empty if it is not a message with text, a call or an output."""
    if type_of(item) == "message":
        text = text_of(item).strip()
        return f"{item['role']}: {text}" if text else ""
    if call_key(item) is not None:
        return f"{'output of the tool' if is_output(item) else 'tool called'}: {counted_text(item)}"
    return ""


def first_kept_depth(
    context_input: ContextInput, base_tokens: int, max_tokens: int, unsendable: Unsendable
) -> int | None:
    """The depth of the first item that a new summary does not cover.

    Keeps as many of the newest turns as fit in `max_tokens`, and at least one. If the input is unknown, possibly
    no turn is kept.
    `base_tokens`: tokens without the old summary. None if no window can start, or if the path is empty.
    """
    starts = window_starts(context_input, unsendable)
    if not starts:
        return None
    path = context_input.path
    other_tokens = base_tokens + sum(item.tokens for item in (*context_input.pins, *context_input.input))
    kept_from = starts[-1]
    for start in reversed(starts):
        if other_tokens + sum(item.tokens for item in path[start:]) > max_tokens:
            break
        kept_from = start
    if kept_from < len(path):
        return path[kept_from].depth
    return path[-1].depth + 1 if path else None


def portions(items: Sequence[Item], sizes: Sequence[int], max_tokens: int) -> list[int]:
    """The index after each portion. If possible, a portion ends where a turn ends. A portion fits in `max_tokens`, or
    is one item.
    """
    ends: list[int] = []
    begin = 0
    while begin < len(items):
        end, size = begin + 1, sizes[begin]
        while end < len(items) and size + sizes[end] <= max_tokens:
            size += sizes[end]
            end += 1
        if end < len(items):
            end = next((index for index in range(end, begin, -1) if begins_turn(items[index])), end)
        ends.append(end)
        begin = end
    return ends


def can_end_at(items: Sequence[Item], end: int) -> bool:
    """Whether a cut at `end` splits neither a turn nor a call from its output."""
    if end < len(items) and not begins_turn(items[end]):
        return False
    return not any(call < end <= output for call, output in pairs(items))


def truncate(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """The first `max_tokens` of the text. Cuts after a sentence or a word if this keeps more than half of the text that
    fits.
    """
    text = text.strip()
    if count(text) <= max_tokens:
        return text
    low, high = 0, min(len(text), 8 * max_tokens)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    beginning = text[:low]
    sentence_ends = [match.end() for match in _SENTENCE_END.finditer(beginning)]
    if sentence_ends and sentence_ends[-1] > low // 2:
        return beginning[: sentence_ends[-1]].strip()
    last_space = beginning.rstrip().rfind(" ")
    return (beginning[:last_space] if last_space > low // 2 else beginning).strip()


def omit_middle(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """Keeps the beginning and a part near the end."""
    if count(text) <= max_tokens:
        return text
    half = max(1, max_tokens // 2 - 4)
    beginning = truncate(text, half, count)
    return f"{beginning} […] {truncate(text[-4 * half :], half, count)}"
