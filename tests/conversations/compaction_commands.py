"""Random summaries: compact, undo, redo."""

from typing import Any, Final

from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import Command, Draws
from tests.conversations.model_parts import ModelSummary, path_to

SUMMARY_MODEL: Final = "summarizing"
"""The window of this model is small, so a few items are enough for a summary."""
SUMMARY_WINDOW: Final = 480


MIN_ITEMS: Final = 6
"""With fewer items there is rarely something to summarize."""


def compact(draws: Draws, conversation: ModelConversation) -> Command | None:
    if len(conversation.shown(conversation.head)) < MIN_ITEMS:
        return None
    subject = draws.writer(conversation)

    def apply(answer: Any) -> None:
        last = conversation.item(answer["to"])
        assert last is not None
        active = conversation.active_summary(conversation.head)
        replaced = active if active is not None and active.conversation is conversation else None
        path = path_to(conversation.head)
        kept = [
            each
            for each in conversation.summaries
            if (replaced is not None and each.version <= replaced.version) or each.last not in path
        ]
        created = ModelSummary(
            conversation=conversation, version=answer["version"], id=answer["id"], last=last, replaces=replaced
        )
        conversation.summaries = [*kept, created]
        conversation.undone = [each for each in conversation.undone if each.last not in path]
        conversation.compactions[subject] = conversation.compactions.get(subject, 0) + 1
        draws.model.summaries.append(created)

    body, refusals = {"model": SUMMARY_MODEL}, frozenset({"nothing_to_compact"})
    return draws.command("compact", conversation, apply, "/compact", body, subject=subject, refusals=refusals)


def undo(draws: Draws, conversation: ModelConversation) -> Command | None:
    if not _on_path(conversation, conversation.summaries):
        return None

    def apply(_: Any) -> None:
        undone = _on_path(conversation, conversation.summaries)[-1]
        conversation.summaries.remove(undone)
        conversation.undone.insert(0, undone)

    return draws.command("undo", conversation, apply, "/compact/undo")


def redo(draws: Draws, conversation: ModelConversation) -> Command | None:
    if not _on_path(conversation, conversation.undone):
        return None

    def apply(_: Any) -> None:
        redone = _on_path(conversation, conversation.undone)[0]
        conversation.undone.remove(redone)
        conversation.summaries = sorted([*conversation.summaries, redone], key=lambda each: each.version)

    return draws.command("redo", conversation, apply, "/compact/redo")


def _on_path(conversation: ModelConversation, summaries: list[ModelSummary]) -> list[ModelSummary]:
    path = path_to(conversation.head)
    return [summary for summary in summaries if summary.last in path]
