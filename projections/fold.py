"""Computes the MongoDB views in memory from the events of the log, for comparisons with stored views. Pure."""

from collections.abc import Iterable

from infrastructure.event_log.recorded import Recorded
from projections.coalesce import apply_to, conversation_of
from projections.views.catalog import MONGO_VIEWS, MongoView
from projections.views.event_writes import event_writes
from projections.views.writes import Add, Document, Insert, Remove, Update, Write


class Fold:
    """The documents after all events so far, by view and `_id`. Raises ValueError if a write does not fit."""

    def __init__(self) -> None:
        self.documents: dict[MongoView, dict[str, Document]] = {view: {} for view in MONGO_VIEWS}

    def apply(self, recorded: Recorded) -> None:
        for write in event_writes(recorded):
            self.write(write)

    def write(self, write: Write) -> None:
        documents = self.documents[write.view]
        match write:
            case Insert():
                if write.key in documents:
                    raise ValueError(f"{write.view} has a document {write.key} already")
                documents[write.key] = dict(write.document)
            case Update():
                if write.key not in documents:
                    raise ValueError(f"{write.view} has no document {write.key}")
                apply_to(documents[write.key], write)
            case Add():
                document = documents.setdefault(write.key, dict(write.document))
                document["position"] = max(write.position, document.get("position", 0))
                for name, amount in write.add.items():
                    document[name] = document.get(name, 0) + amount
            case Remove():
                conversation = (write.tenant, write.conversation_id)
                for key in [key for key, document in documents.items() if conversation_of(document) == conversation]:
                    del documents[key]


def fold(events: Iterable[Recorded]) -> dict[MongoView, dict[str, Document]]:
    folded = Fold()
    for recorded in events:
        folded.apply(recorded)
    return folded.documents
