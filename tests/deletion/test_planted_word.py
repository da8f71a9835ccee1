"""Without the scope `audit`, deleted content is in no answer, no model request, no log line and no metric.

The test puts words into many kinds of content, deletes the content in many ways, and looks for the words.
"""

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Any

import httpx
import pytest

from domain.events import ItemAppended
from infrastructure.http.served_paths import SERVED
from infrastructure.ids import completion_id, response_id_of
from infrastructure.settings import Settings
from tests.deletion.planted_store import (
    PlantedStore,
    breaks_off_after,
    open_planted_store,
    refuses_with,
    thinks_and_calls,
)
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[PlantedStore]:
    async with open_planted_store(settings, provider) as opened:
        yield opened


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text}


def as_base64(word: str) -> str:
    """Base64 that has the word in it, of data that begins like a PNG."""
    return f"iVBORw0KGgoA{word}{'A' * (-len(word) % 4)}"


def picture(store: PlantedStore, name: str) -> dict[str, Any]:
    return {"type": "input_image", "image_url": f"data:image/png;base64,{as_base64(store.plant(name))}"}


def with_picture(store: PlantedStore, name: str) -> list[dict[str, Any]]:
    """Input with a picture and a text. The word of the text is planted last."""
    image = picture(store, f"{name}image")
    return [{"type": "message", "role": "user", "content": [image, {"type": "input_text", "text": store.plant(name)}]}]


def every_kind_of_item(store: PlantedStore) -> list[dict[str, Any]]:
    plant = store.plant
    image = picture(store, "image")
    encoded = base64.b64encode(plant("file").encode()).decode()
    file = {"type": "input_file", "filename": plant("filename"), "file_data": f"data:text/plain;base64,{encoded}"}
    refusal = {"type": "refusal", "refusal": plant("refusal")}
    return [
        message(plant("user")),
        {"type": "message", "role": "user", "content": [image, file, {"type": "input_text", "text": plant("part")}]},
        {"type": "message", "role": "assistant", "content": [refusal]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": plant("reasoning")}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": f'{{"x": "{plant("arguments")}"}}'},
        {"type": "function_call_output", "call_id": "c", "output": plant("output")},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": plant("custom")},
        {"type": "custom_tool_call_output", "call_id": "d", "output": plant("customoutput")},
        {"type": "compaction", "encrypted_content": plant("compaction")},
        {"type": "note", "anything": {"nested": [plant("other")]}},
    ]


async def retracted_items(store: PlantedStore) -> None:
    """Adds items of many kinds and two replies. Then retracts all items, one by one."""
    conversation = (await store.post("/v1/conversations", title="kept"))["id"]
    path = f"/v1/conversations/{conversation}"
    added = await store.post(f"{path}/items", is_keyed=True, items=every_kind_of_item(store))
    await store.post(f"{path}/items/{added['data'][0]['id']}/pin")
    store.answer_with(thinks_and_calls(store.plant("thought"), store.plant("answer"), "f", {"x": store.plant("call")}))
    body: dict[str, Any] = {"conversation": conversation, "input": store.plant("question"), "model": "scripted"}
    await store.post("/v1/responses", is_keyed=True, **body)
    store.answer_with(refuses_with(store.plant("refused")))
    await store.post("/v1/responses", conversation=conversation, input=store.plant("asked"), background=False)
    while items := (await store.http.get(f"{path}/items", params={"limit": 100})).json()["data"]:
        for item in items:
            await store.delete(f"{path}/items/{item['id']}")


async def deleted_responses(store: PlantedStore) -> None:
    """Deletes responses: completed, failed, cancelled, interrupted, without a conversation, and the first of a chain."""
    conversation = (await store.post("/v1/conversations"))["id"]
    plant, ids = store.plant, []
    extra: dict[str, Any] = {
        "conversation": conversation,
        "instructions": plant("instructions"),
        "metadata": {"k": plant("metadata")},
    }
    store.answer_with("kept")
    ids.append((await store.post("/v1/responses", is_keyed=True, input="kept", **extra))["id"])
    store.answer_with(breaks_off_after(plant("failed")))
    failed = await store.post("/v1/responses", status=502, conversation=conversation, input=plant("failedinput"))
    ids.append(failed["error"]["response_id"] if "response_id" in failed["error"] else store.responses[-1])
    ids += [await cancelled(store, conversation), await interrupted(store, conversation)]
    store.answer_with(thinks_and_calls(plant("alonethought"), plant("alone"), "f", {"x": plant("alonecall")}))
    alone: dict[str, Any] = {
        "input": plant("aloneinput"),
        "instructions": plant("aloneinstructions"),
        "metadata": {"k": plant("m")},
    }
    ids.append((await store.post("/v1/responses", is_keyed=True, **alone))["id"])
    store.answer_with(plant("chained"))
    first = await store.post("/v1/responses", input=plant("first"))
    store.answer_with("kept")
    await store.post("/v1/responses", input="kept", previous_response_id=first["id"])
    for response_id in dict.fromkeys([*ids, first["id"]]):
        await store.delete(f"/v1/responses/{response_id}")


async def deleted_completions(store: PlantedStore) -> None:
    """Makes three conversations. Deletes the items of the first, the items and completions of the second, and the third.

    The client changes the messages that it repeats.
    """
    plant = store.plant
    for number in range(3):
        system: dict[str, Any] = {"role": "system", "content": plant("system") if number else "kept"}
        parameters: dict[str, Any] = (
            {"metadata": {"k": plant("chatmetadata")}, "user": plant("chatuser")} if number else {}
        )
        url = picture(store, "chatimage")["image_url"]
        image = {"type": "image_url", "image_url": {"url": url}}
        content = [{"type": "text", "text": plant("chatquestion")}, image]
        question = {"role": "user", "content": content, "name": plant("chatname")}
        store.answer_with(thinks_and_calls(plant("chatthought"), plant("chatanswer"), "f", {"x": plant("chatcall")}))
        first = await store.post("/v1/chat/completions", is_keyed=True, messages=[system, question], **parameters)
        answer = first["choices"][0]["message"]
        answer["content"] = f"<think>{plant('chatthink')}</think>{answer['content']}"
        output = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": plant("chatoutput")}
        messages = [system, {**question, "name": plant("othername")}, answer, output]
        store.answer_with("kept")
        second = await store.post("/v1/chat/completions", is_keyed=True, messages=messages, **parameters)
        store.answer_with("kept")
        response = await store.http.get(f"/v1/responses/{response_id_of(second['id'])}")
        conversation = response.json()["conversation"]["id"]
        path = f"/v1/conversations/{conversation}"
        if number == 2:
            await store.delete(path)
            continue
        for item in (await store.http.get(f"{path}/items", params={"limit": 100})).json()["data"]:
            await store.delete(f"{path}/items/{item['id']}")
        if number == 1:
            for completion in (first, second):
                await store.delete(f"/v1/responses/{response_id_of(completion['id'])}")


async def cancelled(store: PlantedStore, conversation: str) -> str:
    """Cancels a reply after some text. Returns the response's id."""
    word, streaming = store.plant("cancelled"), asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk(word)
        loop.call_soon_threadsafe(streaming.set)
        exchange.provider.disconnected.wait(5)

    store.answer_with(script)
    body: dict[str, Any] = {"conversation": conversation, "input": store.plant("cancelledinput"), "background": True}
    response_id: str = (await store.post("/v1/responses", **body))["id"]
    await asyncio.wait_for(streaming.wait(), 10)
    cancelled_response = await store.post(f"/v1/responses/{response_id}/cancel")
    assert cancelled_response["status"] == "cancelled"
    return response_id


async def interrupted(store: PlantedStore, conversation: str) -> str:
    """Disconnects after some text. Returns the response's id."""
    word = store.plant("interrupted")

    def script(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk(word)
        exchange.provider.disconnected.wait(5)

    store.answer_with(script)
    store.provider.disconnected.clear()
    body = {"conversation": conversation, "input": store.plant("interruptedinput"), "stream": True}
    async with store.http.stream("POST", "/v1/responses", json=body) as answer:
        async for line in answer.aiter_lines():
            if word in line:
                break
    async with asyncio.timeout(10):
        while store.log.rows("SELECT FROM responses WHERE running"):  # noqa: ASYNC110 - only Postgres has this state
            await asyncio.sleep(0.02)
    return store.ids("SELECT item_id FROM events WHERE topic = 'reply.interrupted' ORDER BY notification_id")[-1]


async def deleted_stopped_turns(store: PlantedStore) -> None:
    """Deletes stopped and retried turns of a conversation that keeps partial answers."""
    conversation = (await store.post("/v1/conversations", context_policy={"stopped": "keep"}))["id"]
    stopped = await interrupted(store, conversation)
    store.answer_with(store.plant("retried"))
    retried = await store.post("/v1/responses", is_keyed=True, retry=stopped)
    responses = [stopped, retried["id"], await cancelled(store, conversation)]
    path = f"/v1/conversations/{conversation}"
    items = (await store.http.get(f"{path}/items")).json()["data"]
    assert len(items) == 4
    for item in items:
        await store.delete(f"{path}/items/{item['id']}")
    for response_id in responses:
        await store.delete(f"/v1/responses/{response_id}")


async def retracted_retried_turn(store: PlantedStore) -> None:
    """Retracts the items of a retried turn. The failed response is not deleted."""
    conversation = (await store.post("/v1/conversations"))["id"]
    store.answer_with(breaks_off_after("kept"))
    body = {"conversation": conversation, "input": store.plant("retriedinput")}
    failed = await store.post("/v1/responses", status=502, **body)
    store.answer_with(store.plant("retriedanswer"))
    await store.post("/v1/responses", is_keyed=True, retry=failed["error"]["response_id"])
    store.answer_with("kept")
    path = f"/v1/conversations/{conversation}/items"
    for item in (await store.http.get(path)).json()["data"]:
        await store.delete(f"{path}/{item['id']}")


async def deleted_conversation_of_a_retried_turn(store: PlantedStore) -> None:
    """Bob's question is carried over twice into Ann's fork. The fork is not deleted."""
    conversation = (await store.post("/v1/conversations", sender="bob", items=[message("kept")]))["id"]
    share: dict[str, Any] = {"with": {"subject": "ann"}, "role": "reader"}
    await store.post(f"/v1/conversations/{conversation}/shares", sender="bob", **share)
    store.answer_with(breaks_off_after("kept"))
    body = {"conversation": conversation, "input": store.plant("carriedinput")}
    failed = (await store.post("/v1/responses", sender="bob", status=502, **body))["error"]["response_id"]
    second = await store.post("/v1/responses", status=502, input="kept", previous_response_id=failed)
    store.answer_with("kept")
    chain = {"previous_response_id": second["error"]["response_id"]}
    fork = await store.post("/v1/responses", input="kept", **chain)
    assert fork["conversation"]["id"] != conversation
    assert store.planted[-1] in str(store.provider.requests[-1])
    await store.post("/v1/responses", sender="bob", is_keyed=True, retry=failed)
    await store.delete(f"/v1/conversations/{conversation}", sender="bob")


async def deleted_failed_responses(store: PlantedStore) -> None:
    """Deletes two of three failed responses, and the conversation of the third."""
    for start in ("listed", "unlisted", "deleted"):
        body: dict[str, Any] = {"input": with_picture(store, f"{start}failedinput")}
        if start != "unlisted":
            body["conversation"] = (await store.post("/v1/conversations", items=[message("kept")]))["id"]
        store.answer_with(breaks_off_after(store.plant(f"{start}failedoutput")))
        failed = (await store.post("/v1/responses", status=502, **body))["error"]["response_id"]
        store.answer_with("kept")
        await store.post("/v1/responses", input="kept", previous_response_id=failed)
        sent = str(store.provider.requests[-1])
        assert all(word in sent for word in store.planted[-2:])
        what = f"responses/{failed}" if start != "deleted" else f"conversations/{body['conversation']}"
        await store.delete(f"/v1/{what}")


async def deleted_conversation(store: PlantedStore) -> None:
    plant = store.plant
    described: dict[str, Any] = {
        "title": plant("title"),
        "instructions": plant("instr"),
        "metadata": {plant("key"): plant("value")},
    }
    created = await store.post("/v1/conversations", is_keyed=True, items=every_kind_of_item(store), **described)
    path = f"/v1/conversations/{created['id']}"
    await store.post(path, title=plant("renamed"))
    await store.post(f"{path}/items", is_keyed=True, items=[message(plant("appended")) for _ in range(3)])
    talk = [message(f"{plant('talk')} " + "word " * 200, role) for _ in range(8) for role in ("user", "assistant")]
    await store.post(f"{path}/items", is_keyed=True, items=talk[:16])
    store.answer_with(plant("summarized"))
    await store.post(f"{path}/compact", is_keyed=True, instructions=plant("compactinstructions"))
    store.answer_with(plant("reply"))
    await store.post("/v1/responses", is_keyed=True, conversation=created["id"], input=plant("ask"))
    await store.post(f"{path}/end", is_keyed=True, reason=plant("reason"))
    await store.delete(path)


async def deleted_parent(store: PlantedStore) -> tuple[str, str]:
    """Deletes a conversation that was forked. One of its items was also copied.

    Returns the id of the fork's last response, and the id of the conversation with the copy.
    """
    parent = (await store.post("/v1/conversations", items=with_picture(store, "inherited")))["id"]
    copied = (await store.post(f"/v1/conversations/{parent}/items", items=with_picture(store, "copied")))["data"][0]
    store.answer_with(store.plant("parentreply"))
    response = await store.post("/v1/responses", conversation=parent, input=store.plant("parentinput"))
    store.answer_with("kept")
    forked = (await store.post(f"/v1/conversations/{parent}/fork", item=response["output"][0]["id"]))["id"]
    fork = await store.post("/v1/responses", input="kept", conversation=forked)
    other = (await store.post("/v1/conversations"))["id"]
    reference = {"type": "item_reference", "id": copied["id"]}
    await store.post("/v1/responses", conversation=other, input=[reference, message("kept")])
    assert any(store.planted[-3] in str(request) for request in store.provider.requests)
    await store.delete(f"/v1/conversations/{parent}")
    return fork["id"], other


async def deleted_single_completions(store: PlantedStore) -> None:
    """Deletes a completion with changed metadata, a failed one, and one in a conversation that stays."""
    plant, path = store.plant, "/v1/chat/completions"
    alone = {"role": "system", "content": plant("chatsystem")}, {"role": "user", "content": plant("chatalone")}
    store.answer_with(plant("chatlonely"))
    ids = [(await store.post(path, is_keyed=True, messages=alone, stop=plant("chatstop")))["id"]]
    await store.post(f"{path}/{ids[0]}", is_keyed=True, metadata={plant("chatkey"): plant("chatvalue")})
    store.answer_with(breaks_off_after(plant("chatfailed")))
    failed = await store.post(path, status=502, messages=[{"role": "user", "content": plant("chatfailing")}])
    ids.append(failed["error"]["response_id"])
    stays = (await store.post("/v1/conversations"))["id"]
    store.answer_with("kept")
    in_it = {"messages": [{"role": "user", "content": "kept"}], "conversation": stays, "user": plant("chatuser")}
    ids.append((await store.post(path, is_keyed=True, **in_it))["id"])
    for completion in ids:
        await store.delete(f"{path}/{completion}")


async def deleted_file(store: PlantedStore) -> str:
    """Deletes an uploaded file, and the item that names it. Returns the file's id."""
    data = base64.b64decode(as_base64(store.plant("uploaded")))
    form: dict[str, Any] = {"data": {"purpose": "vision"}, "files": {"file": ("a.png", data)}}
    file_id = str((await store.http.post("/v1/files", **form)).json()["id"])
    image = {"type": "input_image", "file_id": file_id}
    created = await store.post("/v1/conversations", items=[{"type": "message", "role": "user", "content": [image]}])
    path = f"/v1/conversations/{created['id']}/items"
    [item] = (await store.http.get(path)).json()["data"]
    await store.delete(f"/v1/files/{file_id}")
    await store.delete(f"{path}/{item['id']}")
    return file_id


async def withdrawn_summary(store: PlantedStore) -> str:
    """Deletes an item that a summary covers. Returns the conversation's id."""
    talk = [message(f"kept {n} " + "word " * 200, role) for n in range(8) for role in ("user", "assistant")]
    talk[0] = message(store.plant("covered"))
    created = await store.post("/v1/conversations", items=talk[:16])
    path = f"/v1/conversations/{created['id']}"
    store.answer_with(store.plant("summary"))
    assert store.planted[-1] in str(await store.post(f"{path}/compact", is_keyed=True))
    first = (await store.http.get(f"{path}/items", params={"order": "asc"})).json()["data"][0]["id"]
    await store.delete(f"{path}/items/{first}")
    return str(created["id"])


def reads(ids: Mapping[str, list[str]], items_of: Mapping[str, list[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields paths and parameters of GETs to all served paths, with these `ids`."""
    for template, methods in SERVED.items():
        if "GET" not in methods.split():
            continue
        names = re.findall(r"\{(.*?)\}", template)
        for values in product(*(ids[name] for name in names)):
            if names[1:] == ["item_id"] and values[1] not in items_of[values[0]]:
                continue
            path = template
            for name, value in zip(names, values, strict=True):
                path = path.replace(f"{{{name}}}", value)
            yield path, {}
            if template.endswith("/events"):
                yield path, {"after": "2", "limit": "1000"}
            if template.endswith("{response_id}"):
                yield path, {"stream": "true"}
                yield path, {"stream": "true", "starting_after": "2"}
            if template.endswith(("/items", "/input_items", "/responses")) and names:
                yield path, {"limit": "100", "order": "asc"}
            if template.endswith("{conversation_id}/items"):
                yield from ((path, {"limit": "100", "as_of": f"{version}"}) for version in (2, 12))
                yield path, {"limit": "100", "include[]": "message.input_image.image_url"}
            if template.endswith("/items/{item_id}"):
                yield path, {"include[]": "message.input_image.image_url"}


def leaks(text: str, planted: list[str]) -> list[str]:
    return [word for word in planted if word in text]


def readable(answer: httpx.Response) -> str:
    return f"{answer.headers} {answer.text} {base64.b64encode(answer.content).decode()}"


def events_of(store: PlantedStore) -> str:
    return f"{[store.log.events(one) for one in store.conversations]}"


def stored_contents(store: PlantedStore) -> str:
    """The stored contents, as bytes and as base64."""
    contents = [content for (content,) in store.log.rows("SELECT bytes FROM content_rows")]
    return f"{contents} {[base64.b64encode(content) for content in contents]}"


async def test_deleted_words_are_in_no_answer_model_request_log_or_metric(
    store: PlantedStore, capsys: pytest.CaptureFixture[str]
) -> None:
    await retracted_items(store)
    await deleted_responses(store)
    await deleted_stopped_turns(store)
    await retracted_retried_turn(store)
    await deleted_conversation_of_a_retried_turn(store)
    await deleted_failed_responses(store)
    await deleted_completions(store)
    await deleted_conversation(store)
    fork, other = await deleted_parent(store)
    summarized = await withdrawn_summary(store)
    await deleted_single_completions(store)
    uploaded = await deleted_file(store)
    planted = store.planted
    shown = f"{events_of(store)} {stored_contents(store)} {store.provider.requests}"
    assert [word for word in planted if word not in shown] == [], "not planted at all"
    found = {f"log {word}" for word in leaks(capsys.readouterr().out, planted)}
    store.provider.requests.clear()
    store.answer_with("kept")
    conversations, responses, items = store.conversations, store.responses, store.items
    ids = {
        "conversation_id": conversations,
        "response_id": responses,
        "completion_id": [completion_id(response_id) for response_id in responses],
        "item_id": items,
        "file_id": [*dict.fromkeys(re.findall(r"content:(file-[0-9a-f]{32})", events_of(store)))],
    }
    assert uploaded in ids["file_id"]
    survivors = [conversation for conversation in conversations if await exists(store, conversation)]
    assert other in survivors
    assert summarized in survivors
    for conversation in survivors:
        await store.http.post("/v1/responses", json={"conversation": conversation, "input": "And now?"})
        await store.http.post("/v1/responses/input_tokens", json={"conversation": conversation, "input": "And now?"})
    await store.post("/v1/responses", previous_response_id=fork, input="And now?")
    for response_id in responses:
        body = {"previous_response_id": response_id, "input": "And now?", "model": "scripted"}
        for path in ("/v1/responses", "/v1/responses/compact"):
            found |= {f"POST {path} {word}" for word in leaks((await store.http.post(path, json=body)).text, planted)}
        answer = await store.http.post(f"/v1/responses/{response_id}/cancel")
        found |= {f"cancel {word}" for word in leaks(answer.text, planted)}
        answer = await store.http.post(f"/v1/chat/completions/{response_id}", json={"metadata": {"k": "kept"}})
        found |= {f"chat completion {word}" for word in leaks(answer.text, planted)}
    found |= await leaks_of_names(store, planted, items, ids["file_id"])
    for conversation, command in product(conversations, ("compact", "compact/undo", "compact/redo", "end", "reopen")):
        answer = await store.http.post(f"/v1/conversations/{conversation}/{command}")
        found |= {f"{command} {word}" for word in leaks(answer.text, planted)}
    assert len(store.provider.requests) > len(survivors)
    for request in store.provider.requests:
        found |= {f"model request {word}" for word in leaks(str(request), planted)}
    for path, body, headers in store.keyed:
        answer = await store.http.post(path, json=body, headers=headers)
        echoed = "" if answer.status_code >= 400 else answer.text
        found |= {f"repeated {path} {answer.status_code} {word}" for word in leaks(echoed, planted)}
    items_of = {one: items if one in survivors else own_items(store, one) for one in conversations}
    for path, params in reads({**ids, "model_id:path": ["scripted"], "key_id": []}, items_of):
        answer = await store.http.get(path, params=params)
        found |= {f"GET {path} {params} {word}" for word in leaks(readable(answer), planted)}
    for conversation in survivors:
        text = await first_part_of(store, f"/v1/conversations/{conversation}/events")
        assert "conversation.started" in text
        found |= {f"stream of events {word}" for word in leaks(text, planted)}
    found |= {f"log {word}" for word in leaks(capsys.readouterr().out, planted)}
    found |= {f"metrics {word}" for word in leaks(store.metrics.render()[0].decode(), planted)}
    assert not found, "\n".join(sorted(found))


async def leaks_of_names(store: PlantedStore, planted: list[str], items: list[str], file_ids: list[str]) -> set[str]:
    """Asks a model about each item and each file, by its id."""
    found = set()
    for item_id in items:
        referring = {"input": [{"type": "item_reference", "id": item_id}, message("And now?")]}
        answer = await store.http.post("/v1/responses", json=referring)
        found |= {f"reference {word}" for word in leaks(answer.text, planted)}
    for file_id in file_ids:
        image = {"type": "message", "role": "user", "content": [{"type": "input_image", "file_id": file_id}]}
        answer = await store.http.post("/v1/responses", json={"input": [image]})
        assert answer.status_code == 404, answer.text
    return found


async def first_part_of(store: PlantedStore, path: str) -> str:
    """Reads the stream until nothing has arrived for 0.2 s."""
    received = ""
    async with store.http.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
        parts = answer.aiter_text()
        with suppress(TimeoutError):
            while True:
                received += await asyncio.wait_for(anext(parts), 0.2)
    return received


def own_items(store: PlantedStore, conversation: str) -> list[str]:
    return [event.item_id for event in store.log.events(conversation) if isinstance(event, ItemAppended)]


async def exists(store: PlantedStore, conversation: str) -> bool:
    return (await store.http.get(f"/v1/conversations/{conversation}")).status_code == 200


def test_the_planted_word_test_has_ids_for_every_path_parameter() -> None:
    """If this fails, pass ids for the new parameter to `reads`."""
    handled = {"conversation_id", "response_id", "completion_id", "item_id", "model_id:path", "key_id", "file_id"}
    assert {name for template in SERVED for name in re.findall(r"\{(.*?)\}", template)} <= handled
