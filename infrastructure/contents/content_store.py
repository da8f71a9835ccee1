"""The tables `contents` and `content_rows`."""

from collections.abc import Iterable
from typing import Any, Final

from psycopg import AsyncConnection

ROW_BYTES: Final = 256 * 1024

_KEEP: Final = """
    INSERT INTO contents (tenant_id, sha256, size) VALUES (%(tenant)s, %(sha256)s, %(size)s)
    ON CONFLICT (tenant_id, sha256) DO UPDATE SET written_at = now() RETURNING xmax = 0
"""
_ADD_ROW: Final = """
    INSERT INTO content_rows (tenant_id, sha256, number, bytes) VALUES (%(tenant)s, %(sha256)s, %(number)s, %(bytes)s)
"""


async def keep_content(
    connection: AsyncConnection[Any], tenant: str, *, sha256: bytes, size: int, rows: Iterable[bytes]
) -> None:
    """`rows`: of ROW_BYTES, the last one may be shorter. Stores the content, unless the tenant has it already. Call it in a transaction, before what names the content.

    Two transactions that store the same bytes wait for each other here, and so does one for a collection of them.
    """
    named = {"tenant": tenant, "sha256": sha256}
    row = await (await connection.execute(_KEEP, {**named, "size": size})).fetchone()
    if row == (True,):
        for number, data in enumerate(rows):
            await connection.execute(_ADD_ROW, {**named, "number": number, "bytes": data})


def row_count(size: int) -> int:
    """Of a content with `size` bytes."""
    return -(-size // ROW_BYTES)
