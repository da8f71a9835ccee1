"""Sends commands through several apis, and some commands twice with the same idempotency key."""

import asyncio
import random
from collections.abc import Collection, Sequence
from typing import Any

import httpx

from infrastructure.access.principal import Principal
from infrastructure.ids import mint
from tests.access.apis_as import Apis, user
from tests.conversations.draws import AnyCommand, ReplyCommand
from tests.conversations.reads import read

RESPONSE_NOT_FOUND = {
    "previous_response_id": (400, "previous_response_not_found"),
    "regenerate": (404, "not_found"),
    "retry": (404, "not_found"),
}
"""The status and the code of the refusal if a field names a deleted response."""


class Sender:
    def __init__(self, apis: Sequence[Apis], tenant: str, seed: int) -> None:
        self._apis = apis
        self._tenant = tenant
        self._random = random.Random(seed)

    async def send(self, command: AnyCommand, *, deleted: Collection[str] = ()) -> httpx.Response:
        """`deleted`: the responses that are being deleted at the same time."""
        by = user(command.subject, self._tenant)
        if isinstance(command, ReplyCommand) and (command.stop is not None or command.waits):
            answer = await self._send(by, command, {})
            return answer if answer.status_code != 200 else await self._until_ended(by, command, answer)
        if self._random.random() < 0.15:
            return await self._send_twice(by, command, deleted)
        return await self._send(by, command, {})

    async def _send(self, by: Principal, command: AnyCommand, headers: dict[str, str]) -> httpx.Response:
        content: dict[str, Any] = {"json": command.body}
        if command.content is not None:
            content = {"content": command.content}
            headers = {**headers, "content-type": "application/x-ndjson"}
        return await self._any_api().request(by, command.method, command.path, headers=headers, **content)

    async def _send_twice(self, by: Principal, command: AnyCommand, deleted: Collection[str]) -> httpx.Response:
        """If one answer is marked as a repeat, both answers must be equal.

        A command that changes nothing has no repeat. One of the two requests may find its response deleted before the
        other one is stored. It is then sent once more, and must get the answer of the stored one.
        """
        headers = {"idempotency-key": mint("key")}
        answers = await asyncio.gather(*(self._send(by, command, headers) for _ in range(2)))
        first, second = sorted(answers, key=_order)
        if _is_recorded(first) and _is_refused_for_deletion(command, second, deleted):
            second = await self._send(by, command, headers)
            assert (first.status_code, first.json()) == (second.status_code, second.json()), command.name
        if "idempotent-replayed" in second.headers:
            assert "idempotent-replayed" not in first.headers
            assert (first.status_code, first.json()) == (second.status_code, second.json()), command.name
        else:
            assert first.status_code != 200 or second.status_code == 200, (command.name, second.text)
        return first

    async def _until_ended(self, by: Principal, command: ReplyCommand, answer: httpx.Response) -> httpx.Response:
        path = f"/v1/responses/{answer.json()['id']}"
        if command.stop is None:
            return await self._follow(by, path)
        await asyncio.sleep(command.stops_after)
        if command.stop == "DELETE":
            deleted = await self._any_api().request(by, "DELETE", path)
            assert deleted.status_code == 200, deleted.text
            return answer
        return await self._any_api().post(by, f"{path}/cancel")

    async def _follow(self, by: Principal, path: str) -> httpx.Response:
        """Waits for the end of the response's stream, then reads the response."""
        await self._any_api().get(by, path, params={"stream": "true"})
        return await read(self._any_api(), by, path)

    def _any_api(self) -> Apis:
        return self._random.choice(self._apis)


def _is_refused_for_deletion(command: AnyCommand, answer: httpx.Response, deleted: Collection[str]) -> bool:
    if not isinstance(command, ReplyCommand) or answer.status_code == 200:
        return False
    refusal = (answer.status_code, answer.json()["error"]["code"])
    return any(
        refusal == RESPONSE_NOT_FOUND[field] for field in RESPONSE_NOT_FOUND if command.body.get(field) in deleted
    )


def _order(answer: httpx.Response) -> tuple[bool, bool, bool]:
    """Sorts the first answer before its repeat, and both before a refusal."""
    return answer.status_code != 200, not _is_recorded(answer), "idempotent-replayed" in answer.headers


def _is_recorded(answer: httpx.Response) -> bool:
    """Whether the request succeeded, or its reply is in the log and failed."""
    return answer.status_code == 200 or "response_id" in answer.json()["error"]
