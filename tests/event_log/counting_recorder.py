"""A recorder that counts the work that appends cause besides their one round trip."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec import Struct
from psycopg import Cursor

from infrastructure.event_log.append_request import StreamName
from infrastructure.event_log.recorder import ConversationRecorder, LogRow


class Counts(Struct):
    """What appends caused. `locked`: transactions with the append lock. `inserted`: rows inserted in these
    transactions.

    `reads`: statements that read streams. `states_read_locked`: events read under the lock.
    """

    locked: int = 0
    inserted: int = 0
    reads: int = 0
    streams: int = 0
    states_read_locked: int = 0
    is_locked: bool = False


def counting_recorder() -> tuple[type[ConversationRecorder], Counts]:
    counts = Counts()

    class CountingRecorder(ConversationRecorder):
        @contextmanager
        def locked_transaction(self) -> Iterator[Cursor[tuple[Any, ...]]]:
            counts.locked += 1
            with super().locked_transaction() as curs:
                counts.is_locked = True
                try:
                    yield curs
                finally:
                    counts.is_locked = False

        def insert(self, curs: Cursor[Any], write: Any) -> list[int] | None:
            counts.inserted += len(write.rows)
            return super().insert(curs, write)

        def select_from(
            self, curs: Cursor[Any], versions: Mapping[StreamName, int], max_rows: int, max_bytes: int
        ) -> list[LogRow]:
            counts.reads += 1
            counts.streams += len(versions)
            rows = super().select_from(curs, versions, max_rows, max_bytes)
            if counts.is_locked:
                counts.states_read_locked += sum(row.state is not None for row in rows)
            return rows

    return CountingRecorder, counts
