"""Contents of a request, in memory and on disk."""

import hashlib
import os

import pytest

from domain.content_references import ROW_BYTES
from infrastructure.given_contents import MAX_MEMORY_BYTES, GivenContents


@pytest.mark.parametrize("factor", [1, MAX_MEMORY_BYTES // ROW_BYTES], ids=["in memory", "on disk"])
def test_contents_are_read_in_rows(factor: int) -> None:
    contents = [os.urandom(size * factor) for size in (1, ROW_BYTES // 8, ROW_BYTES, ROW_BYTES + 1)]
    by_hash = {hashlib.sha256(data).digest(): data for data in contents}
    given = GivenContents()
    for sha256, data in [*by_hash.items()] * 2:
        given.add(sha256, data)
    assert given.sizes == {sha256: len(data) for sha256, data in by_hash.items()}
    for sha256, data in reversed(by_hash.items()):
        assert sha256 in given
        count = -(-len(data) // ROW_BYTES)
        rows = [given.row(sha256, number) for number in range(count)]
        assert rows == [data[start : start + ROW_BYTES] for start in range(0, len(data), ROW_BYTES)]
        assert given.row(sha256, count) is None
        assert list(given.rows(sha256)) == rows
    assert b"another" not in given
