"""The Python files of the project, for tests that check the code itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.servers import ROOT

PACKAGES = (
    "commands",
    "context",
    "domain",
    "infrastructure",
    "projections",
    "queries",
    "replies",
    "scripts",
    "tests",
)


def syntax_trees(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    """Paths are relative to the project's root."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_bytes())
