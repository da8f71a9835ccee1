"""For each route that needs a credential, the status that each sender gets."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from tests.access.matrix_store import Target

SENDERS: Final = ("other tenant", "other user", "reader", "writer", "owner", "admin")


class Row(Struct, frozen=True, kw_only=True):
    """A request to a route. `statuses`: what each of SENDERS gets, in that order.

    `body` and `query` may contain ids of the Target, such as `{conversation_id}`.
    """

    statuses: tuple[int, int, int, int, int, int]
    body: Mapping[str, Any] | None = None
    query: str = ""
    other: Mapping[str, Any] = MappingProxyType({})
    once: bool = False
    """The request needs a target that no other request uses."""

    has_content: bool = True
    """Whether the answer must contain what the owner wrote. Checked only for a GET with READERS."""

    def by_sender(self) -> Iterator[tuple[str, int]]:
        return zip(SENDERS, self.statuses, strict=True)

    def request(self, template: str, target: Target) -> tuple[str, dict[str, Any]]:
        ids = {**{name: getattr(target, name) for name in target.__struct_fields__}, "model_id": "scripted"}
        path = template.replace(":path}", "}") + self.query
        arguments = dict(self.other) if self.body is None else {"json": _filled(self.body, ids), **self.other}
        return path.format(**ids), arguments


def _filled(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return value.format(**ids)
    if isinstance(value, Mapping):
        return {name: _filled(member, ids) for name, member in value.items()}
    return [_filled(member, ids) for member in value] if isinstance(value, list) else value


READERS = (404, 404, 200, 200, 200, 200)
WRITERS = (404, 404, 403, 200, 200, 200)
OWNERS = (404, 404, 403, 403, 200, 200)
CHAINS = (400, 400, 200, 200, 200, 200)
"""A `previous_response_id` that is not found is a 400, as in OpenAI's API.

A reader may continue from a response, in a fork of their own.
"""

ADMINS = (200, 403, 403, 403, 403, 200)
"""The route needs the scope `admin`. The sender `other tenant` has this scope in the other tenant."""

OWN = (404, 404, 404, 404, 200, 200)
"""Statuses for a file that the owner uploaded."""

EVERYBODY = (200, 200, 200, 200, 200, 200)

_CONVERSATION = "/v1/conversations/{conversation_id}"
_ITEM = f"{_CONVERSATION}/items/{{item_id}}"
_RESPONSE = "/v1/responses/{response_id}"
_COMPLETION = "/v1/chat/completions/{completion_id}"
_FILE = "/v1/files/{file_id}"
_HI: Final = {"type": "message", "role": "user", "content": "hi"}
_CHAT_HI: Final = {"role": "user", "content": "hi"}

NOTHING_TO_DO = (404, 404, 403, 409, 409, 409)
"""A 409 means that the target has nothing to compact or to redo."""

ROWS: Final[Mapping[tuple[str, str], list[Row]]] = {
    ("GET", "/v1/conversations"): [Row(statuses=EVERYBODY)],
    ("POST", "/v1/conversations"): [Row(statuses=EVERYBODY, body={"title": "mine"})],
    ("GET", _CONVERSATION): [Row(statuses=READERS)],
    ("POST", _CONVERSATION): [Row(statuses=WRITERS, body={"metadata": {"a": "b"}})],
    ("DELETE", _CONVERSATION): [Row(statuses=OWNERS, once=True)],
    ("GET", f"{_CONVERSATION}/items"): [
        Row(statuses=READERS),
        Row(statuses=READERS, query="?as_of=2"),
        Row(statuses=READERS, query="?after={item_id}&order=asc"),
        Row(statuses=READERS, query="?branch=0"),
        Row(statuses=READERS, query="?leaf={item_id}"),
    ],
    ("POST", f"{_CONVERSATION}/items"): [Row(statuses=WRITERS, body={"items": [_HI]})],
    ("GET", _ITEM): [Row(statuses=READERS)],
    ("POST", _ITEM): [Row(statuses=WRITERS, body={"item": _HI}, once=True)],
    ("DELETE", _ITEM): [Row(statuses=WRITERS, once=True)],
    ("POST", f"{_ITEM}/pin"): [Row(statuses=WRITERS)],
    ("POST", f"{_ITEM}/unpin"): [Row(statuses=WRITERS)],
    ("POST", f"{_ITEM}/restore"): [Row(statuses=WRITERS)],
    ("POST", f"{_ITEM}/feedback"): [Row(statuses=READERS, body={"rating": 1})],
    ("DELETE", f"{_ITEM}/feedback"): [Row(statuses=(404, 404, 404, 404, 404, 404), once=True)],
    ("GET", f"{_CONVERSATION}/feedback"): [Row(statuses=READERS, has_content=False)],
    ("POST", f"{_CONVERSATION}/fork"): [
        Row(statuses=READERS),
        Row(statuses=READERS, body={"item": "{item_id}", "include_after": True}),
        Row(statuses=READERS, body={"version": 2}),
    ],
    ("POST", f"{_CONVERSATION}/head"): [Row(statuses=WRITERS, body={"item": "{item_id}"}, once=True)],
    ("GET", f"{_CONVERSATION}/tree"): [Row(statuses=READERS), Row(statuses=READERS, query="?as_of=3")],
    ("GET", f"{_CONVERSATION}/responses"): [Row(statuses=READERS)],
    ("GET", f"{_CONVERSATION}/events"): [Row(statuses=READERS)],
    ("GET", f"{_CONVERSATION}/context"): [Row(statuses=READERS, query="?model=scripted")],
    ("POST", f"{_CONVERSATION}/compact"): [Row(statuses=NOTHING_TO_DO, body={"model": "scripted"})],
    ("POST", f"{_CONVERSATION}/compact/undo"): [Row(statuses=WRITERS, once=True)],
    ("POST", f"{_CONVERSATION}/compact/redo"): [Row(statuses=NOTHING_TO_DO)],
    ("POST", f"{_CONVERSATION}/end"): [Row(statuses=WRITERS, once=True)],
    ("POST", f"{_CONVERSATION}/reopen"): [Row(statuses=WRITERS)],
    ("POST", f"{_CONVERSATION}/archive"): [Row(statuses=WRITERS, once=True)],
    ("POST", f"{_CONVERSATION}/unarchive"): [Row(statuses=WRITERS)],
    ("GET", f"{_CONVERSATION}/shares"): [Row(statuses=READERS, has_content=False)],
    ("POST", f"{_CONVERSATION}/shares"): [
        Row(statuses=OWNERS, body={"with": {"subject": "new"}, "role": "reader"}, once=True),
        Row(statuses=OWNERS, body={"with": {"tenant": True}, "role": "writer"}, once=True),
    ],
    ("DELETE", f"{_CONVERSATION}/shares"): [Row(statuses=OWNERS, query="?subject=ron", once=True)],
    ("POST", "/v1/responses"): [
        Row(statuses=WRITERS, body={"model": "scripted", "input": "hi", "conversation": "{conversation_id}"}),
        Row(statuses=CHAINS, body={"model": "scripted", "input": "hi", "previous_response_id": "{response_id}"}),
        Row(statuses=READERS, body={"model": "scripted", "input": [{"type": "item_reference", "id": "{item_id}"}]}),
        Row(statuses=EVERYBODY, body={"model": "scripted", "input": "hi"}),
    ],
    ("POST", "/v1/responses/input_tokens"): [
        Row(statuses=READERS, body={"model": "scripted", "input": "hi", "conversation": "{conversation_id}"}),
        Row(statuses=CHAINS, body={"model": "scripted", "input": "hi", "previous_response_id": "{response_id}"}),
        Row(statuses=READERS, body={"model": "scripted", "input": [{"type": "item_reference", "id": "{item_id}"}]}),
    ],
    ("POST", "/v1/responses/compact"): [
        Row(statuses=CHAINS, body={"model": "scripted", "previous_response_id": "{response_id}"}),
        Row(statuses=EVERYBODY, body={"model": "scripted", "input": [_HI]}),
    ],
    ("GET", _RESPONSE): [Row(statuses=READERS), Row(statuses=READERS, query="?stream=true")],
    ("DELETE", _RESPONSE): [Row(statuses=WRITERS, once=True)],
    ("POST", f"{_RESPONSE}/cancel"): [Row(statuses=(404, 404, 403, 400, 400, 400))],
    ("POST", f"{_RESPONSE}/feedback"): [Row(statuses=READERS, body={"rating": -1})],
    ("DELETE", f"{_RESPONSE}/feedback"): [Row(statuses=(404, 404, 404, 404, 404, 404), once=True)],
    ("GET", f"{_RESPONSE}/input_items"): [Row(statuses=READERS)],
    ("GET", f"{_RESPONSE}/context"): [Row(statuses=READERS)],
    ("POST", "/v1/chat/completions"): [
        Row(statuses=EVERYBODY, body={"model": "scripted", "messages": [_CHAT_HI]}),
        Row(
            statuses=WRITERS,
            body={"model": "scripted", "messages": [_CHAT_HI], "conversation": "{conversation_id}"},
        ),
    ],
    ("GET", "/v1/chat/completions"): [
        Row(statuses=EVERYBODY),
        Row(statuses=(400, 400, 200, 200, 200, 200), query="?after={completion_id}"),
    ],
    ("GET", _COMPLETION): [Row(statuses=READERS)],
    ("GET", f"{_COMPLETION}/messages"): [Row(statuses=READERS)],
    ("POST", _COMPLETION): [Row(statuses=WRITERS, body={"metadata": {"a": "b"}})],
    ("DELETE", _COMPLETION): [Row(statuses=WRITERS, once=True)],
    ("GET", "/v1/files"): [Row(statuses=EVERYBODY)],
    ("POST", "/v1/files"): [
        Row(statuses=EVERYBODY, other={"data": {"purpose": "user_data"}, "files": {"file": ("a.txt", b"hi")}}),
    ],
    ("GET", _FILE): [Row(statuses=OWN)],
    ("DELETE", _FILE): [Row(statuses=OWN, once=True)],
    ("GET", f"{_FILE}/content"): [Row(statuses=OWN)],
    ("GET", "/v1/keys"): [Row(statuses=ADMINS)],
    ("POST", "/v1/keys"): [Row(statuses=ADMINS, body={"subject": "backend", "scopes": ["read"]})],
    ("DELETE", "/v1/keys/{key_id}"): [Row(statuses=(404, 403, 403, 403, 403, 200))],
    ("GET", "/v1/models"): [Row(statuses=EVERYBODY)],
    ("GET", "/v1/models/{model_id:path}"): [Row(statuses=EVERYBODY)],
    ("POST", "/v1/import"): [
        Row(statuses=EVERYBODY, other={"content": b'{"items": []}\n', "content_type": "application/x-ndjson"})
    ],
    ("GET", "/v1/search"): [
        Row(statuses=EVERYBODY, query="?q=nobodywrotethis"),  # other rows share Ann's conversations
        Row(statuses=READERS, query="?q=plantedword*&conversation={conversation_id}", has_content=False),
    ],
    ("GET", "/v1/feedback"): [Row(statuses=EVERYBODY)],
    ("GET", "/v1/usage"): [Row(statuses=EVERYBODY)],
    ("GET", "/v1/projections"): [Row(statuses=EVERYBODY)],
}
