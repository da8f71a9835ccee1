"""How readers notice that the log moved back: it was restored from a backup, a lagging replica took over, or rows were removed.

After that, new events get the positions that lost events had. So a position alone does not tell which events were read. Two values are kept
with each position:

incarnation   "epoch/table/start". As long as it stays the same, rows were only added. `epoch` changes when rows of `events` are removed
              (migrations/0011). `table` is the OID of `events`: a restore makes a new table. `start` is the time when the server started.
              A statement that reads rows usually returns the incarnation too, so both belong to the same moment.
chain_hash    The chain hash of the event at the position. If the log still has this hash at this position, and the epoch is the same, then
              all events up to this position are the same.
"""

from collections.abc import Mapping
from typing import Final, LiteralString

import psycopg
from msgspec import Struct

INCARNATION: Final[LiteralString] = (
    "coalesce((SELECT epoch FROM log_epoch LIMIT 1), '') || '/' || 'events'::regclass::oid"
    " || '/' || extract(epoch FROM pg_postmaster_start_time())"
)
"""The SQL expression for the incarnation."""


class LogMoved(psycopg.OperationalError):
    """Events that were in the log a moment ago are no longer in it. The reader must start again."""


class LogPosition(Struct, frozen=True):
    """A position of the log, the chain hash of the event there, and the log's incarnation at that time. Position 0 is before the first event.

    Older code stored only the position. Then the other two fields are empty.
    """

    position: int = 0
    chain_hash: str = ""
    incarnation: str = ""


class LogCheck(Struct, frozen=True):
    """The log's incarnation, and the chain hashes of its events at some positions. A position without an event is left out."""

    incarnation: str
    chain_hashes: Mapping[int, str]

    def has(self, log_position: LogPosition) -> bool:
        """Whether the log up to this position still has the events that were read."""
        if log_position.position <= 0 or log_position.incarnation == self.incarnation:
            return True
        chain_hash = self.chain_hashes.get(log_position.position)
        if not log_position.incarnation:
            return chain_hash is not None
        return chain_hash == log_position.chain_hash and _epoch(log_position.incarnation) == _epoch(self.incarnation)


class StreamVersion(Struct, frozen=True):
    """A version of a conversation, the chain hash of its event (empty if it is not known), and the log's incarnation when it was read."""

    version: int
    chain_hash: str
    incarnation: str


def _epoch(incarnation: str) -> str:
    return incarnation.partition("/")[0]
