"""Each stored item gets a new id from the store, also if the client sends an item with an id."""

import json
from typing import Any

import httpx

from domain.events import ItemAppended
from tests.commands.api_client import create_conversation, message
from tests.log import Log

WITH_PROVIDER = {"model_window": 100_000}


async def test_items_that_are_sent_back_get_ids_that_no_other_item_has(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}"
    [stored] = (await api.post(f"{path}/items", json={"items": [message("a")]})).json()["data"]
    listed = {**stored, "created_at": 1, "author": "ann"}
    fork = (await api.post(f"{path}/fork")).json()["id"]
    reply = {"model": "scripted", "store": True}
    requests: list[tuple[str, Any]] = [
        (f"{path}/items", {"items": [listed, listed]}),
        (f"/v1/conversations/{fork}/items", {"items": [listed]}),
        ("/v1/conversations", {"items": [listed, listed]}),
        ("/v1/import", {"items": [listed, listed]}),
        ("/v1/responses", {**reply, "conversation": conversation_id, "input": [listed, listed, message("b")]}),
        ("/v1/responses", {**reply, "input": [listed, listed]}),
        ("/v1/responses", {**reply, "input": [{"type": "item_reference", "id": stored["id"]}, message("c")]}),
        ("/v1/chat/completions", {**reply, "messages": [{**message("d"), "id": stored["id"]}] * 2}),
        (f"{path}/items/{stored['id']}", {"item": listed}),
    ]
    for url, body in requests:
        answer = await api.post(url, content=json.dumps(body))
        assert answer.status_code == 200, (url, answer.text)
    ids = [item_id for (item_id,) in log.rows(f"SELECT item_id FROM events WHERE topic = '{ItemAppended.topic}'")]
    assert len(ids) == len(set(ids))
