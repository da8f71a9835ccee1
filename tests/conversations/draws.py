"""Random choices for the commands."""

import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

from msgspec import Struct

from tests.conversations.conversation_model import EVERYONE, ConversationModel, ModelConversation
from tests.conversations.model_parts import ModelItem
from tests.conversations.reply_records import ReplyRecord

SUBJECTS = ("ann", "bob")
COMMON_WORDS = ("river", "Straße", "naïve", "東京都", "ข้าวผัด")

MAX_COMMON_WORDS = 7
"""A text has its common word at most this often. A preview shows the whole text."""
OLDEST = 3

Apply = Callable[[Any], None]
ReplyStep = Callable[[ModelConversation, ReplyRecord], None]
T = TypeVar("T")


class Command(Struct, frozen=True, kw_only=True):
    """`apply` changes the model as the command changes the store. `apply` gets the answer's body, with `position` and `version`.

    `conversation`: the one that the command changes, forks, or continues. `refusals`: the codes of errors that the
    command may get although no other command runs. `content`: a body that is not JSON. `deletes`: the id of the
    response that the command deletes.
    """

    name: str
    subject: str
    method: str = "POST"
    path: str
    body: Any = None
    content: bytes | None = None
    conversation: ModelConversation | None = None
    refusals: frozenset[str] = frozenset()
    deletes: str | None = None
    apply: Apply


class ReplyCommand(Struct, frozen=True, kw_only=True):
    """A request for a reply.

    `start` changes the model at the request of the reply, `finish` at its end. `opens`: makes the conversation of the
    reply, from the data of the conversation's first event. None: the reply goes into `conversation`. `stop`: the HTTP
    method of the request that ends the reply, `stops_after` seconds after its start. `waits`: reads the response until
    it has ended. `fails`: the answer must be an error.
    """

    name: str
    subject: str
    path: str = "/v1/responses"
    body: Any
    conversation: ModelConversation
    refusals: frozenset[str] = frozenset()
    start: ReplyStep
    finish: ReplyStep
    opens: Callable[[Any], ModelConversation] | None = None
    stop: str | None = None
    stops_after: float = 0
    waits: bool = False
    fails: bool = False

    @property
    def method(self) -> str:
        return "POST"

    @property
    def content(self) -> None:
        return None


AnyCommand = Command | ReplyCommand


class Draws:
    def __init__(self, model: ConversationModel, seed: int) -> None:
        self.model = model
        self.random = random.Random(seed)
        self._numbers = count(1)

    def one_of(self, values: Sequence[T]) -> T | None:
        return self.random.choice(values) if values else None

    def text(self) -> str:
        """Its first word is in no other text."""
        common = self.random.choice(COMMON_WORDS)
        return " ".join((f"w{next(self._numbers)}x", *[common] * self.random.randint(1, MAX_COMMON_WORDS)))

    def conversation(self) -> ModelConversation:
        """Often one of the oldest conversations, so that these become long."""
        existing = self.model.existing
        return self.random.choice(existing[:OLDEST] if self.random.random() < 0.5 else existing)

    def item(self, conversation: ModelConversation) -> ModelItem | None:
        return self.one_of([item for item in conversation.nodes if conversation.shows(item)])

    def writer(self, conversation: ModelConversation) -> str:
        return self.random.choice([each for each in SUBJECTS if conversation.is_writable_by(each)])

    def reader(self, conversation: ModelConversation) -> str:
        return self.random.choice([each for each in SUBJECTS if conversation.is_readable_by(each)])

    def other_than(self, subject: str) -> str:
        return SUBJECTS[1 - SUBJECTS.index(subject)]

    def shared_with(self, conversation: ModelConversation) -> str:
        return self.random.choice((self.other_than(conversation.owner), EVERYONE))

    def command(
        self,
        name: str,
        conversation: ModelConversation,
        apply: Apply,
        suffix: str = "",
        body: Any = None,
        *,
        subject: str | None = None,
        method: str = "POST",
        refusals: frozenset[str] = frozenset(),
    ) -> Command:
        return Command(
            name=name,
            subject=subject or self.writer(conversation),
            method=method,
            path=f"/v1/conversations/{conversation.id}{suffix}",
            body=body,
            conversation=conversation,
            refusals=refusals,
            apply=apply,
        )
