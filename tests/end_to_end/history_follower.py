"""Follows the events of a conversation while the log moves back."""

import json
from typing import Self

import httpx

from infrastructure.ids import uuid_of
from tests.end_to_end.log_copy import Json, LogCopy
from tests.end_to_end.log_moves import Rows


class EventFollower:
    def __init__(self, url: str, conversation_id: str) -> None:
        self._url = f"{url}/v1/conversations/{conversation_id}/events"
        self._conversation_id = conversation_id
        self.events: list[Json] = []

    async def follow(self, http: httpx.AsyncClient) -> Self:
        try:
            async with http.stream("GET", self._url, headers={"accept": "text/event-stream"}, timeout=60) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        self.events.append(json.loads(line.removeprefix("data: ")))
        except httpx.TransportError:
            pass  # the api was stopped
        return self

    def faults(self, base: Rows, log: LogCopy) -> list[str]:
        """A stream that has shown lost events must not show events that were appended after the log moved back."""
        versions = [event["version"] for event in self.events]
        if versions != list(range(1, len(versions) + 1)):
            return [f"gap in {self._url}: {versions}"]
        now = {event["version"]: event for event in log.feed(self._conversation_id) or ()}
        lost = [event["version"] for event in self.events if now.get(event["version"]) != event]
        stream = uuid_of(self._conversation_id)
        new = [version for version in versions if version not in lost and (stream, version) not in base]
        return [f"{self._url}: shows the lost versions {lost} and the new ones {new}"] if lost and new else []
