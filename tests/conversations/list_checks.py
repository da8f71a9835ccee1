"""Compares the lists of conversations of one subject with the model."""

from collections.abc import Callable, Mapping
from typing import Any

from infrastructure.access.principal import Principal
from tests.access.apis_as import Apis
from tests.conversations.conversation_model import ConversationModel, ModelConversation
from tests.conversations.reads import read_all, read_json

PATH = "/v1/conversations"
LIMIT = 4

Matches = Callable[[ModelConversation], bool]


async def check_lists(apis: Apis, model: ConversationModel, reader: Principal) -> None:
    everything = [each for each in model.readable_by(reader.subject) if each.listed]
    by_activity = sorted(everything, key=lambda conversation: conversation.position)
    entries = await _read_both_ways(apis, reader, order_by="activity", order="asc")
    assert [entry["id"] for entry in entries] == [conversation.id for conversation in by_activity]
    for entry, conversation in zip(entries, by_activity, strict=True):
        assert {name: entry[name] for name in shown(conversation)} == shown(conversation)
    for parameters, matches in _filters(everything, reader.subject):
        entries = await read_all(apis, reader, PATH, limit=LIMIT, **parameters)
        expected = sorted((each.id for each in everything if matches(each)), reverse=True)
        assert [entry["id"] for entry in entries] == expected, parameters


def shown(conversation: ModelConversation) -> dict[str, Any]:
    own = [item for item in conversation.shown(conversation.head) if item.conversation is conversation]
    return {
        "title": conversation.title,
        "owner": conversation.owner,
        "metadata": conversation.metadata,
        "archived": conversation.archived,
        "status": "ended" if conversation.ended else "active",
        "item_count": sum(not item.retracted for item in conversation.items),
        "first_text": own[0].text if own else None,
        "last_text": own[-1].text if own else None,
        "running_response": None,
    }


def _filters(everything: list[ModelConversation], subject: str) -> list[tuple[Mapping[str, Any], Matches]]:
    filters: list[tuple[Mapping[str, Any], Matches]] = [
        ({"archived": "true"}, lambda conversation: conversation.archived),
        ({"status": "ended"}, lambda conversation: conversation.ended),
        ({"archived": "false", "shared": "false"}, lambda one: not one.archived and one.owner == subject),
        ({"metadata[kind]": "play"}, lambda one: one.metadata.get("kind") == "play"),
        ({"shared": "true"}, lambda conversation: conversation.owner != subject),
    ]
    if everything and (title := everything[-1].title):
        last_word = title.split()[-1]
        filters.append(({"title": last_word.upper()}, lambda one: last_word in (one.title or "").split()))
    return filters


async def _read_both_ways(apis: Apis, reader: Principal, **parameters: Any) -> list[Any]:
    page = await read_json(apis, reader, PATH, limit=LIMIT, **parameters)
    entries: list[Any] = page["data"]
    while page["next_cursor"]:
        page = await read_json(apis, reader, PATH, limit=LIMIT, after=page["next_cursor"], **parameters)
        entries = [*entries, *page["data"]]
    backwards: list[Any] = page["data"]
    while page["previous_cursor"]:
        page = await read_json(apis, reader, PATH, limit=LIMIT, before=page["previous_cursor"], **parameters)
        backwards = [*page["data"], *backwards]
    assert backwards == entries
    return entries
