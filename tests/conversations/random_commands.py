"""Draws random commands, sends them, and applies the successful commands to the model."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import httpx

from tests.access.apis_as import Apis
from tests.conversations import conversation_commands, import_commands
from tests.conversations.applying import Applier
from tests.conversations.conversation_model import ConversationModel, ModelConversation
from tests.conversations.draws import AnyCommand, Command, Draws
from tests.conversations.provider_answers import ProviderAnswers
from tests.conversations.sending import Sender
from tests.conversations.weights import NOT_AT_ONCE, NOT_WHEN_ENDED, WEIGHTS
from tests.scripted_provider import ScriptedProvider

REFUSED = frozenset({404, 409})
"""The statuses of a command that another command made impossible."""

REFUSED_CODES = frozenset({"previous_response_not_found", "not_on_active_path"})


class RandomCommands:
    def __init__(
        self, apis: Sequence[Apis], provider: ScriptedProvider, model: ConversationModel, tenant: str, seed: int
    ) -> None:
        self._draws = Draws(model, seed)
        self._sender = Sender(apis, tenant, seed)
        self._applier = Applier(apis[0], model, tenant)
        self._answers = ProviderAnswers(seed)
        self.sent: list[str] = []
        provider.script = self._answers.answer

    @property
    def position(self) -> int:
        """The log has at least this position."""
        return self._applier.position

    async def send(self, number: int) -> None:
        """Each command must succeed, or get an error that it expects."""
        for _ in range(number):
            command = self._any()
            self.sent.append(command.name)
            answer = await self._sender.send(command)
            if answer.status_code != 200:
                error = answer.json()["error"]
                is_expected = error["code"] in command.refusals or (
                    getattr(command, "fails", False) and "response_id" in error
                )
                assert is_expected, (command.name, command.path, command.body, answer.text)
                self.sent[-1] += f" [{answer.status_code}]"
            await self._applier.apply([(command, answer)])

    async def send_at_once(self, number: int) -> None:
        """The model applies the successful commands in the order of the log."""
        conversation = self._draws.conversation()
        draws = {draw: weight for draw, weight in WEIGHTS.items() if draw not in NOT_AT_ONCE}
        commands = [self._on(conversation, draws) for _ in range(number)]
        self.sent.append(" + ".join(command.name for command in commands))
        with self._answers.slow():
            deleted = [each.deletes for each in commands if isinstance(each, Command) and each.deletes is not None]
            answers = await asyncio.gather(*(self._sender.send(each, deleted=deleted) for each in commands))
        for command, answer in zip(commands, answers, strict=True):
            assert answer.status_code == 200 or _may_be_refused(command, answer), (
                command.name,
                command.path,
                command.body,
                answer.text,
            )
        self.sent[-1] += f" {[answer.status_code for answer in answers]}"
        await self._applier.apply([*zip(commands, answers, strict=True)])

    def _any(self) -> AnyCommand:
        choice = self._draws.random.random()
        if len(self._draws.model.existing) < 2 or choice < 0.03:
            return conversation_commands.create(self._draws)
        if choice < 0.04:
            return import_commands.import_conversations(self._draws)
        if choice < 0.06:
            return conversation_commands.delete(self._draws, self._draws.conversation())
        return self._on(self._draws.conversation(), WEIGHTS)

    def _on(
        self,
        conversation: ModelConversation,
        weights: Mapping[Callable[[Draws, ModelConversation], AnyCommand | None], int],
    ) -> AnyCommand:
        while True:
            [draw] = self._draws.random.choices([*weights], [*weights.values()])
            if conversation.ended and draw in NOT_WHEN_ENDED:
                continue
            if (command := draw(self._draws, conversation)) is not None:
                return command


def _may_be_refused(command: AnyCommand, answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    if "response_id" in error:
        return True  # the log has the reply, and how it ended
    return answer.status_code in REFUSED or error["code"] in REFUSED_CODES | command.refusals
