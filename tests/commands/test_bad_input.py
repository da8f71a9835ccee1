"""Invalid requests get a 4xx and append no event. Unusual but valid requests are accepted."""

import json
from typing import Any

import httpx
import pytest

from tests.commands.api_client import create_conversation, message
from tests.log import Log

UNKNOWN = f"conv_{'0' * 32}"


def item(**changes: Any) -> dict[str, Any]:
    """A body with one item."""
    return {"items": [{**message("hi"), **changes}]}


MALFORMED: list[tuple[str, bytes, str | None]] = [
    ("empty body", b"", None),
    ("blank body", b"  ", None),
    ("invalid JSON", b'{"items": [', None),
    ("not an object", b"[]", None),
    ("no items", b"{}", "items"),
    ("items of the wrong type", b'{"items": {}}', "items"),
    ("an item of the wrong type", b'{"items": ["hi"]}', "items[0]"),
    ("an item without type or role", b'{"items": [{}]}', "items[0].type"),
    ("a type of the wrong type", b'{"items": [{"type": 7}]}', "items[0].type"),
    ("unknown role", json.dumps(item(role="robot")).encode(), "items[0].role"),
    ("role of the wrong type", json.dumps(item(role=["user"])).encode(), "items[0].role"),
    (
        "an output of Chat Completions",
        json.dumps(item(role="tool", tool_call_id="c")).encode(),
        "items[0].tool_call_id",
    ),
    ("an output without its call", json.dumps(item(role="tool")).encode(), "items[0].role"),
    (
        "calls of Chat Completions",
        json.dumps(item(role="assistant", tool_calls=[{"id": "c"}])).encode(),
        "items[0].tool_calls",
    ),
    ("no content", b'{"items": [{"role": "user"}]}', "items[0].content"),
    ("content of the wrong type", json.dumps(item(content=5)).encode(), "items[0].content"),
    ("a part without text", json.dumps(item(content=[{"type": "input_text"}])).encode(), "items[0].content[0].text"),
    ("a part of the wrong type", json.dumps(item(content=["hi"])).encode(), "items[0].content[0]"),
    ("an output without call_id", b'{"items": [{"type": "function_call_output", "output": "x"}]}', "items[0].call_id"),
    ("21 items", json.dumps({"items": [message("x")] * 21}).encode(), "items"),
    ("NUL", json.dumps(item(content="a\0b")).encode(), "items[0].content"),
    ("NUL in a key", b'{"items": [{"type": "x", "a\\u0000": 1}]}', "items[0]"),
    ("lone high surrogate", b'{"items": [{"role": "user", "content": "\\ud83d"}]}', None),
    ("lone low surrogate", b'{"items": [{"role": "user", "content": "\\ude00 and more"}]}', None),
    ("high surrogate before text", b'{"items": [{"role": "user", "content": "\\ud83d and more"}]}', None),
    ("a surrogate in UTF-8", b'{"items": [{"role": "user", "content": "\xed\xa0\xbd"}]}', None),
    ("half an emoji in UTF-8", b'{"items": [{"role": "user", "content": "\xf0\x9f\x98"}]}', None),
    ("a lone surrogate in a name", b'{"items": [{"type": "x", "\\ud83d": 1}]}', None),
    ("UTF-16", '{"items": []}'.encode("utf-16"), None),
    ("NaN", b'{"items": [{"type": "x", "n": NaN}]}', None),
    ("a number too large", b'{"items": [{"type": "x", "n": 1e999}]}', None),
    ("nested too deep", b'{"items": [{"type": "x", "n": ' + b"[" * 70 + b"]" * 70 + b"}]}", None),
    ("nested without end", b"[" * 200_000, None),
    ("an unknown field", b'{"items": [], "surprise": 1}', "surprise"),
    ("a reference", b'{"items": [{"type": "item_reference", "id": "msg_1"}]}', "items[0].type"),
]


def assert_openai_error(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["message"]
    assert answer.headers["x-request-id"]
    assert answer.headers["x-should-retry"] == "false"
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(("body", "param"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
async def test_an_invalid_body_is_a_400_with_the_right_param(
    api: httpx.AsyncClient, log: Log, body: bytes, param: str | None
) -> None:
    conversation_id = await create_conversation(api)
    answer = await api.post(f"/v1/conversations/{conversation_id}/items", content=body)
    assert_openai_error(answer, 400)
    assert answer.json()["error"]["param"] == param
    assert log.count() == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {f"k{n}": "v" for n in range(17)},
        {"k" * 65: "v"},
        {"": "v"},
        {"k": "v" * 513},
        {"k": 1},
        {"k": None},
        [],
        "text",
    ],
    ids=["17 pairs", "long key", "empty key", "long value", "number", "null", "list", "text"],
)
async def test_metadata_over_its_limits_or_of_a_wrong_type_is_a_400(
    api: httpx.AsyncClient, log: Log, metadata: Any
) -> None:
    answer = await api.post("/v1/conversations", json={"metadata": metadata})
    assert_openai_error(answer, 400)
    assert answer.json()["error"]["param"].startswith("metadata")
    assert log.count() == 0


@pytest.mark.parametrize("size", [1024 * 1024, 2_000_000, 2 * 1024 * 1024, 10_000_000])
async def test_an_item_over_a_megabyte_is_a_413(api: httpx.AsyncClient, log: Log, size: int) -> None:
    conversation_id = await create_conversation(api)
    body = item(content="x" * size)
    assert_openai_error(await api.post(f"/v1/conversations/{conversation_id}/items", json=body), 413)
    assert_openai_error(await api.post("/v1/conversations", json=body), 413)
    assert_openai_error(await api.post("/v1/responses", json={"model": "m", "input": "x" * size}), 413)
    assert log.count() == 1


@pytest.mark.parametrize("size", [9_000_000, 40_000_000])
async def test_a_body_over_its_limit_is_a_413(api: httpx.AsyncClient, log: Log, size: int) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}/items"
    assert_openai_error(await api.post(path, content=b'{"items": [' + b" " * size + b"]}"), 413)

    async def chunks() -> Any:
        for _ in range(size // 100_000):
            yield b" " * 100_000

    assert_openai_error(await api.post(path, content=chunks()), 413)
    assert_openai_error(await api.post(f"{path[:-6]}/end", content=b" " * 2_000_000), 413)
    assert log.count() == 1


async def test_twenty_items_of_a_third_of_a_megabyte_are_appended(api: httpx.AsyncClient, log: Log) -> None:
    conversation_id = await create_conversation(api)
    body = {"items": [message("x" * 333_000)] * 20}
    assert (await api.post(f"/v1/conversations/{conversation_id}/items", json=body)).status_code == 200
    assert log.count() == 21


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", " " * 1_000_000, "😀" * 1000, "\u2028\u202e\ufeff", '"\\u0000"', "\\u0000"]
)
async def test_unusual_text_is_accepted_and_returned_unchanged(api: httpx.AsyncClient, text: str) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}/items"
    answer = await api.post(path, json={"items": [message(text)]})
    assert answer.status_code == 200
    assert answer.json()["data"][0]["content"][0]["text"] == text


@pytest.mark.parametrize(
    "conversation_id", ["conv_1", "msg_" + "0" * 32, "conv_" + "g" * 32, "conv_" + "0" * 33, "a b", "%00"]
)
async def test_an_id_of_the_wrong_form_is_a_400(api: httpx.AsyncClient, log: Log, conversation_id: str) -> None:
    assert_openai_error(await api.post(f"/v1/conversations/{conversation_id}/items", json=item()), 400)
    assert log.count() == 0


async def test_an_id_that_does_not_exist_is_a_404(api: httpx.AsyncClient, log: Log) -> None:
    path = f"/v1/conversations/{UNKNOWN}"
    for answer in (
        await api.post(path, json={"metadata": {}}),
        await api.post(f"{path}/items", json=item()),
        await api.post(f"{path}/end"),
        await api.delete(path),
        await api.delete(f"{path}/items/msg_{'0' * 32}"),
        await api.post("/v1/responses", json={"conversation": UNKNOWN, "input": "hi", "model": "m"}),
    ):
        assert_openai_error(answer, 404)
    assert log.count() == 0


@pytest.mark.parametrize("value", ["1", '"1', '1"', '*, "1"', '"1" "2"', ""])
async def test_a_malformed_if_match_is_a_400(api: httpx.AsyncClient, log: Log, value: str) -> None:
    conversation_id = await create_conversation(api)
    path = f"/v1/conversations/{conversation_id}/items"
    assert_openai_error(await api.post(path, json=item(), headers={"If-Match": value}), 400)
    assert log.count() == 1


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb"])
async def test_a_malformed_idempotency_key_is_a_400(api: httpx.AsyncClient, log: Log, key: str) -> None:
    assert_openai_error(await api.post("/v1/conversations", json={}, headers={"Idempotency-Key": key}), 400)
    assert log.count() == 0


KEYS = ["😀", "caf\u00e9", "cafe\u0301", "a b", '"quoted"', "\u202e"]


async def test_unusual_idempotency_keys_are_accepted_and_compared_byte_by_byte(
    api: httpx.AsyncClient, log: Log
) -> None:
    for _ in range(2):
        for key in KEYS:
            headers = {b"Idempotency-Key": key.encode()}
            assert (await api.post("/v1/conversations", json={}, headers=headers)).status_code == 200
    assert log.count() == len(KEYS)


async def test_two_idempotency_keys_are_a_400(api: httpx.AsyncClient, log: Log) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    answer = await api.post("/v1/conversations", json={}, headers=headers)
    assert_openai_error(answer, 400)
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert log.count() == 0


async def test_two_if_match_headers_are_read_as_one_list(api: httpx.AsyncClient) -> None:
    path = f"/v1/conversations/{await create_conversation(api)}/items"
    for versions, status in ((("1", "9"), 200), (("8", "9"), 412)):
        headers = [("If-Match", f'"{version}"') for version in versions]
        assert (await api.post(path, json=item(), headers=headers)).status_code == status


async def test_an_unknown_query_parameter_is_a_400_unless_official_clients_send_it(
    api: httpx.AsyncClient, log: Log
) -> None:
    path = f"/v1/conversations/{await create_conversation(api)}"
    for answer in (
        await api.post(f"{path}/items?dry_run=true", json=item()),
        await api.delete(f"{path}?dry_run=true"),
        await api.post("/v1/import?dry_run=true", content=b"{}"),
    ):
        assert_openai_error(answer, 400)
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("unknown_parameter", "dry_run")
    assert log.count() == 1
    query = "include[]=a&include=b&api-version=2026-01-01"
    assert (await api.post(f"{path}/items?{query}", json=item())).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "PROPFIND"])
async def test_a_405_names_the_methods_of_both_apis(api: httpx.AsyncClient, method: str) -> None:
    answer = await api.request(method, f"/v1/conversations/{UNKNOWN}")
    assert_openai_error(answer, 405)
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    "path", ["/v1/nothing%00", "/%0a%1b%0d", "/v1/" + "x" * 50_000, "/v1/%E2%80%AE", "//v1/conversations"]
)
async def test_an_odd_path_is_a_404(api: httpx.AsyncClient, path: str) -> None:
    assert_openai_error(await api.post(path), 404)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": "hi", "temperature": "hot"}, "temperature"),
        ({"input": "hi", "temperature": 3}, "temperature"),
        ({"input": "hi", "max_output_tokens": -1}, "max_output_tokens"),
        ({"input": "hi", "model": ""}, "model"),
        ({"input": "hi", "stream": "yes"}, "stream"),
        ({"input": "hi", "conversation": "conv_1"}, "conversation"),
        ({"input": "hi", "conversation": {"id": 5}}, "conversation"),
        ({"input": [{"role": "robot", "content": "hi"}]}, "input[0].role"),
        ({"input": "hi", "truncation": "maybe"}, "truncation"),
    ],
)
async def test_an_invalid_request_for_a_reply_is_a_400_naming_the_field(
    api: httpx.AsyncClient, log: Log, body: dict[str, Any], param: str
) -> None:
    answer = await api.post("/v1/responses", json={"model": "m", **body})
    assert_openai_error(answer, 400)
    assert answer.json()["error"]["param"].startswith(param)
    assert log.count() == 0


async def test_an_unknown_path_is_a_404_and_a_get_is_a_405(api: httpx.AsyncClient) -> None:
    assert_openai_error(await api.post("/v1/nothing"), 404)
    assert (await api.get("/v1/conversations")).status_code == 405


async def test_an_invalid_request_id_is_replaced_and_a_valid_one_is_returned(api: httpx.AsyncClient) -> None:
    with_invalid_id = await api.post("/v1/conversations", json={}, headers={"X-Request-ID": "a b<script>"})
    assert with_invalid_id.headers["x-request-id"].startswith("req_")
    with_valid_id = await api.post("/v1/conversations", json={}, headers={"X-Request-ID": "mine-1"})
    assert with_valid_id.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize(
    "body",
    [
        rb'{"input": "\ud83d"}',
        rb'{"input": "x", "instructions": "\ude42\ud83d"}',
        rb'{"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "\uDE42"}]}',
        rb'{"input": "\ud83d\ude42", "metadata": {"\ud83d\ud83d": "x"}}',
    ],
)
async def test_the_error_message_names_a_lone_surrogate(api: httpx.AsyncClient, log: Log, body: bytes) -> None:
    answer = await api.post("/v1/responses", content=body)
    assert_openai_error(answer, 400)
    assert "half of a surrogate pair" in answer.json()["error"]["message"]
    assert log.count() == 0


OTHER_TYPES = [
    None,
    "",
    "text/plain",
    "text/plain; charset=application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=application/json",
    "text/json",
    "application/jsonp",
    "application/json, text/plain",
    "text/plain, application/json",
    "json",
]
"""Not JSON. A web page can send some of these types without a CORS preflight."""


async def send_as(api: httpx.AsyncClient, path: str, content: bytes, *content_types: str | None) -> httpx.Response:
    request = api.build_request("POST", path, content=content)
    del request.headers["content-type"]
    headers = [(b"content-type", sent.encode()) for sent in content_types if sent is not None]
    request.headers = httpx.Headers([*request.headers.raw, *headers])
    return await api.send(request)


@pytest.mark.parametrize("content_type", OTHER_TYPES)
async def test_a_body_without_a_json_content_type_is_a_415(
    api: httpx.AsyncClient, log: Log, content_type: str | None
) -> None:
    conversation_id = await create_conversation(api)
    for path, body in (
        ("/v1/conversations", b"{}"),
        (f"/v1/conversations/{conversation_id}", b'{"title": "a"}'),
        (f"/v1/conversations/{conversation_id}/items", json.dumps(item(content="x")).encode()),
        ("/v1/responses", b'{"input": "hi"}'),
        ("/v1/responses/input_tokens", b'{"input": "hi"}'),
        ("/v1/import", b"{}"),
    ):
        answer = await send_as(api, path, body, content_type)
        assert_openai_error(answer, 415)
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_media_type", "Content-Type")
        assert ("application/x-ndjson" if path == "/v1/import" else "application/json") in error["message"]
    assert log.count() == 1


async def test_two_content_types_are_a_415(api: httpx.AsyncClient, log: Log) -> None:
    assert_openai_error(await send_as(api, "/v1/conversations", b"{}", "application/json", "text/plain"), 415)
    assert log.count() == 0


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON ; charset=utf-8", "application/vnd.api+json", "application/json;foo"],
)
async def test_a_body_with_a_json_content_type_is_accepted(api: httpx.AsyncClient, content_type: str) -> None:
    created = await send_as(api, "/v1/conversations", b"{}", content_type)
    assert created.status_code == 200
    path = f"/v1/conversations/{created.json()['id']}"
    assert (await send_as(api, f"{path}/end", b"")).status_code == 200
    assert (await send_as(api, f"{path}/reopen", b"", "text/plain")).status_code == 200
    assert_openai_error(await send_as(api, "/v1/responses", b""), 400)


@pytest.mark.parametrize(
    "content_type", ["application/x-ndjson", "application/jsonl", "application/json-lines+json", "application/json"]
)
async def test_only_an_import_may_be_sent_as_json_lines(api: httpx.AsyncClient, log: Log, content_type: str) -> None:
    assert (await send_as(api, "/v1/import", b"{}\n{}\n", content_type)).json()["conversations"] == 2
    assert_openai_error(await send_as(api, "/v1/conversations", b"{}", "application/x-ndjson"), 415)
    assert log.count() == 2
