"""How long a page of a tenant's conversations takes, compared with the first page of the same list.

The views' own code makes the documents from events, without the log.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar
from urllib.parse import urlencode
from uuid import UUID

import msgspec
import uvloop
from msgspec import Struct

from domain.events import (
    ConversationDescribed,
    ConversationEnded,
    ConversationShared,
    ConversationStarted,
    Event,
    ItemAppended,
    Share,
)
from infrastructure.event_log.recorded import Recorded
from infrastructure.ids import first_uuid_at
from projections.fold import Fold
from queries.conversation_list import ConversationsQuery
from queries.list_cursors import encode_cursor
from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import timed_gets

TENANT = "bench"
START = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 5_000
PAGE = 20


class ConversationsOf(Struct, frozen=True):
    """A list of conversations.

    `where`: the MongoDB filter for its documents. `metadata`: the pairs that the list is filtered by.
    """

    name: str
    subject: str
    filters: Mapping[str, str]
    where: Mapping[str, Any]
    metadata: Mapping[str, str] = {}


LISTS = (
    ConversationsOf("an admin's", "root", {}, {}),
    ConversationsOf("an admin's, ended", "root", {"status": "ended"}, {"status": "ended"}),
    ConversationsOf("Ann's", "ann", {}, {"owner": "ann"}),
    ConversationsOf("Ann's, not archived", "ann", {"archived": "false"}, {"owner": "ann", "archived": False}),
    ConversationsOf("Ann's, by title", "ann", {"title": "Tokyo"}, {"owner": "ann", "lists.terms": "title:tokyo"}),
    ConversationsOf("Ann's, by metadata", "ann", {}, {"owner": "ann", "metadata": ["team", "7"]}, {"team": "7"}),
    ConversationsOf("Bob's", "bob", {}, {"shared_with": "subject:bob"}),
    ConversationsOf("shared with Bob", "bob", {"shared": "true"}, {"shared_with": "subject:bob"}),
)
ORDERS = ("created", "activity")


class Lists(Benchmark):
    settings: ClassVar[Mapping[str, str]] = MappingProxyType({"AUTH_MODE": "keys"})

    def prepare(self, store: BenchStore) -> None:
        self._urls = {
            "root": store.url_with_key(TENANT, "root", "read,admin"),
            "ann": store.url_with_key(TENANT, "ann", "read"),
            "bob": store.url_with_key(TENANT, "bob", "read"),
        }
        with store.mongodb() as database:
            for first in range(0, self.sizes.listed_conversations, BATCH):
                numbers = range(first, min(first + BATCH, self.sizes.listed_conversations))
                folded = documents(numbers, self.sizes.listed_conversations)
                for view in ("conversations", "items"):
                    database[view].insert_many(folded.documents[view].values(), ordered=False)
            self._paths = {
                (each.name, order): dict(_pages(database["conversations"], each, order))
                for each in LISTS
                for order in ORDERS
            }

    def measure(self, store: BenchStore) -> list[Measurement]:  # noqa: ARG002 - the URLs with keys are used
        measurements = []
        self._first_pages: dict[str, float] = {}
        for each in LISTS:
            for order in ORDERS:
                times = uvloop.run(
                    timed_gets(self._urls[each.subject], self._paths[each.name, order], self.sizes.seconds / 2)
                )
                name = f"list {each.name}, by {order}"
                floor = f"its first page: {name}"
                self._first_pages[floor] = times.pop("first")
                measurements += [
                    Measurement(f"{name}, {page} page", time, "ms", (floor,)) for page, time in times.items()
                ]
        return measurements

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - measured in turns with the pages
        return self._first_pages


def _pages(collection: Any, each: ConversationsOf, order: str) -> Iterator[tuple[str, str]]:
    """By name: the paths of the first page, a middle page, and the last full page."""
    query = ConversationsQuery.model_validate({**each.filters, "order_by": order})
    found = collection.find({"tenant": TENANT, **each.where}, {query.field: 1}).sort(query.field, -1)
    keys = [document[query.field] for document in found]
    parameters = {**each.filters, "order_by": order, **{f"metadata[{name}]": v for name, v in each.metadata.items()}}
    of_query = query.fingerprint(each.metadata)
    yield "first", f"/v1/conversations?{urlencode(parameters)}"
    for name, index in (("middle", len(keys) // 2), ("last", len(keys) - PAGE - 1)):
        cursor = encode_cursor(of_query, keys[index])
        yield name, f"/v1/conversations?{urlencode({**parameters, 'after': cursor})}"


def documents(numbers: range, count: int) -> Fold:
    """The documents of the conversations with these numbers. `count`: the number of all conversations."""
    folded = Fold()
    for number in numbers:
        changed = START + timedelta(seconds=number * 7919 % count)
        for version, event in enumerate(_events(number), start=1):
            folded.apply(
                Recorded(
                    conversation_id=_id_of(number, "conv"),
                    version=version,
                    position=1,
                    recorded_at=changed,
                    event=event,
                    tenant=TENANT,
                    subject="",
                    correlation_id="",
                )
            )
    return folded


def _events(number: int) -> Iterator[Event]:
    conversation_id, owner = _id_of(number, "conv"), "ann" if number % 2 else f"user {number % 500}"
    yield ConversationStarted(
        conversation_id=conversation_id,
        tenant=TENANT,
        owner=owner,
        family=conversation_id,
        title=f"Talk about {'Tokyo' if number % 13 == 0 else 'Oslo'}, number {number}",
        metadata={"team": f"{number % 11}"},
    )
    first, last = _id_of(2 * number, "msg"), _id_of(2 * number + 1, "msg")
    question, answer = _message("user", f"Question {number}"), _message("assistant", f"Answer {number}")
    yield ItemAppended(item_id=first, parent_id=None, branch=0, depth=1, item=question, author=owner)
    yield ItemAppended(item_id=last, parent_id=first, branch=0, depth=2, item=answer, author="smol")
    if number % 5 == 0:
        yield ConversationShared(shares=(Share(role="reader", subject="bob"),))
    if number % 10 == 3:
        yield ConversationDescribed(archived=True)
    if number % 100 == 0:
        yield ConversationEnded()


def _message(role: str, text: str) -> bytes:
    kind = "input_text" if role == "user" else "output_text"
    return msgspec.json.encode({"type": "message", "role": role, "content": [{"type": kind, "text": text}]})


def _id_of(number: int, prefix: str) -> str:
    """Ids with the same prefix sort by number."""
    return f"{prefix}_{UUID(int=first_uuid_at(START.timestamp() + number).int + (7 << 76)).hex}"
