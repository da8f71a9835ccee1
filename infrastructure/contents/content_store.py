"""The tables `contents` and `content_rows`."""

from collections.abc import Iterable
from typing import Any, Final

from psycopg import AsyncConnection

from domain.content_references import ROW_BYTES

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
    """Stores the content, unless the tenant has it already. `rows`: parts of ROW_BYTES; the last part may be shorter.

    Call this in a transaction, before what names the content is stored. A transaction waits here while another one
    stores or deletes the same content.
    """
    named = {"tenant": tenant, "sha256": sha256}
    row = await (await connection.execute(_KEEP, {**named, "size": size})).fetchone()
    if row == (True,):
        for number, data in enumerate(rows):
            await connection.execute(_ADD_ROW, {**named, "number": number, "bytes": data})


def row_count(size: int) -> int:
    """How many rows a content of `size` bytes has."""
    return -(-size // ROW_BYTES)
