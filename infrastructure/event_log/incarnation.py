"""How readers notice that the log has lost events, after a restore, a switch to a lagging replica, or the removal of
rows.

New events then get the positions of lost events. So two values are kept with each position:

incarnation   "epoch/table/start". While this value stays the same, rows were only added. `epoch` changes when rows of
              `events` are removed (migrations/0011). `table` is the OID of `events`. A restore makes a new table.
              `start` is the time when the server started
chain_hash    the hash of the event at the position. If the log still has this hash, and the epoch is the same, then all
              events up to this position are the same
"""

from collections.abc import Mapping
from typing import Final, LiteralString

import psycopg
from msgspec import Struct

INCARNATION: Final[LiteralString] = (
    "coalesce((SELECT epoch FROM log_epoch LIMIT 1), '') || '/' || 'events'::regclass::oid"
    " || '/' || extract(epoch FROM pg_postmaster_start_time())"
)


class LogMoved(psycopg.OperationalError):
    """Events that were in the log a moment ago are gone. The reader must start again."""


class LogPosition(Struct, frozen=True):
    """A position, and the two values that are kept with it. Position 0 is before the first event. Older code stored only `position`."""

    position: int = 0
    chain_hash: str = ""
    incarnation: str = ""


class LogCheck(Struct, frozen=True):
    """What the log has now. `chain_hashes`: by position, without positions that have no event."""

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
    """`chain_hash`: empty if unknown."""

    version: int
    chain_hash: str
    incarnation: str


def _epoch(incarnation: str) -> str:
    return incarnation.partition("/")[0]
