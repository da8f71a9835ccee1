"""Replies are stopped for every reason except `kill`, under each policy. Kept partial answers can be continued."""

import asyncio
import json
import time
from typing import Any

import httpx

from infrastructure.settings import Settings
from scripts.stores import open_stores
from scripts.verify import verify
from tests.replies.stopped_cases import STOP_REASONS, Case, Stops, cases
from tests.scripted_provider import Exchange, Script, ScriptedProvider


async def test_a_stopped_reply_joins_if_the_policy_says_so(
    settings: Settings, http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    stops = Stops(provider, http, [str(http.base_url).rstrip("/")])
    planned = cases(4 * len(STOP_REASONS))
    asking = await asyncio.gather(*map(stops.begin, planned))
    await asyncio.gather(*map(stops.stop, planned, asking))
    await asyncio.gather(*map(stops.check, planned))
    async with open_stores(settings) as stores:
        verified = await verify(stores, lambda _done, _total: None, wait=10)
    assert verified.differences == []


async def stop_after(http: httpx.AsyncClient, path: str, deltas: int, **body: Any) -> tuple[str, str]:
    """Disconnects after `deltas` deltas. The partial answer is kept. Returns (conversation id, response id)."""
    async with http.stream("POST", path, json={"model": "scripted", "stream": True, **body}) as answer:
        async for line in answer.aiter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
            if event.get("type") == "response.created":
                response, conversation = event["response"]["id"], event["response"]["conversation"]["id"]
            elif event.get("object") == "chat.completion.chunk":
                response, conversation = answer.headers["x-response-id"], answer.headers["x-conversation-id"]
            choice = (event.get("choices") or [{}])[0]
            deltas -= event.get("type") == "response.output_text.delta" or bool(choice.get("delta", {}).get("content"))
            if deltas == 0:
                break
        keeps = await http.post(f"/v1/conversations/{conversation}", json={"context_policy": {"stopped": "keep"}})
        assert keeps.status_code == 200, keeps.text
    return conversation, response


def holds(*texts: str) -> Script:
    """A script that sends these texts and then waits until the store disconnects. Later answers are complete."""

    def script(exchange: Exchange) -> None:
        exchange.provider.script = lambda later: later.stream_text("Fine.")
        exchange.begin_stream()
        for text in texts:
            exchange.text_chunk(text)
        while True:
            exchange.wfile.write(b": waiting\n\n")
            time.sleep(0.05)

    return script


async def until_stopped(http: httpx.AsyncClient, response_id: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        response = {"status": "in_progress"}
        while response.get("status") == "in_progress":
            await asyncio.sleep(0.02)
            response = (await http.get(f"/v1/responses/{response_id}")).json()
    assert response["status"] == "incomplete"
    stopped: dict[str, Any] = response
    return stopped


async def texts_of(http: httpx.AsyncClient, conversation: str) -> list[str]:
    items = (await http.get(f"/v1/conversations/{conversation}/items?order=asc")).json()["data"]
    return ["".join(part["text"] for part in item["content"]) for item in items]


async def test_a_client_that_sends_the_kept_partial_answer_back_continues_its_conversation(
    http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    question, following = {"role": "user", "content": "Why?"}, {"role": "user", "content": "And?"}
    provider.script = holds("Because ", "of ")
    conversation, response = await stop_after(http, "/v1/chat/completions", 2, messages=[question])
    await until_stopped(http, response)
    messages = [question, {"role": "assistant", "content": "Because of"}, following]
    answer = await http.post("/v1/chat/completions", json={"model": "scripted", "messages": messages})
    assert answer.headers["x-conversation-id"] == conversation
    assert provider.requests[-1]["messages"] == messages
    assert await texts_of(http, conversation) == ["Why?", "Because of ", "And?", "Fine."]

    provider.script = holds("Since ", "it rains ")
    conversation, response = await stop_after(http, "/v1/responses", 2, input=[question])
    stopped = await until_stopped(http, response)
    history_items = [question, *stopped["output"], following]
    answer = await http.post("/v1/responses", json={"model": "scripted", "input": history_items})
    assert answer.json()["conversation"]["id"] == conversation
    assert await texts_of(http, conversation) == ["Why?", "Since it rains ", "And?", "Fine."]

    provider.script = holds("Because ", "of ", "the rain ")
    conversation, response = await stop_after(http, "/v1/chat/completions", 1, messages=[question])
    await until_stopped(http, response)
    messages = [question, {"role": "assistant", "content": "Because"}, following]  # this client has less text
    answer = await http.post("/v1/chat/completions", json={"model": "scripted", "messages": messages})
    assert answer.status_code == 200
    assert provider.requests[-1]["messages"] == messages


async def test_a_kept_reply_can_be_continued(http: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    provider.script = holds("Because ", "of ")
    conversation, response = await stop_after(http, "/v1/responses", 2, input="Why?")
    stopped = await until_stopped(http, response)
    usual = {"model": "scripted", "previous_response_id": response}
    following = (await http.post("/v1/responses", json={"input": "And?", **usual})).json()
    assert following["conversation"]["id"] == conversation
    assert await texts_of(http, conversation) == ["Why?", "Because of ", "And?", "Fine."]
    assert [message["content"] for message in provider.requests[-1]["messages"]] == ["Why?", "Because of ", "And?"]
    context = (await http.get(f"/v1/responses/{following['id']}/context")).json()
    assert context["request_sha256_matches"] is True
    [item] = stopped["output"]
    assert (await http.delete(f"/v1/conversations/{conversation}/items/{item['id']}")).status_code == 200
    assert (await http.get(f"/v1/responses/{response}")).json()["output"] == []
    streamed = (await http.get(f"/v1/responses/{response}?stream=true")).text
    assert "Because" not in streamed
    assert "response.incomplete" in streamed
    assert (await http.delete(f"/v1/responses/{response}")).status_code == 200
    assert await texts_of(http, conversation) == ["And?", "Fine."]


async def test_a_reply_that_interrupts_is_shown_the_kept_partial_answer(
    http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    stops = Stops(provider, http, [str(http.base_url)])
    case = Case(0, "cancel", "keep", "stop", "text")
    asking = await stops.begin(case)
    conversation = stops.conversations[0]
    body = {"model": "scripted", "conversation": conversation}
    waits = {**body, "input": "Never mind", "on_busy": "queue", "background": True}
    waiting = (await http.post("/v1/responses", json=waits)).json()
    assert (await http.post(f"/v1/responses/{waiting['id']}/cancel")).json()["status"] == "cancelled"
    following = await http.post("/v1/responses", json={**body, "input": "And?", "on_busy": "interrupt"})
    assert following.json()["status"] == "completed"
    await asyncio.wait({asking})
    assert (await http.get(f"/v1/responses/{stops.responses[0]}")).json()["status"] == "cancelled"
    assert await texts_of(http, conversation) == [case.question, "one two ", "And?", "Fine."]
    shown = [message["content"] for message in provider.requests[-1]["messages"]]
    assert shown == [case.question, "one two ", "And?"]
