"""The view `usage`: token and cost totals per tenant, day (UTC), subject, API key, model and partition. They stay when a conversation is deleted.

Each total is kept twice: for one conversation, and for all conversations together (`conversation` is ""). So the usage of a day
is read without reading each conversation. `key`: the id of the API key; "" if there was none, if it is not known, and for summaries and titles.

`cost`: billionths of a US dollar, of the calls whose price was known. `unpriced`: how many calls had no known price.
The subject is the one that requested the reply or the summary, or whose reply led to the title, even if the conversation belongs to another subject.
"""

from collections.abc import Iterator
from datetime import UTC

from domain.events import ContextCompacted, ConversationDescribed, ReplyCompleted, Usage
from infrastructure.event_log.recorded import Logged
from projections.views.partitions import partition_of
from projections.views.writes import Add, Write, document_key

USAGE_EVENTS = (ReplyCompleted, ContextCompacted, ConversationDescribed)
"""The events whose `usage` is counted, if they have one."""


def usage_writes(logged: Logged) -> Iterator[Write]:
    """The increments that one event makes to the totals."""
    event = logged.event
    if not isinstance(event, USAGE_EVENTS) or event.usage is None:
        return
    date, partition = logged.recorded_at.astimezone(UTC).date().isoformat(), partition_of(logged.conversation_id)
    amounts = {"replies": int(isinstance(event, ReplyCompleted)), "summaries": int(isinstance(event, ContextCompacted))}
    if isinstance(event, ConversationDescribed):  # most documents count no titles
        amounts["titles"] = 1
    amounts |= {name: getattr(event.usage, name) for name in Usage.__struct_fields__}
    amounts["cost"] = event.cost or 0
    if isinstance(event, ReplyCompleted) and event.prefix_tokens:  # documents of older events do not have this field
        amounts["prefix_tokens"] = event.prefix_tokens
    amounts["unpriced"] = int(event.cost is None)
    subject = logged.subject
    key_id = (event.key_id or "") if isinstance(event, ReplyCompleted) else ""
    for conversation in ("", logged.conversation_id):
        # Without the lengths, two keys could be equal: a subject and a model's name may contain colons.
        parts = f"{date}:{partition}:{conversation}:{key_id}:{len(subject)}:{subject}:{event.model}"
        key = document_key(logged.tenant, parts)
        document = {
            "_id": key,
            "tenant": logged.tenant,
            "conversation": conversation,
            "date": date,
            "subject": subject,
            "key": key_id,
            "model": event.model,
            "bucket": partition,
        }
        yield Add("usage", key, document, amounts, logged.position)
