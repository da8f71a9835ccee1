"""The merged writes of a batch give the same documents as the writes one by one."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from projections.coalesce import ViewBatch, apply_to, conversation_of
from projections.fold import Fold
from projections.views.writes import Document, Insert, Remove, Update, Write

TENANTS, CONVERSATIONS = ("a", "b"), ("c1", "c2")
NAMES = ("title", "joined.x", "joined.y", "listed.1.x", "status")

step = st.one_of(
    st.tuples(st.just("insert"), st.sampled_from(TENANTS), st.sampled_from(CONVERSATIONS), st.integers(0, 4)),
    st.tuples(st.just("set"), st.integers(0, 50), st.sampled_from(NAMES), st.integers(0, 9)),
    st.tuples(st.just("add"), st.integers(0, 50), st.just("count"), st.integers(-3, 3)),
    st.tuples(st.just("put"), st.integers(0, 50), st.just("count"), st.integers(0, 9)),
    st.tuples(st.just("unset"), st.integers(0, 50), st.sampled_from(("count", *NAMES)), st.none()),
    st.tuples(st.just("remove"), st.sampled_from(TENANTS), st.sampled_from(CONVERSATIONS), st.none()),
)


@example(before=[("insert", "a", "c1", 0)], batch=[("add", 0, "count", 1), ("unset", 0, "count", None)])
@example(before=[("insert", "a", "c1", 0)], batch=[("unset", 0, "count", None), ("add", 0, "count", 1)])
@given(before=st.lists(step, max_size=15), batch=st.lists(step, max_size=25))
def test_merged_writes_of_a_batch_give_the_same_documents(before: list[Any], batch: list[Any]) -> None:
    folded = Fold()
    _play(folded, before)
    coalesced = {key: _copy(document) for key, document in folded.documents["items"].items()}
    view_batch = ViewBatch()
    for write in _play(folded, batch):
        view_batch.add(write)
    _apply(view_batch, coalesced)
    assert coalesced == folded.documents["items"]


def _play(folded: Fold, steps: list[Any]) -> list[Write]:
    """Applies the steps that are possible."""
    played: list[Write] = []
    for kind, first, second, third in steps:
        keys = sorted(folded.documents["items"])
        match kind:
            case "insert":
                key = f"{first}:{second}:{third}"
                document = {
                    "_id": key,
                    "tenant": first,
                    "conversation_id": second,
                    "count": 0,
                    "joined": {},
                    "listed": [{}, {}],
                }
                write: Write = Insert("items", key, document)
                if key in keys:
                    continue
            case "remove":
                write = Remove("items", first, second)
            case _:
                if not keys:
                    continue
                key = keys[first % len(keys)]
                if kind == "add":
                    write = Update("items", key, {}, {second: third})
                elif kind == "unset":
                    write = Update("items", key, {}, unset=(second,))
                else:
                    write = Update("items", key, {second: third})
        folded.write(write)
        played.append(write)
    return played


def _apply(view_batch: ViewBatch, documents: dict[str, Document]) -> None:
    """Applies the merged writes, in the order of `batch_statements`."""
    for key, change in view_batch.updates.items():
        names = [*change.set, *change.add, *change.unset]
        assert len(names) == len(set(names))
        apply_to(documents[key], Update("items", key, change.set, change.add, tuple(change.unset)))
    for conversation in view_batch.removed:
        for key in [key for key, document in documents.items() if conversation_of(document) == conversation]:
            del documents[key]
    for key, document in view_batch.inserts.items():
        assert key not in documents
        documents[key] = document


def _copy(document: Document) -> Document:
    return {**document, "joined": dict(document["joined"])}
