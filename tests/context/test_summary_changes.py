"""Which summaries of a path are undone, and which one a redo restores."""

from datetime import UTC, datetime
from random import Random

from hypothesis import given as for_any
from hypothesis import strategies as st
from msgspec import Struct

from context.summary_changes import SummaryChanges
from domain.events import CompactionRedone, CompactionUndone, ContextCompacted, Event, PathBranch
from infrastructure.event_log.recorded import Recorded

PATH = (PathBranch(0, 9, 50), PathBranch(7))
ON_PATH = ((0, 3), (0, 9), (7, 12))
OFF_PATH = ((0, 10), (8, 12))


def compacted(branch: int = 0, depth: int = 3) -> ContextCompacted:
    return ContextCompacted(
        compaction_id="cmp_1",
        summary="s",
        first="msg_1",
        last="msg_2",
        branch=branch,
        depth=depth,
        count=2,
        tokens_before=9,
        tokens_after=1,
        model="m",
    )


def summaries(*events: Event) -> tuple[list[int], list[int]]:
    """Versions of kept summaries, newest first, and of redoable summaries, in the order of the redos."""
    changes = SummaryChanges(PATH)
    rows = [
        Recorded(
            position=version,
            conversation_id="conv_1",
            version=version,
            tenant="acme",
            recorded_at=datetime.now(UTC),
            subject="ann",
            correlation_id="",
            event=event,
        )
        for version, event in enumerate(events, 1)
    ]
    kept = [row.version for row in reversed(rows) if changes.add_older(row)]
    return kept, [row.version for _, row in sorted(changes.undone, key=lambda undone: undone[0], reverse=True)]


def test_an_undo_that_names_no_summary_undoes_the_newest_one() -> None:
    both_undone = (compacted(), compacted(), CompactionUndone(active=1), CompactionUndone(active=0))
    assert summaries(*both_undone[:3]) == ([1], [2])
    assert summaries(*both_undone) == ([], [1, 2])
    assert summaries(*both_undone, CompactionRedone(active=1)) == ([1], [2])
    assert summaries(*both_undone, CompactionRedone(active=1), CompactionRedone(active=2)) == ([2, 1], [])
    assert summaries(*both_undone, compacted()) == ([5], [])


class Model(Struct):
    """Follows the events in their order. `undone` and `redoable` are in the order of the undos."""

    kept: list[int] = []
    undone: list[int] = []
    redoable: list[int] = []
    events: list[Event] = []

    def compact(self, random: Random) -> None:
        is_on_path = random.random() < 0.7
        self.events.append(compacted(*random.choice(ON_PATH if is_on_path else OFF_PATH)))
        if is_on_path:
            self.kept.append(len(self.events))
            self.redoable.clear()

    def undo(self, random: Random) -> None:
        """Undoes any summary, because a summary may be the newest one of another path."""
        if self.kept:
            summary = random.choice(self.kept)
            self.events.append(CompactionUndone(active=0, undone=summary))
            self.kept.remove(summary)
            self.undone.append(summary)
            self.redoable.append(summary)

    def redo(self, random: Random) -> None:
        if self.undone:
            summary = random.choice(self.undone)
            self.events.append(CompactionRedone(active=summary))
            self.kept.append(summary)
            self.undone.remove(summary)
            if summary in self.redoable:
                self.redoable.remove(summary)


@for_any(st.randoms(use_true_random=False), st.integers(1, 30))
def test_changes_read_backwards_give_the_same_summaries_as_the_model(random: Random, steps: int) -> None:
    model = Model()
    for _ in range(steps):
        random.choice((model.compact, model.undo, model.redo))(random)
    assert summaries(*model.events) == (sorted(model.kept, reverse=True), model.redoable[::-1])
