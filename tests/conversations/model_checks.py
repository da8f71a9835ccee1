"""Compares what each subject reads with the model."""

from typing import Any

from infrastructure.access.principal import Principal
from tests.access.apis_as import Apis, user
from tests.conversations.conversation_model import ConversationModel, ModelConversation
from tests.conversations.draws import COMMON_WORDS, SUBJECTS
from tests.conversations.list_checks import check_lists
from tests.conversations.model_parts import ModelFeedback, ModelItem
from tests.conversations.reads import read, read_all, read_json

CHECKED_LEAVES = 2
CHECKED_BRANCHES = 2
CHECKED_VERSIONS = 2
CHECKED_WORDS = 3


class ModelChecks:
    def __init__(self, apis: Apis, model: ConversationModel, tenant: str) -> None:
        self._apis = apis
        self._model = model
        self._tenant = tenant

    async def check(self, position: int) -> None:
        """`position`: the search must show the log up to it."""
        for subject in SUBJECTS:
            await check_lists(self._apis, self._model, self._user(subject))
            await self._check_own_feedback(subject)
            await self._check_search(subject, position)
            await self._check_usage(subject)
        for number, conversation in enumerate(self._model.conversations):
            readers = [subject for subject in SUBJECTS if conversation.is_readable_by(subject)]
            if readers:
                await self._check_conversation(readers[number % len(readers)], conversation)
            for subject in SUBJECTS:
                if subject not in readers:
                    await self._check_unreadable(subject, conversation)

    def _user(self, subject: str) -> Principal:
        return user(subject, self._tenant)

    async def _get(self, subject: str, path: str, **parameters: Any) -> Any:
        return await read_json(self._apis, self._user(subject), path, **parameters)

    async def _all(self, subject: str, path: str, limit: int, **parameters: Any) -> list[Any]:
        return await read_all(self._apis, self._user(subject), path, limit=limit, **parameters)

    async def _check_unreadable(self, subject: str, conversation: ModelConversation) -> None:
        answer = await read(self._apis, self._user(subject), f"/v1/conversations/{conversation.id}/items")
        assert answer.status_code == 404, answer.text

    async def _check_conversation(self, subject: str, conversation: ModelConversation) -> None:
        await self._check_path(subject, conversation, conversation.head)
        for leaf in conversation.nodes[:: len(conversation.nodes) // CHECKED_LEAVES + 1]:
            await self._check_path(subject, conversation, leaf, leaf=leaf.id)
        await self._check_versions(subject, conversation)
        await self._check_context(subject, conversation)
        await self._check_tree(subject, conversation)
        await self._check_feedback(subject, conversation)
        await self._check_responses(subject, conversation)
        document = await self._get(subject, f"/v1/conversations/{conversation.id}")
        assert (document["instructions"], document["metadata"]) == (conversation.instructions, conversation.metadata)

    async def _check_responses(self, subject: str, conversation: ModelConversation) -> None:
        entries = await self._all(subject, f"/v1/conversations/{conversation.id}/responses", 20)
        listed = sorted(
            (entry["id"], entry["status"], [item["id"] for item in entry["output"] if entry["status"] == "completed"])
            for entry in entries
        )
        assert listed == sorted(
            (
                each.id,
                each.status,
                [item.id for item in each.answers if not item.retracted and each.status == "completed"],
            )
            for each in conversation.responses.values()
            if not each.deleted
        )

    async def _check_path(
        self, subject: str, conversation: ModelConversation, last: ModelItem | None, **parameters: Any
    ) -> None:
        path = f"/v1/conversations/{conversation.id}/items"
        entries = await self._all(subject, path, 8, order="asc", **parameters)
        shown = conversation.shown(last)
        listed, wanted = [entry["id"] for entry in entries], [item.id for item in shown]
        if listed != wanted:
            repeated = [entry["id"] for entry in await self._all(subject, path, 8, order="asc", **parameters)]
            raise AssertionError(f"{path} {parameters}: {listed}, not {wanted}. Read once more: {repeated}")
        for entry, item in zip(entries, shown, strict=True):
            assert (entry["content"][0]["text"], entry["role"], entry["author"]) == (item.text, item.role, item.author)
            siblings = conversation.siblings(item)
            expected = {"index": siblings.index(item), "count": len(siblings)}
            assert entry.get("siblings", {"index": 0, "count": 1}) == expected

    async def _check_versions(self, subject: str, conversation: ModelConversation) -> None:
        """Forks are left out, because their old versions change with the origin."""
        states = [] if conversation.origin else [*conversation.states.items()]
        for version, state in states[:: len(states) // CHECKED_VERSIONS + 1]:
            entries = await self._all(
                subject, f"/v1/conversations/{conversation.id}/items", 50, order="asc", as_of=version
            )
            assert [entry["id"] for entry in entries] == [item.id for item in state.shown]

    async def _check_context(self, subject: str, conversation: ModelConversation) -> None:
        context = await self._get(subject, f"/v1/conversations/{conversation.id}/context")
        summary = conversation.active_summary(conversation.head)
        covered = summary.last.path if summary else []
        sent = [
            item for item in conversation.shown(conversation.head) if item not in covered or item in conversation.pinned
        ]
        assert (context["summary"] or {}).get("id") == (summary.id if summary else None)
        entries = [(entry["id"], entry["item"]["content"][0]["text"], entry["pinned"]) for entry in context["items"]]
        assert entries == [(item.id, item.text, item in conversation.pinned) for item in sent]

    async def _check_tree(self, subject: str, conversation: ModelConversation) -> None:
        path = f"/v1/conversations/{conversation.id}/tree"
        nodes = await self._all(subject, path, 8)
        expected = {item.id: item for item in conversation.nodes}
        assert sorted(node["id"] for node in nodes) == sorted(expected)
        assert [(node["depth"], node["branch"]) for node in nodes] == sorted(
            (node["depth"], node["branch"]) for node in nodes
        )
        for node in nodes:
            item = expected[node["id"]]
            parent = item.parent.id if item.parent else None
            is_shown = conversation.shows(item)
            assert (node["parent"], node["depth"]) == (parent, len(item.path))
            ratings = [given.rating for (rated, _), given in conversation.feedback.items() if rated is item]
            assert node["feedback"] == {"positive": ratings.count(1), "negative": ratings.count(-1)}
            assert (node.get("preview"), node.get("retracted", False)) == (
                item.text if is_shown else None,
                not is_shown,
            )
        ends = {node["branch"]: expected[node["id"]] for node in nodes}
        for branch in sorted(ends)[-CHECKED_BRANCHES:]:
            await self._check_path(subject, conversation, ends[branch], branch=branch)
        on_path = [item.id for item in (conversation.head.path if conversation.head else []) if item.id in expected]
        assert (await self._get(subject, path))["active_leaf"] == (on_path[-1] if on_path else None)

    async def _check_feedback(self, subject: str, conversation: ModelConversation) -> None:
        entries = await self._all(subject, f"/v1/conversations/{conversation.id}/feedback", 3)
        assert sorted(
            (entry["item"] or entry["response"], entry["by"], entry["rating"], entry["labels"], entry["comment"] or "")
            for entry in entries
        ) == sorted(
            (_id_of(rated), by, given.rating, [*given.labels], _comment(conversation, rated, given))
            for (rated, by), given in conversation.feedback.items()
        )

    async def _check_own_feedback(self, subject: str) -> None:
        own = [conversation for conversation in self._model.existing if conversation.owner == subject]
        given = [
            (conversation.id, _id_of(rated), by, feedback.rating)
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
            hits = await self._all(subject, "/v1/search", 5, position=position, q=f'"{word}"')
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


def _id_of(rated: ModelItem | str) -> str:
    return rated if isinstance(rated, str) else rated.id


def _comment(conversation: ModelConversation, rated: ModelItem | str, given: ModelFeedback) -> str:
    """Empty if the item or the response is deleted."""
    is_deleted = (
        not conversation.shows(rated) if isinstance(rated, ModelItem) else conversation.responses[rated].deleted
    )
    return "" if is_deleted else given.comment or ""


PROVIDER_TOKENS = 7
"""The input tokens that the provider reports for each request."""
