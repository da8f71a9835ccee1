"""Says whether a message that a client sent is a rewritten form of a stored message. Pure.

Some clients add a reminder or search results to a question, and leave these out in later requests. Some add a note to
an answer, or write its calls as text.
"""

from collections.abc import Sequence

from context.transcripts.prefix_hashes import message_hash, text_of_message
from domain.items import Item

MIN_COMMON = 16
"""The stored and the sent text of an answer match if one begins with the other. The shorter one must have this many characters.

If the sent text begins with the stored text, its next character must not be a letter or a digit. If it is a line break or `<`,
the stored text may have any length.
"""


def is_rewritten_question(stored: str, sent: Sequence[Item]) -> bool:
    """Whether one of the two texts contains the other. `stored`: the text of the question on the path."""
    one, other = stored, text_of_message(sent)
    return bool(one and other) and (one in other or other in one)


def is_rewritten_answer(answer: str, stored: Sequence[Item], sent: Sequence[Item]) -> bool:
    """Whether one text begins with the other (MIN_COMMON), or the sent text has the ids of all calls of the answer in place of the calls.

    `answer`: the text of the `stored` items. If the sent message has calls, they must be those of the answer.
    """
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
