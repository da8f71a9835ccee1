"""Draws random commands, sends them, and applies the successful commands to the model."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Final

import httpx

from tests.access.apis_as import Apis, user
from tests.conversations import conversation_commands, feedback_commands, item_commands, reply_commands
from tests.conversations.conversation_model import ConversationModel, ModelConversation
from tests.conversations.draws import Command, Draws
from tests.conversations.reads import read_json
from tests.scripted_provider import Exchange, ScriptedProvider

WEIGHTS: Final[Mapping[Callable[[Draws, ModelConversation], Command | None], int]] = {
    item_commands.append: 6,
    item_commands.revise: 4,
    item_commands.move_head: 3,
    item_commands.retract: 3,
    item_commands.restore: 3,
    item_commands.pin: 2,
    item_commands.unpin: 1,
    feedback_commands.rate_item: 2,
    feedback_commands.rate_response: 2,
    feedback_commands.withdraw: 1,
    reply_commands.reply: 4,
    reply_commands.continue_answer: 2,
    reply_commands.regenerate: 2,
    reply_commands.stopped_reply: 1,
    reply_commands.stopped_regenerate: 1,
    conversation_commands.fork: 1,
    conversation_commands.fork_at_item: 2,
    conversation_commands.fork_at_version: 1,
    conversation_commands.fork_with_tail: 1,
    conversation_commands.share: 2,
    conversation_commands.unshare: 1,
    conversation_commands.describe: 1,
    conversation_commands.archive: 1,
    conversation_commands.end: 1,
    conversation_commands.reopen: 10,
}
NOT_AT_ONCE = (conversation_commands.share, conversation_commands.unshare, conversation_commands.fork_with_tail)
"""The first two commands can end a subject's access before the test has read the result.

The third command is malformed if the head is moved elsewhere.
"""

NOT_WHEN_ENDED = (
    item_commands.append,
    item_commands.revise,
    item_commands.move_head,
    reply_commands.reply,
    reply_commands.continue_answer,
    reply_commands.regenerate,
    reply_commands.stopped_reply,
    reply_commands.stopped_regenerate,
)
"""What an ended conversation refuses."""

REFUSED = frozenset({404, 409})
"""The statuses of a command that another command made impossible."""


class RandomCommands:
    """`position`: the log has at least this position."""

    def __init__(
        self, apis: Apis, provider: ScriptedProvider, model: ConversationModel, tenant: str, seed: int
    ) -> None:
        self._apis = apis
        self._tenant = tenant
        self._draws = Draws(model, seed)
        self.sent: list[str] = []
        self.position = 0
        provider.script = self._answer

    def _answer(self, exchange: Exchange) -> None:
        first, *others = self._draws.text().split()
        if exchange.body["model"] == reply_commands.ENDLESS_MODEL:
            exchange.begin_stream()
            exchange.text_chunk(first)
            while True:
                exchange.text_chunk("".join(f" {word}" for word in others))
                time.sleep(0.02)
        exchange.stream_text(f"{first} ", *others)

    async def send(self, number: int) -> None:
        """Each command must succeed."""
        for _ in range(number):
            command = self._any()
            self.sent.append(command.name)
            answer = await self._send(command)
            assert answer.status_code == 200, (command.path, command.body, answer.text)
            await self._apply([(command, answer)])

    async def send_at_once(self, number: int) -> None:
        """The model applies the successful commands in the order of the log."""
        conversation = self._draws.conversation()
        draws = {draw: weight for draw, weight in WEIGHTS.items() if draw not in NOT_AT_ONCE}
        commands = [self._on(conversation, draws) for _ in range(number)]
        self.sent.append(" + ".join(command.name for command in commands))
        answers = await asyncio.gather(*map(self._send, commands))
        for command, answer in zip(commands, answers, strict=True):
            assert answer.status_code in {200, *REFUSED}, (command.path, command.body, answer.text)
        sent = zip(commands, answers, strict=True)
        await self._apply([(command, answer) for command, answer in sent if answer.status_code == 200])

    def _any(self) -> Command:
        choice = self._draws.random.random()
        if len(self._draws.model.existing) < 2 or choice < 0.04:
            return conversation_commands.create(self._draws)
        if choice < 0.06:
            return conversation_commands.delete(self._draws, self._draws.conversation())
        return self._on(self._draws.conversation(), WEIGHTS)

    def _on(
        self,
        conversation: ModelConversation,
        weights: Mapping[Callable[[Draws, ModelConversation], Command | None], int],
    ) -> Command:
        while True:
            [draw] = self._draws.random.choices([*weights], [*weights.values()])
            if conversation.ended and draw in NOT_WHEN_ENDED:
                continue
            if (command := draw(self._draws, conversation)) is not None:
                return command

    async def _send(self, command: Command) -> httpx.Response:
        by = user(command.subject, self._tenant)
        answer = await self._apis.request(by, command.method, command.path, json=command.body)
        if command.stops_after is None or answer.status_code != 200:
            return answer
        await asyncio.sleep(command.stops_after)
        return await self._apis.post(by, f"/v1/responses/{answer.json()['id']}/cancel")

    async def _apply(self, sent: Sequence[tuple[Command, httpx.Response]]) -> None:
        steps: list[tuple[int, bool, Callable[[], None]]] = []
        for command, answer in sent:
            position = int(answer.headers["x-position"])
            self.position = max(self.position, position)
            body = {**answer.json(), "position": position}
            version, is_fork = _version(command, answer)
            if command.start is not None:
                body["input_ids"] = await self._input_ids(command, body["id"])
                requested = await self._requested_version(command, body["id"])
                steps.append((requested, False, partial(command.start, body["id"])))
            steps.append((version, is_fork, partial(command.apply, body)))
            if command.conversation is not None and not is_fork:
                command.conversation.position = max(command.conversation.position, position)
        for version, is_fork, change in sorted(steps, key=itemgetter(0, 1)):
            change()
            if not is_fork and (conversation := sent[0][0].conversation) is not None:
                conversation.note_state(version)

    async def _requested_version(self, command: Command, response_id: str) -> int:
        """The version of the event that requested the reply."""
        assert command.conversation is not None
        path = f"/v1/conversations/{command.conversation.id}/events"
        last_version = max(command.conversation.states, default=0)
        events = await read_json(self._apis, user(command.subject, self._tenant), path, after=last_version)
        requests = {
            event["data"]["response_id"]: event["version"]
            for event in events["data"]
            if event["type"] == "reply.requested"
        }
        return int(requests[response_id])

    async def _input_ids(self, command: Command, response_id: str) -> list[str]:
        """The ids of the input items, which a Response does not have."""
        path = f"/v1/responses/{response_id}/input_items"
        page = await read_json(self._apis, user(command.subject, self._tenant), path)
        return [item["id"] for item in page["data"]]


def _version(command: Command, answer: httpx.Response) -> tuple[int, bool]:
    """(version, whether the command is a fork). For a fork, this is the version that was forked."""
    if command.path.endswith("/fork"):
        return int(answer.json()["forked_from"]["version"]), True
    return int(answer.headers["etag"].strip('"')), False
