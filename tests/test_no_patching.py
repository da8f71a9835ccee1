"""No test patches our own modules or objects. Libraries may be patched."""

import ast
from collections.abc import Iterator

import pytest

from tests.source_code import PACKAGES, syntax_trees

PATCHES = ("setattr", "delattr", "setitem", "delitem", "patch")


def test_no_test_patches_our_own_modules() -> None:
    patches = [f"{file}:{line} {code}" for file, tree in syntax_trees("tests") for line, code in patches_in(tree)]
    assert not patches, "pass these as arguments instead:\n" + "\n".join(patches)


@pytest.mark.parametrize(
    "code",
    [
        "from replies import leases\nmonkeypatch.setattr(leases, 'RENEW_SECONDS', 1)",
        "import replies.leases\nmonkeypatch.setattr(replies.leases, 'RENEW_SECONDS', 1)",
        "monkeypatch.setattr('replies.leases.RENEW_SECONDS', 1)",
        "monkeypatch.setattr(store, 'read', lambda: 1)",
        "from domain.models import VERSIONS\nmonkeypatch.setitem(VERSIONS, 'items', 2)",
        "from unittest import mock\nmock.patch('replies.leases.RENEW_SECONDS')",
        "from replies import leases\nleases.RENEW_SECONDS = 1",
    ],
)
def test_a_patch_is_found(code: str) -> None:
    assert len(list(patches_in(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nmonkeypatch.setattr(sys, 'stdout', None)",
        "monkeypatch.setenv('TZ', 'UTC')",
        "from pymongo import pool\nmonkeypatch.setattr(pool, 'read', None)",
        "client.patch('/v1/conversations')",
        "provider.script = answer",
    ],
)
def test_other_code_is_not_reported(code: str) -> None:
    assert list(patches_in(ast.parse(code))) == []


def patches_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, code) of each patch. An assignment counts only for an object of our packages."""
    packages = imported_packages(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=patcher), attr=method), args=[target, *_]) if (
                method in PATCHES and ("patch" in patcher or patcher == "mock")
            ):
                if package_of(target, packages) in (*PACKAGES, None):
                    yield node.lineno, ast.unparse(node)
            case ast.Attribute(ctx=ast.Store()) if package_of(node, packages) in PACKAGES:
                yield node.lineno, f"{ast.unparse(node)} = …"


def imported_packages(tree: ast.Module) -> dict[str, str]:
    packages: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {(alias.asname or alias.name).partition(".")[0]: first_part(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            packages |= {alias.asname or alias.name: first_part(node.module) for alias in node.names}
    return packages


def package_of(target: ast.expr, packages: dict[str, str]) -> str | None:
    """None for a local object."""
    if isinstance(target, ast.Constant):
        return first_part(str(target.value))
    while isinstance(target, ast.Attribute):
        target = target.value
    return packages.get(target.id) if isinstance(target, ast.Name) else None


def first_part(name: str) -> str:
    return name.partition(".")[0]
