"""What operators may do to the log. A returned `Rows` has the rows that the log must still have."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from msgspec import Struct

from domain.events import REPLY_ENDS, ReplyRequested
from infrastructure.ids import uuid_of
from scripts.verification.streams import Stream
from tests.end_to_end.log_copy import LogCopy
from tests.end_to_end.postgres_pair import PostgresPair

RESTORE_ATTEMPTS = 10
MAX_REMOVED_EVENTS = 12

Rows = dict[tuple[UUID, int], Any]

_IN_LOG = "SELECT FROM events AS e WHERE e.originator_id"
_REMOVE_WHAT_NAMES_LOST_ROWS = (
    f"DELETE FROM idempotency_keys AS k WHERE NOT EXISTS ({_IN_LOG} = k.conversation_id AND e.originator_version = k.version)",
    f"DELETE FROM responses AS r WHERE NOT EXISTS ({_IN_LOG} = r.conversation_id AND e.item_id = r.response_id)",
    f"DELETE FROM snapshots AS s WHERE NOT EXISTS ({_IN_LOG} = s.originator_id AND e.originator_version = s.originator_version)",
    f"DELETE FROM transcript_prefixes AS p WHERE NOT EXISTS ({_IN_LOG} = p.conversation_id AND e.originator_version = p.version)",
)


class Dump(Struct, frozen=True):
    """A dump, and the log at that moment."""

    file: Path
    log: LogCopy
    dangling: bool


class LogMoves:
    """Dumps, restores and shortens the log. `dangling`: other tables may still name removed rows."""

    def __init__(self, postgres: PostgresPair, directory: Path) -> None:
        self._postgres = postgres
        self._directory = directory
        self.dangling = False
        self._empty = self._dump("empty")
        self.dumps: list[Dump] = []
        self.deadlocks = 0

    def start_over(self) -> None:
        self.dumps = []
        self.restore(self._empty)

    def dump(self) -> None:
        self.dumps.append(self._dump(f"{len(self.dumps)}"))

    def restore(self, dump: Dump) -> Rows:
        """Restores the dump. Tries again after a deadlock with an append."""
        for attempt in range(RESTORE_ATTEMPTS):
            try:
                self._postgres.restore(dump.file)
            except RuntimeError as error:
                if "deadlock" not in str(error) or attempt == RESTORE_ATTEMPTS - 1:
                    raise
                self.deadlocks += 1
            else:
                break
        self.dangling = dump.dangling
        return dump.log.rows

    def cut_off_standby(self) -> Rows:
        """Returns the rows that the standby has."""
        self._postgres.cut_off_standby()
        return LogCopy.read(self._postgres.other.url).rows

    def remove_rows(self, rng: random.Random) -> Rows:
        """Removes the last rows of a few streams or of the log. A command's rows are removed together.

        The end of a reply is never removed without its request.
        """
        with psycopg.connect(self._postgres.url) as connection:
            connection.execute("LOCK TABLE append_turn IN EXCLUSIVE MODE")
            log = LogCopy.read(self._postgres.url)
            removed = self._last_of_log(log, rng) if rng.random() < 0.4 else self._last_of_streams(log, rng)
            for name, version in removed.items():
                connection.execute(
                    "DELETE FROM events WHERE originator_id = %s AND originator_version > %s", (uuid_of(name), version)
                )
            if rng.random() < 0.5:
                for statement in _REMOVE_WHAT_NAMES_LOST_ROWS:
                    connection.execute(statement.encode())
            elif removed:
                self.dangling = True
        last = {uuid_of(name): version for name, version in removed.items()}
        return {key: row for key, row in log.rows.items() if key[1] <= last.get(key[0], key[1])}

    def _dump(self, name: str) -> Dump:
        """Repeats the dump until the log does not change during it."""
        file = self._directory / f"{name}.dump"
        while True:
            log = LogCopy.read(self._postgres.url)
            self._postgres.dump(file)
            if log == LogCopy.read(self._postgres.url):
                return Dump(file, log, self.dangling)

    def _last_of_streams(self, log: LogCopy, rng: random.Random) -> dict[str, int]:
        """Returns the last version that remains of each chosen stream."""
        names = rng.sample(sorted(log.streams), min(len(log.streams), rng.randint(1, 3)))
        return {
            name: rng.choice(versions[-MAX_REMOVED_EVENTS:])
            for name in names
            if (versions := _versions_to_cut_at(log.streams[name]))
        }

    def _last_of_log(self, log: LogCopy, rng: random.Random) -> dict[str, int]:
        """Returns the last version that remains of each shortened stream."""
        cuts = {
            name: {0, *_versions_to_cut_at(stream), stream.events[-1].version} for name, stream in log.streams.items()
        }
        ends = [event.position for event in log.events[-MAX_REMOVED_EVENTS:-1]]
        rng.shuffle(ends)
        for position in ends:
            remaining = {name: len(stream.until(position)) for name, stream in log.streams.items()}
            if all(version in cuts[name] for name, version in remaining.items()):
                return {name: n for name, n in remaining.items() if n < log.streams[name].events[-1].version}
        return {}


def _versions_to_cut_at(stream: Stream) -> Sequence[int]:
    """The versions after which the stream may be cut. 0: nothing remains."""
    versions = [0]
    open_replies: set[str] = set()
    for event, following in zip(stream.events, stream.events[1:], strict=False):
        if isinstance(event.event, ReplyRequested):
            open_replies.add(event.event.response_id)
        if isinstance(event.event, REPLY_ENDS):
            open_replies.discard(event.event.response_id)
        if not open_replies and event.correlation_id != following.correlation_id:
            versions.append(event.version)
    return versions


Move = Callable[[], Rows]
