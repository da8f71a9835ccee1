"""Compares the fields, paths, context, tree, feedback and responses of one conversation with the model."""

from operator import itemgetter

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.model_parts import ModelFeedback, ModelItem, path_to
from tests.conversations.path_checks import check_branches, check_paths, check_versions
from tests.conversations.reads import ConversationReads


async def check_conversation(reads: ConversationReads, conversation: ModelConversation) -> None:
    document = await reads.get()
    assert (document["title"], document["instructions"]) == (conversation.title, conversation.instructions)
    assert (document["metadata"], document["archived"]) == (conversation.metadata, conversation.archived)
    await check_paths(reads, conversation)
    await check_versions(reads, conversation)
    await _check_context(reads, conversation)
    await _check_tree(reads, conversation)
    await _check_feedback(reads, conversation)
    await _check_responses(reads, conversation)


async def _check_context(reads: ConversationReads, conversation: ModelConversation) -> None:
    """A pinned item is sent even if the summary covers the item."""
    context = await reads.get("/context")
    summary = conversation.active_summary(conversation.head)
    covered = summary.last.path if summary else []
    shown = conversation.shown(conversation.head)
    sent = [item for item in shown if item not in covered or item in conversation.pinned]
    assert (context["summary"] or {}).get("id") == (summary.id if summary else None)
    entries = [(entry["id"], entry["item"]["content"][0]["text"], entry["pinned"]) for entry in context["items"]]
    assert entries == [(item.id, item.text, item in conversation.pinned) for item in sent]


async def _check_tree(reads: ConversationReads, conversation: ModelConversation) -> None:
    nodes = await reads.all("/tree", 8)
    expected = {item.id: item for item in conversation.nodes}
    assert sorted(node["id"] for node in nodes) == sorted(expected)
    order = [(node["depth"], node["branch"]) for node in nodes]
    assert order == sorted(order)
    for node in nodes:
        item = expected[node["id"]]
        assert (node["parent"], node["depth"]) == (item.parent.id if item.parent else None, len(item.path))
        ratings = [given.rating for (rated, _), given in conversation.feedback.items() if rated is item]
        assert node["feedback"] == {"positive": ratings.count(1), "negative": ratings.count(-1)}
        is_shown = conversation.shows(item)
        preview = item.text if is_shown else None
        assert (node.get("preview"), node.get("retracted", False)) == (preview, not is_shown)
    await check_branches(reads, conversation, nodes)
    on_path = [item.id for item in path_to(conversation.head) if item.id in expected]
    assert (await reads.get("/tree"))["active_leaf"] == (on_path[-1] if on_path else None)


async def _check_feedback(reads: ConversationReads, conversation: ModelConversation) -> None:
    entries = await reads.all("/feedback", 3)
    assert sorted(
        (entry["item"] or entry["response"], entry["by"], entry["rating"], entry["labels"], entry["comment"] or "")
        for entry in entries
    ) == sorted(
        (id_of(rated), by, given.rating, [*given.labels], _comment(conversation, rated, given))
        for (rated, by), given in conversation.feedback.items()
    )


def id_of(rated: ModelItem | str) -> str:
    return rated if isinstance(rated, str) else rated.id


def _comment(conversation: ModelConversation, rated: ModelItem | str, given: ModelFeedback) -> str:
    """Empty if the item or the response is deleted."""
    is_deleted = (
        not conversation.shows(rated) if isinstance(rated, ModelItem) else conversation.responses[rated].deleted
    )
    return "" if is_deleted else given.comment or ""


async def _check_responses(reads: ConversationReads, conversation: ModelConversation) -> None:
    """Outputs are compared only for completed replies."""
    entries = await reads.all("/responses", 8)
    outputs = [[item["id"] for item in entry["output"] if entry["status"] == "completed"] for entry in entries]
    listed = [
        (entry["id"], entry["status"], entry["metadata"], output)
        for entry, output in zip(entries, outputs, strict=True)
    ]
    expected = [
        (each.id, each.status, each.metadata, [item.id for item in each.shown_answers])
        for each in conversation.responses.values()
        if not each.deleted
    ]
    assert sorted(listed, key=itemgetter(0)) == sorted(expected, key=itemgetter(0))
