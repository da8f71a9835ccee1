"""A process is killed while it writes another answer to a question. `retry` then writes this answer."""

import asyncio
from typing import Any

import httpx
from msgspec import Struct

from tests.end_to_end.reply_streams import StreamReader, endless_answer, varied_answers
from tests.scripted_provider import ScriptedProvider


class KilledRegenerate(Struct, frozen=True):
    """A second answer that is being written. `item_ids`: the question and its first answer."""

    conversation: str
    item_ids: list[str]
    reader: StreamReader
    asking: asyncio.Task[None]


async def begin_another_answer(http: httpx.AsyncClient, url: str, provider: ScriptedProvider) -> KilledRegenerate:
    """Gets an answer, and requests a second one that the provider does not end."""
    conversation = (await http.post(f"{url}/v1/conversations", json={})).json()["id"]
    provider.script = varied_answers(1)
    body = {"input": "a question", "conversation": conversation}
    first = await http.post(f"{url}/v1/responses", json=body)
    assert first.json()["status"] == "completed", first.text
    items = [item["id"] for item in await _list(http, url, conversation, "items")]
    provider.script = endless_answer
    reader = StreamReader()
    asking = asyncio.create_task(_ask(reader, http, url, {"regenerate": first.json()["id"]}))
    return KilledRegenerate(conversation, items, reader, asking)


async def check_killed_regenerate(killed: KilledRegenerate, http: httpx.AsyncClient, url: str) -> None:
    await killed.asking
    assert await _paths(http, url, killed.conversation) == (killed.item_ids, killed.item_ids, killed.item_ids[-1])
    retried = await http.post(f"{url}/v1/responses", json={"retry": killed.reader.response_id})
    assert retried.json()["status"] == "completed", retried.text
    question, answer = killed.item_ids
    [another] = [item["id"] for item in retried.json()["output"]]
    assert await _paths(http, url, killed.conversation) == ([question, another], [question, answer, another], another)
    [_, shown] = await _list(http, url, killed.conversation, "items")
    assert shown["siblings"] == {"index": 1, "count": 2}
    responses = await _list(http, url, killed.conversation, "responses")
    assert [response["status"] for response in responses] == ["completed", "incomplete", "completed"]


async def _ask(reader: StreamReader, http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> None:
    try:
        await reader.ask(http, url, body)
    except httpx.HTTPError:
        return  # the process was killed


async def _paths(http: httpx.AsyncClient, url: str, conversation: str) -> tuple[list[str], list[str], str]:
    """The active path, all items, and the end of the active path, as ids."""
    tree = (await http.get(f"{url}/v1/conversations/{conversation}/tree")).json()
    active = [item["id"] for item in await _list(http, url, conversation, "items")]
    return active, [node["id"] for node in tree["data"]], tree["active_leaf"]


async def _list(http: httpx.AsyncClient, url: str, conversation: str, name: str) -> list[dict[str, Any]]:
    answer = await http.get(f"{url}/v1/conversations/{conversation}/{name}", params={"order": "asc"})
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()["data"]
    return entries
