"""Reads the event log with its own SQL, independent of the readers under test."""

from typing import Any

import psycopg

from domain.events import Event
from infrastructure.event_log.codec import decode
from infrastructure.ids import uuid_of


class Log:
    def __init__(self, postgres_url: str) -> None:
        self._url = postgres_url

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            return connection.execute(sql, parameters).fetchall()

    def count(self) -> int:
        return int(self.rows("SELECT count(*) FROM events")[0][0])

    def topics(self, conversation_id: str) -> list[str]:
        return [type(event).topic for event in self.events(conversation_id)]

    def events(self, conversation_id: str) -> list[Event]:
        rows = self.rows(
            "SELECT topic, state FROM events WHERE originator_id = %s ORDER BY originator_version",
            uuid_of(conversation_id),
        )
        return [decode(topic, state) for topic, state in rows]

    def versions(self, conversation_id: str) -> list[int]:
        return [
            version
            for (version,) in self.rows(
                "SELECT originator_version FROM events WHERE originator_id = %s ORDER BY originator_version",
                uuid_of(conversation_id),
            )
        ]
