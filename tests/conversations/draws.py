"""Random choices for the commands."""

import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar

from msgspec import Struct

from tests.conversations.conversation_model import ConversationModel, ModelConversation, ModelItem

SUBJECTS = ("ann", "bob")
COMMON_WORDS = ("river", "Straße", "naïve", "東京都", "ข้าวผัด")

Apply = Callable[[Any], None]
T = TypeVar("T")


class Command(Struct, frozen=True, kw_only=True):
    """`apply` changes the model as the command changes the store. It gets the answer's body.

    `start` changes the model when a reply is requested. It gets the response's id. `stops_after`: seconds until the
    reply is cancelled.
    """

    name: str
    subject: str
    method: str = "POST"
    path: str
    body: Any = None
    conversation: ModelConversation | None = None
    start: Apply | None = None
    stops_after: float | None = None
    apply: Apply


class Draws:
    def __init__(self, model: ConversationModel, seed: int) -> None:
        self.model = model
        self.random = random.Random(seed)
        self._numbers = count(1)

    def one_of(self, values: Sequence[T]) -> T | None:
        return self.random.choice(values) if values else None

    def text(self) -> str:
        """A text whose first word is in no other text."""
        return f"w{next(self._numbers)}x {self.random.choice(COMMON_WORDS)}"

    def conversation(self) -> ModelConversation:
        return self.random.choice(self.model.existing)

    def item(self, conversation: ModelConversation) -> ModelItem | None:
        return self.one_of([item for item in conversation.nodes if conversation.shows(item)])

    def writer(self, conversation: ModelConversation) -> str:
        writers = [subject for subject, role in conversation.shares.items() if role == "writer"]
        return self.random.choice([conversation.owner, *writers])

    def reader(self, conversation: ModelConversation) -> str:
        return self.random.choice([conversation.owner, *conversation.shares])

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
    ) -> Command:
        return Command(
            name=name,
            subject=subject or self.writer(conversation),
            method=method,
            path=f"/v1/conversations/{conversation.id}{suffix}",
            body=body,
            conversation=conversation,
            apply=apply,
        )
