"""The lists of parameters in docs/clients.md, and the fields of the official client's types."""

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from typing_extensions import is_typeddict

from tests.servers import ROOT

PAGE = (ROOT / "docs" / "clients.md").read_text()
APIS = ("responses", "chat")


def listed(heading: str, columns: int) -> list[list[str]]:
    """The cells of the first table below `heading`, without backticks."""
    table = PAGE[PAGE.index(heading) :].split("\n|---", 1)[1].split("\n\n", 1)[0].split("\n")[1:]
    rows = [[cell.strip().strip("`") for cell in re.split(r"\|", row)[1:-1]] for row in table]
    assert all(len(row) == columns for row in rows)
    return rows


def fields(parameters: Any, prefix: str = "") -> Iterator[str]:
    """The names of the fields, also of inner objects: `reasoning`, `reasoning.effort` …"""
    for name, annotation in typing.get_type_hints(parameters).items():
        yield prefix + name
        is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        member = members[0] if is_union and len(members) == 1 else annotation
        if is_typeddict(member):
            yield from fields(member, f"{prefix}{name}.")


def value_at(body: Any, name: str) -> Any:
    for step in name.split("."):
        body = body[step]
    return body
