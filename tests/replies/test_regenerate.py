"""`regenerate` in POST /v1/responses: another answer beside an earlier one."""

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from domain.events import ReplyRequested
from infrastructure.ids import mint
from infrastructure.settings import Settings
from scripts.stores import open_stores
from scripts.verify import verify
from tests.commands.api_client import (
    create_conversation,
    error_of,
    events_of,
    eventually,
    message,
    output_text,
    sent_messages,
)
from tests.commands.provider_scripts import breaks_off
from tests.commands.served_api import answer_of
from tests.log import Log
from tests.principals import HEADER, headers_of
from tests.scripted_provider import Exchange, ScriptedProvider


@pytest.fixture(autouse=True)
def numbered_answers(provider: ScriptedProvider) -> None:
    """The provider answers A1, A2, and so on."""
    provider.script = lambda exchange: exchange.stream_text(f"A{len(exchange.provider.requests)}")


async def ask(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


async def items_of(http: httpx.AsyncClient, conversation_id: str, **query: Any) -> list[dict[str, Any]]:
    path = f"/v1/conversations/{conversation_id}/items"
    answer = await http.get(path, params={"order": "asc", **query})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["data"]
    return items


async def texts(http: httpx.AsyncClient, conversation_id: str, **query: Any) -> list[str]:
    return [item["content"][0]["text"] for item in await items_of(http, conversation_id, **query)]


async def refused(http: httpx.AsyncClient, **body: Any) -> tuple[int, str | None, str | None]:
    return error_of(await http.post("/v1/responses", json=body))


async def checked(settings: Settings) -> None:
    """The views must agree with the log."""
    async with open_stores(settings) as stores:
        verified = await verify(stores, lambda _done, _total: None, wait=10)
    assert verified.differences == []


async def test_a_conversation_continues_from_the_regenerated_answer(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log, settings: Settings
) -> None:
    conversation_id = await create_conversation(http, instructions="Be brief.")
    first = await ask(http, conversation=conversation_id, input="Q1", temperature=0.5)
    last = await ask(http, conversation=conversation_id, input="Q2")
    second = await ask(http, regenerate=last["id"])
    assert second["conversation"]["id"] == conversation_id
    assert output_text(second) == "A3"
    assert provider.requests[2] == provider.requests[1]
    assert await texts(http, conversation_id) == ["Q1", "A1", "Q2", "A3"]
    items = await items_of(http, conversation_id)
    assert [item.get("siblings") for item in items][-1] == {"index": 1, "count": 2}
    assert await texts(http, conversation_id, leaf=last["output"][0]["id"]) == ["Q1", "A1", "Q2", "A2"]

    other = await ask(http, regenerate=first["output"][0]["id"], temperature=1.5)
    assert await texts(http, conversation_id) == ["Q1", "A4"]
    assert provider.requests[3] == {**provider.requests[0], "temperature": 1.5}
    assert other["temperature"] == 1.5
    await ask(http, conversation=conversation_id, input="Q5")
    assert await texts(http, conversation_id) == ["Q1", "A4", "Q5", "A5"]
    assert sent_messages(provider.requests[-1])[1:] == [("user", "Q1"), ("assistant", "A4"), ("user", "Q5")]

    third = await ask(http, regenerate=second["id"])
    assert await texts(http, conversation_id) == ["Q1", "A1", "Q2", "A6"]
    assert provider.requests[5] == provider.requests[1]
    for response in (first, last, second, other, third):
        shown = (await http.get(f"/v1/responses/{response['id']}/context")).json()
        assert shown["request_sha256_matches"] is True
        listed = (await http.get(f"/v1/responses/{response['id']}")).json()
        assert listed["output"] == response["output"]
    requested = [event for event in log.events(conversation_id) if isinstance(event, ReplyRequested)]
    assert [event.regenerates for event in requested] == [
        None,
        None,
        last["id"],
        first["output"][0]["id"],
        None,
        second["id"],
    ]
    await checked(settings)


async def test_several_requests_regenerate_one_answer_at_the_same_time(
    http: httpx.AsyncClient, provider: ScriptedProvider, settings: Settings
) -> None:
    conversation_id = await create_conversation(http)
    first = await ask(http, conversation=conversation_id, input="Q1")
    may_answer = threading.Event()

    def waits(exchange: Exchange) -> None:
        number = len(exchange.provider.requests)
        may_answer.wait(20)
        exchange.stream_text(f"A{number}")

    usual, provider.script = provider.script, waits
    running = [asyncio.create_task(ask(http, regenerate=first["id"])) for _ in range(4)]
    running.append(asyncio.create_task(ask(http, conversation=conversation_id, input="Q2")))
    await eventually(lambda: len(provider.requests) == 6 or None)
    assert await refused(http, conversation=conversation_id, input="Q3") == (409, "conversation_locked", None)
    may_answer.set()
    answers = await asyncio.gather(*running)
    provider.script = usual
    siblings = {item["siblings"]["index"] for item in await items_of(http, conversation_id) if "siblings" in item}
    assert siblings <= set(range(5))
    leaves = {output_text(answer): answer["output"][0]["id"] for answer in (first, *answers[:4])}
    assert len(leaves) == 5
    for text, leaf in leaves.items():
        assert await texts(http, conversation_id, leaf=leaf) == ["Q1", text]
        [_, item] = await items_of(http, conversation_id, leaf=leaf)
        assert item["siblings"]["count"] == 5
    question = answers[4]["output"][0]["id"]
    assert await texts(http, conversation_id, leaf=question) == ["Q1", "A1", "Q2", output_text(answers[4])]
    await checked(settings)

    provider.script, may_answer = waits, threading.Event()
    head = await texts(http, conversation_id)
    regenerating = asyncio.create_task(ask(http, regenerate=first["id"]))
    await eventually(lambda: len(provider.requests) == 7 or None)
    await http.post(f"/v1/conversations/{conversation_id}/items", json={"items": [message("more")]})
    may_answer.set()
    aside = await regenerating
    assert await texts(http, conversation_id) == [*head, "more"]
    assert await texts(http, conversation_id, leaf=aside["output"][0]["id"]) == ["Q1", "A7"]
    provider.script = usual
    await ask(http, conversation=conversation_id, input="Q8")
    assert await texts(http, conversation_id) == [*head, "more", "Q8", "A8"]
    await checked(settings)


async def test_an_answer_that_a_client_appended_can_be_regenerated(
    http: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(http)
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    given = [
        message("Q1"),
        call,
        {"type": "function_call_output", "call_id": "c1", "output": "seen"},
        {"type": "reasoning", "summary": []},
        message("A1", "assistant"),
        message("Q2"),
    ]
    posted = await http.post(f"/v1/conversations/{conversation_id}/items", json={"items": given})
    ids = [item["id"] for item in posted.json()["data"]]
    for item_id in ids[3:5]:
        await ask(http, regenerate=item_id, model="scripted")
        assert [role for role, _ in sent_messages(provider.requests[-1])] == ["user", "assistant", "tool"]
        listed = await items_of(http, conversation_id)
        assert [item["id"] for item in listed[:3]] == ids[:3]
        assert len(listed) == 4
    await ask(http, regenerate=ids[1])
    assert sent_messages(provider.requests[-1]) == [("user", "Q1")]


async def test_the_error_for_a_bad_request_says_what_is_wrong(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log
) -> None:
    conversation_id, other_id = await create_conversation(http), await create_conversation(http)
    first = await ask(http, conversation=conversation_id, input="Q1")
    foreign = await ask(http, conversation=other_id, input="Q1")
    answer_id = first["output"][0]["id"]
    [question_id, _] = [item["id"] for item in await items_of(http, conversation_id)]
    before = log.count()
    for name, value in (("input", "x"), ("input", []), ("previous_response_id", first["id"])):
        expected = (400, "mutually_exclusive_parameters", name)
        assert await refused(http, regenerate=first["id"], **{name: value}) == expected
    for name, value in (("store", False), ("on_busy", "interrupt"), ("regenerate", first["id"])):
        body = {"regenerate": first["id"], "conversation": conversation_id, name: value}
        if name == "regenerate":
            body = {"retry": first["id"], "regenerate": first["id"]}
        assert await refused(http, **body) == (400, "mutually_exclusive_parameters", name)
    assert await refused(http, regenerate=question_id) == (400, "invalid_value", "regenerate")
    for unknown in ("", "x" * 10_000, mint("msg"), foreign["output"][0]["id"]):
        expected = (404, "item_not_found", "regenerate")
        assert await refused(http, regenerate=unknown, conversation=conversation_id) == expected
    for unknown in (mint("resp"), foreign["id"]):
        expected = (404, "not_found", "regenerate")
        assert await refused(http, regenerate=unknown, conversation=conversation_id) == expected
    for malformed in (7, "\0", [first["id"]]):
        assert (await refused(http, regenerate=malformed))[::2] == (400, "regenerate")
    assert (await refused(http, regenerate=answer_id, tool_choice="required"))[::2] == (400, "tool_choice")
    assert (await refused(http, regenerate=answer_id, model="other"))[::2] == (400, "model")
    counted = await http.post("/v1/responses/input_tokens", json={"regenerate": first["id"]})
    assert error_of(counted) == (400, "unsupported_parameter", "regenerate")
    bert = headers_of("bert")
    for named in (first["id"], answer_id):
        answer = await http.post("/v1/responses", json={"regenerate": named}, headers=bert)
        assert (answer.status_code, conversation_id in answer.text) == (404, False)
    [alone] = (
        await http.post(f"/v1/conversations/{other_id}/items", json={"items": [message("Hello", "assistant")]})
    ).json()["data"]
    assert log.count() == before + 1
    assert alone

    provider.script = breaks_off
    failed = await http.post("/v1/responses", json={"conversation": conversation_id, "input": "Q2"})
    failed_id = failed.json()["error"]["response_id"]
    assert await refused(http, regenerate=failed_id) == (400, "invalid_value", "regenerate")
    may_answer = threading.Event()

    def waits(exchange: Exchange) -> None:
        may_answer.wait(10)
        exchange.stream_text("done")

    provider.script = waits
    running = await ask(http, conversation=conversation_id, input="Q3", background=True)
    assert await refused(http, regenerate=running["id"]) == (409, "response_in_progress", "regenerate")
    may_answer.set()
    await http.delete(f"/v1/conversations/{conversation_id}/items/{answer_id}")
    assert await refused(http, regenerate=answer_id) == (404, "item_not_found", "regenerate")
    assert await refused(http, regenerate=first["id"]) == (404, "not_found", "regenerate")
    await http.post(f"/v1/conversations/{conversation_id}/end", json={})
    assert (await refused(http, regenerate=running["id"]))[0] in (404, 409)
    await http.delete(f"/v1/conversations/{other_id}")
    assert (await refused(http, regenerate=foreign["id"]))[0] == 404


async def test_a_regenerated_answer_can_be_streamed_cancelled_and_retried(
    http: httpx.AsyncClient, provider: ScriptedProvider, log: Log, settings: Settings
) -> None:
    kept = await create_conversation(http, context_policy={"stopped": "keep"})
    dropped = await create_conversation(http)
    usual = provider.script
    for conversation_id in (kept, dropped):
        provider.script = usual
        first = await ask(http, conversation=conversation_id, input="Q1", stream=False)
        number = len(provider.requests) + 1
        key = {"Idempotency-Key": mint("key")}
        body = {"regenerate": first["id"], "stream": True}
        streams = [await http.post("/v1/responses", json=body, headers=key) for _ in range(2)]
        assert events_of(streams[0])[-1]["response"] == events_of(streams[1])[-1]["response"]
        assert output_text(events_of(streams[0])[-1]["response"]) == f"A{number}"
        assert await texts(http, conversation_id) == ["Q1", f"A{number}"]

        may_end = threading.Event()

        def hangs(exchange: Exchange, may_end: threading.Event = may_end) -> None:
            exchange.begin_stream()
            exchange.text_chunk("part")
            may_end.wait(20)

        provider.script = hangs
        running = await ask(http, regenerate=first["id"], background=True)
        assert running["status"] == "queued"
        async with http.stream("GET", f"/v1/responses/{running['id']}", params={"stream": True}) as stream:
            assert await anext(line async for line in stream.aiter_lines() if "output_text.delta" in line)
        cancelled = await http.post(f"/v1/responses/{running['id']}/cancel")
        may_end.set()
        assert cancelled.json()["status"] == "cancelled"
        expected = "part" if conversation_id == kept else f"A{number}"
        assert await texts(http, conversation_id) == ["Q1", expected]

        provider.script = breaks_off
        failed = await http.post("/v1/responses", json={"regenerate": first["id"]})
        assert failed.status_code == 502
        assert await texts(http, conversation_id) == ["Q1", expected]
        provider.script = usual
        for stopped_id in (failed.json()["error"]["response_id"], running["id"]):
            second = await ask(http, retry=stopped_id)
            assert sent_messages(provider.requests[-1]) == [("user", "Q1")]
            assert await texts(http, conversation_id) == ["Q1", output_text(second)]
        assert len(await items_of(http, conversation_id, leaf=first["output"][0]["id"])) == 2
    await checked(settings)


async def test_a_fork_regenerates_inherited_answers_without_a_change_to_its_origin(
    http: httpx.AsyncClient, provider: ScriptedProvider, settings: Settings
) -> None:
    origin = await create_conversation(http)
    first = await ask(http, conversation=origin, input="Q1")
    last = await ask(http, conversation=origin, input="Q2")
    forked = await http.post(f"/v1/conversations/{origin}/fork", json={"item": last["output"][0]["id"]})
    fork = forked.json()["id"]
    await ask(http, conversation=fork, input="Q3")
    await ask(http, regenerate=last["output"][0]["id"], conversation=fork)
    assert sent_messages(provider.requests[-1])[-1] == ("user", "Q2")
    assert await texts(http, origin) == ["Q1", "A1", "Q2", "A2"]
    context = (await http.get(f"/v1/conversations/{fork}/context")).json()
    assert [sent["item"]["content"][0]["text"] for sent in context["items"]] == ["Q1", "A1", "Q2", "A4"]
    second = await ask(http, regenerate=first["id"], conversation=fork)
    context = (await http.get(f"/v1/conversations/{fork}/context")).json()
    assert [sent["item"]["content"][0]["text"] for sent in context["items"]] == ["Q1", "A5"]
    assert (await http.get(f"/v1/responses/{second['id']}/context")).json()["request_sha256_matches"] is True
    await checked(settings)


async def test_an_answer_is_regenerated_over_a_websocket(http: httpx.AsyncClient, provider: ScriptedProvider) -> None:
    conversation_id = await create_conversation(http)
    first = await ask(http, conversation=conversation_id, input="Q1")
    url = f"{http.base_url}/v1/responses".replace("http", "ws", 1)
    async with connect(url, additional_headers={HEADER: http.headers[HEADER]}) as socket:
        await socket.send(json.dumps({"type": "response.create", "regenerate": first["id"]}))
        last = (await answer_of(socket))[-1]
    assert (last["type"], output_text(last["response"])) == ("response.completed", "A2")
    assert await texts(http, conversation_id) == ["Q1", "A2"]
    body = {"regenerate": first["id"]}
    old = await http.post("/v1/responses", json=body, headers={"If-Match": '"2"'})
    assert old.status_code == 412
    version = (await http.get(f"/v1/conversations/{conversation_id}")).headers["etag"]
    new = await http.post("/v1/responses", json=body, headers={"If-Match": version})
    assert new.status_code == 200
    assert await texts(http, conversation_id) == ["Q1", output_text(new.json())]
