"""The view `usage`: token and cost totals per tenant, day (UTC), subject, API key, model and partition. The totals
stay when a conversation is deleted.

There is a total for each conversation, and one for all conversations together (`conversation` is ""). `key`: the API
key's id, or "". `cost`: billionths of a US dollar. `unpriced`: how many calls had no known price.
"""

from collections.abc import Iterator
from datetime import UTC

from domain.events import ContextCompacted, ConversationDescribed, ReplyCompleted, Usage
from infrastructure.event_log.recorded import Logged
from projections.views.partitions import partition_of
from projections.views.writes import Add, Write, document_key

USAGE_EVENTS = (ReplyCompleted, ContextCompacted, ConversationDescribed)


def usage_writes(logged: Logged) -> Iterator[Write]:
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
        # Without the length, two keys could be equal, because a subject and a model's name may contain colons.
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
