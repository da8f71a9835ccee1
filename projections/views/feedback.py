"""The view `feedback`: one document per feedback. `owner`: the conversation's owner.

A withdrawn feedback keeps its document. The view does not know which items are deleted, so queries ask the log.
"""

from collections.abc import Iterator

from domain.events import FeedbackGiven, FeedbackWithdrawn
from infrastructure.event_log.recorded import Logged
from projections.views.writes import Document, Insert, Update, Write, document_key


def feedback_writes(logged: Logged) -> Iterator[Write]:
    event = logged.event
    match event:
        case FeedbackGiven():
            key = document_key(logged.tenant, event.feedback_id)
            given: Document = {"rating": event.rating, "labels": list(event.labels), "comment": event.comment}
            if event.previous is not None:
                yield Update("feedback", key, given)
                return
            yield Insert(
                "feedback",
                key,
                {
                    "_id": key,
                    "tenant": logged.tenant,
                    "conversation_id": logged.conversation_id,
                    "id": event.feedback_id,
                    "owner": logged.owner,
                    "by": event.by,
                    "item_id": event.item_id,
                    "response_id": event.response_id,
                    "copy_of": event.copy_of,
                    "inherited": event.inherited,
                    "withdrawn": False,
                    **given,
                },
            )
        case FeedbackWithdrawn():
            emptied: Document = {"withdrawn": True, "labels": [], "comment": None}
            yield Update("feedback", document_key(logged.tenant, event.feedback_id), emptied)
        case _:
            return
