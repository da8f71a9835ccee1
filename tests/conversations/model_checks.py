"""Compares what each subject reads with the model."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from infrastructure.access.principal import Principal
from tests.access.apis_as import Apis, user
from tests.conversations.conversation_checks import check_conversation, id_of
from tests.conversations.conversation_model import ConversationModel, ModelConversation
from tests.conversations.draws import COMMON_WORDS, SUBJECTS
from tests.conversations.list_checks import check_lists
from tests.conversations.reads import ConversationReads, read, read_all, read_json

CHECKED_WORDS = 3
PROVIDER_TOKENS = 7
"""The input tokens that the provider reports for each request."""


class ModelChecks:
    """Reads through each of the apis in turn."""

    def __init__(self, apis: Sequence[Apis], model: ConversationModel, tenant: str) -> None:
        self._apis = cycle(apis)
        self._model = model
        self._tenant = tenant

    async def check(self, position: int) -> None:
        """`position`: the search must show the log up to it."""
        for subject in SUBJECTS:
            await check_lists(next(self._apis), self._model, self._user(subject))
            await self._check_own_feedback(subject)
            await self._check_search(subject, position)
            await self._check_usage(subject)
        for number, conversation in enumerate(self._model.conversations):
            readers = [subject for subject in SUBJECTS if conversation.is_readable_by(subject)]
            if readers:
                reader = self._user(readers[number % len(readers)])
                await check_conversation(ConversationReads(next(self._apis), reader, conversation.id), conversation)
            for subject in SUBJECTS:
                if subject not in readers:
                    await self._check_unreadable(subject, conversation)

    def _user(self, subject: str) -> Principal:
        return user(subject, self._tenant)

    async def _get(self, subject: str, path: str, **parameters: Any) -> Any:
        return await read_json(next(self._apis), self._user(subject), path, **parameters)

    async def _check_unreadable(self, subject: str, conversation: ModelConversation) -> None:
        answer = await read(next(self._apis), self._user(subject), f"/v1/conversations/{conversation.id}/items")
        assert answer.status_code == 404, answer.text

    async def _check_own_feedback(self, subject: str) -> None:
        own = [conversation for conversation in self._model.existing if conversation.owner == subject]
        given = [
            (conversation.id, id_of(rated), by, feedback.rating)
            for conversation in own
            for (rated, by), feedback in conversation.feedback.items()
        ]
        page = await self._get(subject, "/v1/feedback", limit=100)
        entries = [
            (entry["conversation"], entry["item"] or entry["response"], entry["by"], entry["rating"])
            for entry in page["data"]
        ]
        assert sorted(entries) == sorted(given)
        ratings = [rating for *_, rating in given]
        counts = {name: page["counts"][name] for name in ("positive", "negative")}
        assert counts == {"positive": ratings.count(1), "negative": ratings.count(-1)}

    async def _check_search(self, subject: str, position: int) -> None:
        items = [item for conversation in self._model.conversations for item in conversation.items]
        words = [*COMMON_WORDS, *(item.text.split()[0] for item in items)]
        for word in words[:: len(words) // CHECKED_WORDS + 1]:
            by, quoted = self._user(subject), f'"{word}"'
            hits = await read_all(next(self._apis), by, "/v1/search", limit=5, position=position, q=quoted)
            assert {hit["item"] for hit in hits} == self._model.found_by(subject, word), word
            for hit in hits:
                [conversation] = [each for each in self._model.readable_by(subject) if each.id == hit["conversation"]]
                assert hit["item"] in [item.id for item in conversation.nodes if conversation.shows(item)]

    async def _check_usage(self, subject: str) -> None:
        usage = await self._get(subject, "/v1/usage", group_by="conversation,user")
        counted = {
            each.id: (each.replies.get(subject, 0), each.compactions.get(subject, 0))
            for each in self._model.conversations
            if subject in each.replies or subject in each.compactions
        }
        assert {row["conversation"]: (row["replies"], row["summaries"]) for row in usage["data"]} == counted
        for row in usage["data"]:
            least = (row["replies"] + row["summaries"]) * PROVIDER_TOKENS  # a summary may take several requests
            assert row["input_tokens"] == least or (row["summaries"] and row["input_tokens"] > least)
