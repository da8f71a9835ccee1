"""given / when / then for tests of `decide`."""

from collections.abc import Sequence

import pytest

from domain.commands import Command
from domain.conversation import Conversation, KnownItem, evolve_item, fold
from domain.decide import decide
from domain.errors import Refused
from domain.events import ConversationStarted, Event, ItemAppended

CONVERSATION = "conv_1"


def started(**fields: object) -> ConversationStarted:
    facts: dict[str, object] = {
        "conversation_id": CONVERSATION,
        "tenant": "acme",
        "owner": "ann",
        "family": CONVERSATION,
        **fields,
    }
    return ConversationStarted(**facts)  # type: ignore[arg-type]


def appended(item_id: str, depth: int, parent_id: str | None, **fields: object) -> ItemAppended:
    facts: dict[str, object] = {"item": b"{}", "author": "ann", "branch": 0, **fields}
    return ItemAppended(item_id=item_id, depth=depth, parent_id=parent_id, **facts)  # type: ignore[arg-type]


class given:  # noqa: N801 - tests read it as a word of a sentence
    def __init__(self, *events: Event) -> None:
        self._events = events

    @property
    def state(self) -> Conversation | None:
        return fold(self._events)

    def when(self, command: Command) -> "_When":
        return _When(self._events, self.state, command)


class _When:
    def __init__(self, events: Sequence[Event], state: Conversation | None, command: Command) -> None:
        self._events = events
        self._state = state
        self._command = command

    def then(self, *expected: Event) -> None:
        assert self._decide() == expected

    def refused(self, error: type[Refused]) -> None:
        with pytest.raises(error):
            self._decide()

    def _decide(self) -> tuple[Event, ...]:
        known_items: dict[str, KnownItem] = {}
        for event in self._events:
            if event.row_key in self._command.row_keys and event.row_key is not None:
                item = evolve_item(known_items.pop(event.row_key, None), event)
                if item is not None:
                    known_items[event.row_key] = item
        return decide(CONVERSATION, self._state, self._command, known_items)
