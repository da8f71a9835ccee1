"""Reads as one subject. Repeats a read until the views are current."""

from typing import Any

import httpx
from msgspec import Struct

from infrastructure.access.principal import Principal
from tests.access.apis_as import Apis

ATTEMPTS = 10
"""Each attempt waits up to two seconds for the views."""


async def read(apis: Apis, principal: Principal, path: str, *, position: int = 0, **parameters: Any) -> httpx.Response:
    """`position`: the answer shows at least the log up to this position."""
    headers = {"x-min-position": str(position)}
    for _ in range(ATTEMPTS):
        answer = await apis.get(principal, path, params=parameters, headers=headers)
        if answer.status_code != 503 and "x-consistency" not in answer.headers:
            break
    return answer


async def read_json(apis: Apis, principal: Principal, path: str, *, position: int = 0, **parameters: Any) -> Any:
    answer = await read(apis, principal, path, position=position, **parameters)
    assert answer.status_code == 200, (path, parameters, answer.text)
    return answer.json()


async def read_all(apis: Apis, principal: Principal, path: str, *, position: int = 0, **parameters: Any) -> list[Any]:
    entries: list[Any] = []
    after: dict[str, str] = {}
    while True:
        page = await read_json(apis, principal, path, position=position, **parameters, **after)
        entries += page["data"]
        if not page["has_more"]:
            return entries
        after = {"after": page.get("next_cursor") or page["data"][-1]["id"]}


class ConversationReads(Struct, frozen=True):
    """Reads of one conversation. `path`: what comes after its id."""

    apis: Apis
    reader: Principal
    conversation_id: str

    async def get(self, path: str = "") -> Any:
        return await read_json(self.apis, self.reader, f"/v1/conversations/{self.conversation_id}{path}")

    async def all(self, path: str, limit: int, **parameters: Any) -> list[Any]:
        address = f"/v1/conversations/{self.conversation_id}{path}"
        return await read_all(self.apis, self.reader, address, limit=limit, **parameters)
