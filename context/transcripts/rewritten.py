"""Says whether a sent message is a rewritten form of a stored one.

Pure. Some clients add a reminder or search results to a question, and leave these out later. Some add a note to an
answer, or write its calls as text.
"""

from collections.abc import Sequence

from context.transcripts.prefix_hashes import message_hash, text_of_message
from domain.items import Item

MIN_COMMON = 16
"""An answer's stored and sent text match if one begins with the other, and the shorter one has at least this length.

An addition in the sent text must not begin with a letter or a digit. If the addition begins with a line break or `<`,
the stored text may have any length.
"""


def is_rewritten_question(stored: str, sent: Sequence[Item]) -> bool:
    """Whether one of the two texts contains the other. `stored`: the question's text on the path."""
    one, other = stored, text_of_message(sent)
    return bool(one and other) and (one in other or other in one)


def is_rewritten_answer(answer: str, stored: Sequence[Item], sent: Sequence[Item]) -> bool:
    """`answer`: the text of `stored`. Sent calls must be the answer's calls."""
    text = text_of_message(sent)
    calls, sent_calls = _calls(stored), _calls(sent)
    if sent_calls and message_hash(sent_calls) != message_hash(calls):
        return False
    if answer and text.startswith(answer):
        added = text[len(answer) :]
        return added.startswith(("\n", "<")) or (len(answer) >= MIN_COMMON and not added[:1].isalnum())
    if len(text) >= MIN_COMMON and answer.startswith(text):
        return True
    return bool(calls) and not sent_calls and all(call["call_id"] in text for call in calls)


def _calls(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.get("call_id")]
