"""The view `search`: one document per item, with the text of a message as search sees it.

`owner`: the owner of the conversation. Shares are not in the documents, because a new share would rewrite all documents of its
  conversation. `model`: the model of the completed reply that wrote the item. `order`: milliseconds since 1970 (UTC), then the last
  six digits of the log position, which differ for items of the same millisecond.
"""

from collections.abc import Iterator
from typing import Final

from domain.events import ItemAppended, ItemRestored, ItemRetracted, ReplyCompleted
from domain.items import from_stored, text_of
from infrastructure.event_log.recorded import Logged
from projections.views.search_text import searched
from projections.views.writes import Insert, Update, Write, document_key

ALL: Final = ""
"""A term of every item that has words. No word has this term."""


_PER_MILLISECOND: Final = 1_000_000


def first_order_at(seconds: float) -> int:
    """The lowest `order` of an item that was appended at this time or later."""
    return int(seconds * 1000) * _PER_MILLISECOND


def search_writes(logged: Logged) -> Iterator[Write]:
    event = logged.event
    match event:
        case ItemAppended():
            item = from_stored(event.item)
            text = searched(text_of(item))
            key = document_key(logged.tenant, event.item_id)
            yield Insert(
                "search",
                key,
                {
                    "_id": key,
                    "tenant": logged.tenant,
                    "conversation_id": logged.conversation_id,
                    "owner": logged.owner,
                    "author": event.author,
                    "role": item.get("role"),
                    "order": first_order_at(logged.recorded_at.timestamp()) + logged.position % _PER_MILLISECOND,
                    "retracted": False,
                    "text": text.text,
                    "words": text.words,
                    "terms": [ALL, *text.terms] if text.terms else [],
                },
            )
        case ItemRetracted() if not event.inherited:
            yield Update("search", document_key(logged.tenant, event.item_id), {"retracted": True})
        case ItemRestored() if not event.inherited:
            yield Update("search", document_key(logged.tenant, event.item_id), {"retracted": False})
        case ReplyCompleted():
            for item_id in event.output_ids:
                yield Update("search", document_key(logged.tenant, item_id), {"model": event.model})
        case _:
            return
