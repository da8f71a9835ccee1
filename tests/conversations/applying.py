"""Applies commands to the model, in the order of the log."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import httpx

from tests.access.apis_as import Apis, user
from tests.conversations.conversation_model import ConversationModel, ModelConversation
from tests.conversations.draws import AnyCommand, Command, ReplyCommand
from tests.conversations.import_commands import MARK
from tests.conversations.reads import read_all
from tests.conversations.reply_records import ReplyRecord, read_events, reply_records

Step = tuple[int, bool, Callable[[], None]]
"""A version, whether the step adds a conversation, and the change of the model.

For a fork, the version is the origin's.
"""

NEW = 0
"""The version in the step of a new conversation that is no fork."""


class Applier:
    """`position`: the log has at least this position."""

    def __init__(self, apis: Apis, model: ConversationModel, tenant: str) -> None:
        self._apis = apis
        self._model = model
        self._tenant = tenant
        self.position = 0

    async def apply(self, sent: Sequence[tuple[AnyCommand, httpx.Response]]) -> None:
        steps: list[Step] = []
        logs = _Logs(self._apis, self._tenant)
        for command, answer in sent:
            self.position = max(self.position, int(answer.headers.get("x-position", 0)))
            if isinstance(command, ReplyCommand):
                steps += await self._reply_steps(command, answer, logs, is_alone=len(sent) == 1)
            elif answer.status_code == 200:
                steps.append(await self._step(command, answer))
        for _, _, change in sorted(steps, key=itemgetter(0, 1)):
            change()
        logs.check_all_known()
        self.position = max(self.position, logs.position)

    async def _step(self, command: Command, answer: httpx.Response) -> Step:
        body, conversation = answer.json(), command.conversation
        body["position"] = position = int(answer.headers.get("x-position", 0))
        body["version"] = version = int(answer.headers.get("etag", '"0"').strip('"'))
        if conversation is None:
            await self._add_created(command, body)
            return NEW, True, partial(command.apply, body)
        if command.path.endswith("/fork"):
            body["own_version"] = version
            return body["forked_from"]["version"], True, partial(command.apply, body)

        def change() -> None:
            command.apply(body)
            conversation.position = max(conversation.position, position)
            conversation.note_state(version)

        return version, False, change

    async def _reply_steps(
        self, command: ReplyCommand, answer: httpx.Response, logs: "_Logs", *, is_alone: bool
    ) -> list[Step]:
        body = answer.json()
        response_id = answer.headers.get("x-response-id") or body.get("id") or body["error"].get("response_id")
        if response_id is None:
            return []
        conversation: ModelConversation | None = command.conversation
        conversation_id = command.conversation.id
        if command.opens is not None:
            conversation_id = answer.headers.get("x-conversation-id") or body["conversation"]["id"]
            conversation = self._model.conversation(conversation_id)
        events, records = await logs.read(conversation_id, conversation.version if conversation else 0)
        record = logs.take(response_id, records)
        record.is_alone = is_alone
        record.outputs = _outputs(body)
        position = events[-1]["position"]
        if conversation is not None:
            return _steps(command, conversation, record, position)
        started = events[0]["data"]

        def open_and_reply() -> None:
            assert command.opens is not None
            opened = command.opens(started)
            for _, _, change in _steps(command, opened, record, position):
                change()

        fork = started["forked_from"]
        return [(fork["version"] if fork else NEW, True, open_and_reply)]

    async def _add_created(self, command: Command, body: Any) -> None:
        """Reads what was created, and adds it to the body."""
        by = user(command.subject, self._tenant)
        if command.path != "/v1/import":
            body["created"] = await read_all(self._apis, by, f"/v1/conversations/{body['id']}/items", order="asc")
            return
        body["found"] = {}
        for mark in command.body:
            [document] = await read_all(self._apis, by, "/v1/conversations", **{f"metadata[{MARK}]": mark})
            items = await read_all(self._apis, by, f"/v1/conversations/{document['id']}/items", order="asc")
            events = await read_events(self._apis, self._tenant, document["id"], 0)
            body["found"][mark] = document, items, events


def _steps(command: ReplyCommand, conversation: ModelConversation, record: ReplyRecord, position: int) -> list[Step]:
    def start() -> None:
        assert record.requested is not None
        command.start(conversation, record)
        conversation.note_state(record.requested)

    def finish() -> None:
        command.finish(conversation, record)
        conversation.position = max(conversation.position, position)
        conversation.note_state(record.ended)

    assert record.ended, record
    steps: list[Step] = [(record.ended, False, finish)]
    return steps if record.requested is None else [(record.requested, False, start), *steps]


def _outputs(body: Any) -> list[str] | None:
    """The texts of the answer, or None if the answer is not complete."""
    if body.get("object") == "chat.completion":
        return [choice["message"]["content"] for choice in body["choices"]]
    if body.get("status") != "completed":
        return None
    return [item["content"][0]["text"] for item in body["output"]]


class _Logs:
    """The new events of the conversations of one batch. Each conversation is read once."""

    def __init__(self, apis: Apis, tenant: str) -> None:
        self._apis = apis
        self._tenant = tenant
        self._read: dict[str, tuple[list[Any], dict[str, ReplyRecord]]] = {}
        self._taken: set[str] = set()
        self.position = 0

    async def read(self, conversation_id: str, after: int) -> tuple[list[Any], dict[str, ReplyRecord]]:
        if conversation_id not in self._read:
            events = await read_events(self._apis, self._tenant, conversation_id, after)
            self._read[conversation_id] = events, reply_records(events)
            self.position = max(self.position, events[-1]["position"])
        return self._read[conversation_id]

    def take(self, response_id: str, records: dict[str, ReplyRecord]) -> ReplyRecord:
        assert response_id not in self._taken, f"two commands were answered with {response_id}"
        self._taken.add(response_id)
        return records[response_id]

    def check_all_known(self) -> None:
        """Each new reply in the log must be named in an answer."""
        recorded = {response_id for _, records in self._read.values() for response_id in records}
        assert recorded == self._taken
