"""One concept has one name. Names that were replaced must not come back.

Each line of a table has a replaced word, and what to write instead. Underscores at the ends of a name are ignored.

- EVERYWHERE: no name may be the word. No metric's name or label may contain the word.
- CLASSES: no class may have this name.
- MODULES: no file or folder may have this name.
- IN_FOLDERS: no name in these folders or files may be the word.
- PREFIXES: no name may begin with these. Write MAX_ instead.
- ALLOWED: exceptions, each with its reason.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.servers import ROOT
from tests.source_code import PACKAGES, syntax_trees

EVERYWHERE = {
    "place": "view_position (ViewPosition: one view in one partition)",
    "places": "view_positions",
    "standing": "view_status (ViewStatus: a whole view)",
    "standings": "view_statuses",
    "bucket": "partition",
    "buckets": "partitions",
    "lane": "view_updater (ViewUpdater)",
    "lanes": "view_updaters",
    "runner": "projector (Projector)",
    "bell": "AppendNotifications",
    "bells": "AppendNotifications",
    "ring": "notify",
    "trouble": "retry_policy (RetryPolicy)",
    "troubles": "retry_policy (RetryPolicy)",
    "fenced": "position_moved (PositionMoved)",
    "outdone": "newer_leases",
    "generation": "build (ViewBuild)",
    "generations": "builds",
    "filling": "backfill",
    "renewal": "upgrade",
    "renewals": "upgrades",
    "comparing": "compare",
    "mongo_line": "mongo_pipeline",
    "heads": "version_lookup",
    "there": "unretracted",
    "tail": "recent (RecentItems), history_backwards",
    "stretch": "path_segment (PathSegment)",
    "stretches": "path_segments",
    "known": "context_input (ContextInput), known_…",
    "candidate": "item (ContextItem)",
    "candidates": "items",
    "chosen": "choice (ContextChoice)",
    "asked": "reply_request (ReplyRequest), request",
    "rendered_again": "rerender",
    "again": "rerendered (Rerendered)",
    "carry_out": "command_context",
    "caller": "context (CommandContext, QueryContext)",
    "wiring": "dependencies (Dependencies)",
    "called": "CommandContext",
    "verb": "command_route",
    "placing": "reply_target",
    "settling": "record_reply_end",
    "deciding": "batch_decider (BatchDecider)",
    "unanswered": "OutcomeUnknown",
    "silent": "ServerTimedOut",
    "began": "item_started (ItemStarted), started_at",
    "grew": "item_delta (ItemDelta)",
    "whole": "item_done (ItemDone), reaches_start, complete",
    "said": "answer_text (AnswerText), text",
    "growing": "partial_item (PartialItem)",
    "pieces": "stream_parts, chunks",
    "hole": "missing_entries (MissingEntries)",
    "holes": "missing_entries",
    "told_so_far": "events_so_far",
    "mine": "own_lease (OwnLease)",
    "made": "SNAPSHOT_FORMAT, created",
    "heavy": "pins_too_large",
    "held": "expected_versions, leased",
    "over": "ended_replies, has_ended, stop",
    "below": "expected_head",
    "patience": "timeout",
    "patience_seconds": "<what>_timeout_seconds",
}

CLASSES = {
    "Place": "ViewPosition",
    "Standing": "ViewStatus",
    "Caller": "CommandContext, QueryContext",
    "Line": "PostgresPipeline",
    "Work": "AppendRequest",
    "Waiting": "QueuedAppend",
    "Outcome": "AppendOutcome",
    "Plan": "BatchPlan",
    "Forbidden": "Conflict (a 409)",
}

MODULES = {
    "line": "postgres_pipeline",
    "path": "path_segments",
    "listening": "client_disconnect",
    "running": "active_replies; in scripts: store_location",
    "keepalive": "http_connection",
    "looking": "visibility_probe",
    "flat": "append_cost",
    "site": "bench_store",
}

IN_FOLDERS = {
    ("replies", "turns"): "whole_items (what a model answers are items)",
    (
        "infrastructure/event_log/batch_decider.py",
        "item_id",
    ): "row_key (the id of an item, `pins`, or the id of a response)",
}
"""(folder or file, name in it) -> what to write instead."""

ALLOWED = {
    ("infrastructure/event_log/version_lookup.py", "heads"): "values of the type Head",
}
"""(file, name) -> why this file may use the name."""

PREFIXES = ("MOST_", "LARGEST_", "LONGEST_", "DEEPEST_")
METRICS = ("Counter", "Gauge", "Histogram", "Summary", "Info", "Enum")


class Named(NamedTuple):
    """A name in the code. `kind`: module, class, function, parameter, variable, constant, metric."""

    kind: str
    name: str
    file: str
    line: int


def test_no_replaced_name_is_used() -> None:
    uses = [use for named in names_of_the_project() if (use := objection(named)) is not None]
    assert not uses, f"{len(uses)} replaced names:\n" + "\n".join(sorted(uses))


def test_no_test_file_is_named_after_a_review() -> None:
    assert sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests").rglob("test_reviewed*.py")) == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("class Place: ...", "Place"),
        ("class _Lane: ...", "_Lane"),
        ("class Outcome: ...", "Outcome"),
        ("def carry_out(): ...", "carry_out"),
        ("async def f(self, *, below): ...", "below"),
        ("lambda bucket: 1", "bucket"),
        ("class C:\n    def ring(self): ...", "ring"),
        ("class C:\n    held: int", "held"),
        ("MOST_BYTES = 1", "MOST_BYTES"),
        ("PATIENCE_SECONDS: float = 1.0", "PATIENCE_SECONDS"),
        ("known = 1", "known"),
        ("for place in (): ...", "place"),
        ("self._held = {}", "_held"),
        ("Gauge('conversation_store_bucket_position', 'Help.')", "conversation_store_bucket_position"),
        ("Counter('appends', 'Help.', ['bucket'])", "bucket"),
    ],
)
def test_a_replaced_name_is_found(code: str, name: str) -> None:
    assert {named.name for named in names_in(ast.parse(code), "file.py") if objection(named) is not None} == {name}


@pytest.mark.parametrize(
    ("file", "is_replaced"), [("replies/output.py", True), ("replies.py", False), ("context/selection.py", False)]
)
def test_a_name_that_is_replaced_in_a_folder_may_be_used_elsewhere(file: str, is_replaced: bool) -> None:
    assert (objection(Named("variable", "turns", file, 1)) is not None) is is_replaced


@pytest.mark.parametrize("file", ["projections/trouble.py", "infrastructure/path.py", "scripts/keepalive.py"])
def test_a_replaced_module_is_found(file: str) -> None:
    assert [objection(module) for module in modules_of(Path(file))][-1] is not None


@pytest.mark.parametrize(
    "code", ["def f(path, outcome, line): ...", "class Placement: ...", "path = 1", "MAX_BYTES = 1"]
)
def test_other_names_may_be_used(code: str) -> None:
    assert [named for named in names_in(ast.parse(code), "file.py") if objection(named) is not None] == []


def test_metrics_are_among_the_names() -> None:
    metrics = {named.name for named in names_of_the_project() if named.kind == "metric"}
    assert {"events_appended_total", "projection_position"} <= metrics


def test_every_entry_of_allowed_is_still_needed() -> None:
    used = {(named.file, named.name.strip("_")) for named in names_of_the_project()}
    assert [allowed for allowed in ALLOWED if allowed not in used] == []


def objection(named: Named) -> str | None:
    """Returns the message `file:line kind name -> what to write instead`, or None if the name may be used."""
    if (named.file, named.name.strip("_")) in ALLOWED:
        return None
    use = replacement(named)
    return use and f"{named.file}:{named.line} {named.kind} {named.name} -> {use}"


def replacement(named: Named) -> str | None:
    name = named.name.strip("_")
    if named.kind == "metric":
        words = (EVERYWHERE.get(word) for word in name.split("_"))
        return EVERYWHERE.get(name) or next((use for use in words if use), None)
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return f"MAX_{name.removeprefix(prefix)}"
    for (folder, word), use in IN_FOLDERS.items():
        if name.lower() == word and Path(named.file).is_relative_to(folder):
            return use
    if named.kind == "class":
        return CLASSES.get(name) or EVERYWHERE.get(snake_case(name))
    if named.kind == "module":
        name = name.removeprefix("test_")
        return MODULES.get(name) or EVERYWHERE.get(name)
    return EVERYWHERE.get(name.lower())


@cache
def names_of_the_project() -> tuple[Named, ...]:
    names: list[Named] = []
    for file, tree in syntax_trees(*PACKAGES):
        names += modules_of(file)
        names += names_in(tree, str(file))
    return tuple(names)


def modules_of(file: Path) -> Iterator[Named]:
    for folder in file.parts[:-1]:
        yield Named("module", folder, str(file), 1)
    yield Named("module", file.stem, str(file), 1)


def names_in(tree: ast.Module, file: str) -> Iterator[Named]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name, lineno=line, body=body):
                yield Named("class", name, file, line)
                for statement in body:
                    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                        yield Named("parameter", statement.target.id, file, statement.lineno)
            case ast.FunctionDef(name=name, lineno=line) | ast.AsyncFunctionDef(name=name, lineno=line):
                yield Named("function", name, file, line)
            case ast.arg(arg=name, lineno=line):
                yield Named("parameter", name, file, line)
            case (
                ast.Name(id=name, ctx=ast.Store(), lineno=line) | ast.Attribute(attr=name, ctx=ast.Store(), lineno=line)
            ):
                yield Named("constant" if name.isupper() else "variable", name, file, line)
            case ast.Call(func=ast.Name(id=kind) | ast.Attribute(attr=kind), args=[ast.Constant(value=str()), *_]) if (
                kind in METRICS
            ):
                for constant in ast.walk(node):
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        if re.fullmatch("[a-z_]+", constant.value):  # not the help text
                            yield Named("metric", constant.value, file, constant.lineno)


def snake_case(name: str) -> str:
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
