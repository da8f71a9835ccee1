"""Every part of a reply has its events over HTTP, live and from the log."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from domain.items import without_listed_fields
from infrastructure.settings import Settings
from replies import stream_events
from tests.replies.answer_scripts import deltas, items, message, reasoning
from tests.replies.both_apis import BothApis, open_both_apis, served
from tests.replies.strict_client import StrictClient
from tests.scripted_provider import Exchange, Script, ScriptedProvider, scripted_provider

TYPED: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

OUTPUT_TEXT = {"type": "output_text", "text": "Well: ", "annotations": []}
REFUSAL = {"type": "refusal", "refusal": "I cannot."}


class Answer(BaseModel):
    number: int


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def chat(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[BothApis]:
    async with open_both_apis(settings.model_copy(update={"openai_base_url": provider.url})) as store:
        yield store


@pytest.fixture
async def responses(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[BothApis]:
    changed = {"openai_base_url": provider.url, "model_api": "responses"}
    async with open_both_apis(settings.model_copy(update=changed)) as store:
        yield store


def summarized(exchange: Exchange) -> None:
    """Streams a summary as OpenAI does."""
    item = reasoning(summary=("one two", "three"))
    position = {"output_index": 0, "item_id": "rs_1"}
    exchange.begin_stream()
    exchange.event("response.output_item.added", output_index=0, item={**item, "summary": []})
    for index, part in enumerate(item["summary"]):
        part_position = {**position, "summary_index": index}
        exchange.event("response.reasoning_summary_part.added", **part_position, part={**part, "text": ""})
        for word in part["text"].split(" "):
            exchange.event("response.reasoning_summary_text.delta", **part_position, delta=word)
        exchange.event("response.reasoning_summary_text.done", **part_position, text=part["text"].replace(" ", ""))
        exchange.event("response.reasoning_summary_part.done", **part_position, part=part)
    done = {**item, "summary": [{**part, "text": part["text"].replace(" ", "")} for part in item["summary"]]}
    exchange.event("response.output_item.done", output_index=0, item=done)
    exchange.event("response.completed", response={"status": "completed", "output": [done]})


CHAT: list[tuple[Script, list[Any]]] = [
    (deltas({"refusal": "I "}, {"refusal": "cannot."}), [[REFUSAL]]),
    (deltas({"content": "Well: "}, {"refusal": "I cannot."}), [[OUTPUT_TEXT, REFUSAL]]),
    (deltas({"refusal": "I cannot."}, {"content": "Well: "}), [[REFUSAL, OUTPUT_TEXT]]),
    (deltas({"reasoning_content": "h"}, {"reasoning_content": "m"}, {"content": "Well: "}), ["hm", [OUTPUT_TEXT]]),
    (deltas({"reasoning": "\u2028\u2029\x85\ud83d"}, {"reasoning": "\ude42"}), ["\u2028\u2029\x85🙂"]),
    (deltas(), [[{**OUTPUT_TEXT, "text": ""}]]),
]
RESPONSES: list[tuple[Script, list[Any]]] = [
    (items(message(REFUSAL)), [[REFUSAL]]),
    (items(reasoning("hm"), message(OUTPUT_TEXT)), ["hm", [OUTPUT_TEXT]]),
    (items(reasoning(summary=("hm",)), message(OUTPUT_TEXT)), [("hm",), [OUTPUT_TEXT]]),
    (summarized, [("onetwo", "three")]),
]


def content_of(item: dict[str, Any]) -> Any:
    """A message's content without the field `parsed`, or the texts of a reasoning item."""
    if item["type"] == "message":
        return [{name: value for name, value in part.items() if name != "parsed"} for part in item["content"]]
    if item["summary"]:
        return tuple(part["text"] for part in item["summary"])
    return "".join(part["text"] for part in item["content"])


def events_of(body: bytes) -> list[dict[str, Any]]:
    # Some clients end a line at characters such as U+2028.
    return [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")]


async def check(store: BothApis, output: list[Any]) -> None:
    """Every stream, Response and item must have this output."""
    body = {"input": "?", "stream": True}
    posted = (await store.http.post("/v1/responses", json=body)).content
    events = events_of(posted)
    client = StrictClient().read(events)
    for event in events:
        TYPED.validate_python(event)
    response = events[-1]["response"]
    assert client.items == [{**item, "status": "completed"} for item in response["output"]]
    assert [content_of(item) for item in response["output"]] == output
    path = f"/v1/responses/{response['id']}"
    assert (await store.http.get(path, params={"stream": "true"})).content == posted
    for after in range(len(events)):
        rest = await store.http.get(path, params={"stream": "true", "starting_after": after})
        assert events_of(rest.content) == events[after + 1 :]
    async with store.sdk.responses.stream(input="?", model="scripted") as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert types == [event["type"] for event in events]
    assert [content_of(item.to_dict()) for item in final.output] == output
    await store.projector.catch_up()
    assert (await store.http.get(path)).json()["output"] == response["output"]
    listed = await store.http.get(f"/v1/conversations/{response['conversation']['id']}/items", params={"order": "asc"})
    assert [without_listed_fields(item) for item in listed.json()["data"][1:]] == response["output"]


async def test_every_part_of_a_chat_answer_has_its_events(chat: BothApis, provider: ScriptedProvider) -> None:
    for script, output in CHAT:
        provider.script = script
        await check(chat, output)


async def test_every_part_of_an_answer_of_the_responses_api_has_its_events(
    responses: BothApis, provider: ScriptedProvider
) -> None:
    for script, output in RESPONSES:
        provider.script = script
        await check(responses, output)


async def test_the_sdk_parses_a_refusal_as_no_output(
    chat: BothApis, responses: BothApis, provider: ScriptedProvider
) -> None:
    for store, script in ((chat, deltas({"refusal": "I cannot."})), (responses, items(message(REFUSAL)))):
        provider.script = script
        parsed = await store.sdk.responses.parse(input="?", model="scripted", text_format=Answer)
        assert parsed.output_parsed is None
        assert parsed.output_text == ""
        [answer] = parsed.output
        assert answer.to_dict()["content"] == [REFUSAL]
        await store.http.post("/v1/responses", json={"input": "Why?", "previous_response_id": parsed.id})
        sent = provider.requests[-1]
        messages = sent["messages"] if "messages" in sent else sent["input"]
        assert [message["role"] for message in messages] == ["user", "assistant", "user"]
        assert "I cannot." in json.dumps(messages[1])
    assert messages[1]["content"] == [REFUSAL]


async def test_a_stream_sends_comments_while_the_provider_has_sent_nothing(
    settings: Settings, provider: ScriptedProvider
) -> None:
    release = threading.Event()

    def waits(exchange: Exchange) -> None:
        release.wait(30)
        exchange.stream_text("At last.")

    async def until_second_comment(lines: AsyncIterator[str]) -> list[str]:
        seen: list[str] = []
        async for line in lines:
            seen.append(line)
            if seen.count(": still here") == 2:
                break
        return seen

    provider.script = waits
    changed = {"openai_base_url": provider.url, "comment_seconds": 0.1}
    body = {"input": "?", "stream": True}
    async with (
        open_both_apis(settings.model_copy(update=changed)) as store,
        served(store.app) as client,
        client.stream("POST", "/v1/responses", json=body) as posted,
        asyncio.timeout(10),
    ):
        posted_lines = posted.aiter_lines()
        seen = await until_second_comment(posted_lines)
        response_id = events_of("\n".join(seen).encode())[0]["response"]["id"]
        async with client.stream("GET", f"/v1/responses/{response_id}", params={"stream": "true"}) as followed:
            followed_lines = followed.aiter_lines()
            assert [line for line in await until_second_comment(followed_lines) if "data:" in line] == [
                line for line in seen if "data:" in line
            ]
            release.set()
            for lines in (posted_lines, followed_lines):
                rest = "\n".join([line async for line in lines])
                assert events_of(rest.encode())[-1]["type"] == "response.completed"


def test_the_data_of_an_encoded_event_is_its_numbered_json() -> None:
    encoded = stream_events.encode({"type": "response.odd", "text": "a\nb"}, 7)
    assert json.loads(stream_events.data_of(encoded)) == {"type": "response.odd", "text": "a\nb", "sequence_number": 7}
