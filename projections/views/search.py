"""The view `search`: one document per item, with the text of a message as search sees it (`search_text.py`). Other items have no text.

`owner`: the conversation's owner, so that a search reads only the documents of certain owners. Shares are not in the documents, because a
change of a share would rewrite all documents of a conversation. Queries look shares up. `model`: the model of the completed reply that wrote the item.
A retracted item keeps its document, as in the view `items`.

`order` is when the item was appended, so that matches can be read newest first: milliseconds since 1970 (UTC),
followed by the last six digits of the log position. So no two items have the same `order`, and a search can continue after any item.

`terms` begins with ALL if the item has words. So the index has all items with words under this term, by time.
"""

from collections.abc import Iterator
from typing import Final

from domain.events import ItemAppended, ItemRestored, ItemRetracted, ReplyCompleted
from domain.items import from_stored, text_of
from infrastructure.event_log.recorded import Logged
from projections.views.search_text import searched
from projections.views.writes import Insert, Update, Write, document_key

ALL: Final = ""
"""The empty string is a term of every item that has words. It is the term of no word."""


_PER_MILLISECOND: Final = 1_000_000


def first_order_at(seconds: float) -> int:
    """The lowest `order` of an item that was appended at this time or later."""
    return int(seconds * 1000) * _PER_MILLISECOND


def search_writes(logged: Logged) -> Iterator[Write]:
    """The writes of one event."""
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
