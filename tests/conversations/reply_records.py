"""What the log records of each reply."""

from typing import Any, Final

from msgspec import Struct, field

from tests.access.apis_as import Apis, user
from tests.conversations.reads import read_json

ENDS: Final = {
    "reply.completed": "completed",
    "reply.failed": "failed",
    "reply.cancelled": "cancelled",
    "reply.interrupted": "incomplete",
}


class JoinedItem(Struct, frozen=True):
    id: str
    text: str
    role: str


class ReplyRecord(Struct, kw_only=True):
    """`requested`, `ended`: versions. `requested` is None if the reply ended while it waited.

    `names_leaf`: whether the items of the reply open a branch after `leaf_id`. `joined`: the items that joined the
    conversation with the reply. `outputs`: the texts of the answer, or None if the answer is not complete.
    `is_dropped`: the reply was deleted while it ran or waited. `is_alone`: no other command was sent at the same time.
    """

    id: str
    author: str
    requested: int | None = None
    ended: int = 0
    end_position: int = 0
    status: str = ""
    names_leaf: bool = False
    leaf_id: str | None = None
    inputs: list[JoinedItem] = field(default_factory=list)
    joined: list[JoinedItem] = field(default_factory=list)
    outputs: list[str] | None = None
    is_dropped: bool = False
    is_alone: bool = True


async def read_events(apis: Apis, tenant: str, conversation_id: str, after: int) -> list[Any]:
    """All events after this version, read with the scope `audit`."""
    auditor = user("auditor", tenant, {"read", "admin", "audit"})
    path = f"/v1/conversations/{conversation_id}/events"
    events: list[Any] = []
    while True:
        page = await read_json(apis, auditor, path, after=after, limit=1000)
        events += page["data"]
        if not page["has_more"]:
            return events
        after = page["last_id"]


def reply_records(events: list[Any]) -> dict[str, ReplyRecord]:
    """By response id."""
    records: dict[str, ReplyRecord] = {}
    ended_at: dict[str, str] = {}
    for event in events:
        data = event["data"]
        response_id = data.get("response_id")
        if event["type"] in ("reply.queued", "reply.requested"):
            record = records.setdefault(response_id, ReplyRecord(id=response_id, author=event["actor"]))
            record.inputs = [_item(entry) for entry in data["input"]]
            if event["type"] == "reply.requested":
                record.requested = event["version"]
                leaf = data["after"]
                record.names_leaf, record.leaf_id = leaf is not None, leaf["item_id"] if leaf else None
        elif response_id in records and event["type"] == "item.appended":
            records[response_id].joined.append(_item(data))
        elif response_id in records and event["type"] in ENDS:
            record = records[response_id]
            record.ended, record.end_position, record.status = event["version"], event["position"], ENDS[event["type"]]
            ended_at[response_id] = event["recorded_at"]
        elif event["type"] == "reply.deleted" and response_id in records:  # the same transaction may have ended it
            records[response_id].is_dropped = event["recorded_at"] == ended_at[response_id]
    return records


def _item(data: Any) -> JoinedItem:
    content = data["item"]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    return JoinedItem(data["item_id"], text, data["item"]["role"])
