"""Requests that several tests of files send."""

from typing import Any

from tests.access.apis_as import Apis, user

ANN, BOB = user("ann"), user("bob")
STRANGER = user("ann", tenant="other")


def with_file(**file: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_file", **file}]}


async def upload(apis: Apis, data: bytes, name: str = "a.png", who: Any = ANN) -> str:
    form = {"data": {"purpose": "user_data"}, "files": {"file": (name, data)}}
    answer = await apis.request(who, "POST", "/v1/files", **form)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def items(apis: Apis, conversation: str, **query: str) -> list[dict[str, Any]]:
    answer = await apis.get(ANN, f"/v1/conversations/{conversation}/items", params={"order": "asc", **query})
    assert answer.status_code == 200, answer.text
    listed: list[dict[str, Any]] = answer.json()["data"]
    return listed
