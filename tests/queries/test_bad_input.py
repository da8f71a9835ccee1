"""Invalid requests are answered with 400, 404 or 405, never with 500."""

from typing import Any

import httpx
import pytest

from infrastructure.ids import mint
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer

CURSORS = ("\0", "", "msg_", "msg_xyz", "conv_" + "g" * 32, "msg_" + "0" * 32, "a" * 5000, "ü", "\ud7ff%ff")
NUMBERS = ("abc", "-1", "0", "99999999999999999999", "9" * 5000, "1.5", "", "NaN", "1e2", "\0", "0x1")


@pytest.fixture
async def conversation_id(write: Writer, live: ManualProjector) -> str:
    return await write.start("a")


def assert_refused(answer: httpx.Response, param: str | None = None) -> None:
    assert answer.status_code == 400, (answer.request.url, answer.text)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
    assert answer.headers["x-request-id"]


async def test_invalid_limits_are_refused(api: httpx.AsyncClient, conversation_id: str) -> None:
    for path in ("/v1/conversations", f"/v1/conversations/{conversation_id}/items"):
        for limit in (*NUMBERS, "101"):
            assert_refused(await api.get(path, params={"limit": limit}), "limit")
    for limit in (*NUMBERS, "1001"):
        assert_refused(await api.get(f"/v1/conversations/{conversation_id}/events", params={"limit": limit}), "limit")


async def test_cursors_that_are_malformed_or_not_in_the_list_are_refused(
    api: httpx.AsyncClient, conversation_id: str
) -> None:
    for path in ("/v1/conversations", f"/v1/conversations/{conversation_id}/items"):
        for param in ("after", "before"):
            for cursor in CURSORS:
                assert_refused(await api.get(path, params={param: cursor}), param)


async def test_invalid_versions_are_refused(api: httpx.AsyncClient, conversation_id: str) -> None:
    items, events = (f"/v1/conversations/{conversation_id}/{resource}" for resource in ("items", "events"))
    for number in NUMBERS:
        assert_refused(await api.get(items, params={"as_of": number}), "as_of")
        if number != "0":
            assert_refused(await api.get(events, params={"after": number}), "after")
        if number not in ("0", ""):
            headers = {"Last-Event-ID": number.replace("\0", "x"), "Accept": "text/event-stream"}
            assert_refused(await api.get(events, headers=headers), "Last-Event-ID")
            del headers["Accept"]
            assert_refused(await api.get(events, headers=headers), "Last-Event-ID")


@pytest.mark.parametrize("position", ["abc", "-1", "", "9" * 19, "9" * 30, '"1"', "1,2"])
async def test_an_invalid_minimum_position_is_refused(
    api: httpx.AsyncClient, conversation_id: str, position: str
) -> None:
    for path in (f"/v1/conversations/{conversation_id}", "/v1/conversations"):
        assert_refused(await api.get(path, headers={"X-Min-Position": position}), "X-Min-Position")


@pytest.mark.parametrize(
    "query", [{"order": "up"}, {"status": "deleted"}, {"metadata[a\0]": "b"}, {f"metadata[{n}]": "" for n in range(17)}]
)
async def test_an_invalid_order_status_or_metadata_filter_is_refused(
    api: httpx.AsyncClient, query: dict[str, Any], live: ManualProjector
) -> None:
    assert_refused(await api.get("/v1/conversations", params=query))


@pytest.mark.parametrize(
    "query",
    [
        {"metadata[a]": "\0"},
        {"owner": "\0$ne"},
        {"metadata[😀]": "x", "metadata[e\u0301]": "y"},
        {"include": "x", "include[]": "y", "api-version": "2026-01-01"},
    ],
)
async def test_ignored_parameters_and_filters_without_a_match_are_no_errors(
    api: httpx.AsyncClient, query: dict[str, Any], live: ManualProjector
) -> None:
    assert (await api.get("/v1/conversations", params=query)).status_code == 200


@pytest.mark.parametrize(
    "name", ["metadata[]", "metadata", "owner[$ne]", "x", "Limit", "as_off", "e\u0301", "\0", "y" * 100]
)
async def test_the_error_for_an_unknown_query_parameter_names_the_parameter(
    api: httpx.AsyncClient, name: str, conversation_id: str
) -> None:
    path = f"/v1/conversations/{conversation_id}"
    for url in (
        "/v1/conversations",
        path,
        f"{path}/items",
        f"{path}/events",
        f"{path}/context",
        "/v1/usage",
        "/v1/models",
    ):
        answer = await api.get(url, params={name: "x"})
        assert_refused(answer, name[:64])
        assert answer.json()["error"]["code"] == "unknown_parameter"


@pytest.mark.parametrize("name", ["X-Min-Position", "Last-Event-ID"])
async def test_a_header_that_must_have_one_value_is_refused_if_repeated(
    api: httpx.AsyncClient, name: str, conversation_id: str
) -> None:
    headers = [(name, "1"), (name, "1"), ("Accept", "text/event-stream")]
    assert_refused(await api.get(f"/v1/conversations/{conversation_id}/events", headers=headers), name)


async def test_malformed_ids_are_refused_and_unknown_ids_are_not_found(
    api: httpx.AsyncClient, live: ManualProjector
) -> None:
    for invalid_id in (
        "x",
        "conv_%00",
        "conv_" + "0" * 31,
        "msg_" + "0" * 32,
        "conv_" + "0" * 33,
        "%ff",
        "conv_" + "A" * 32,
    ):
        for path in ("", "/items", "/events", f"/items/{mint('msg')}"):
            assert_refused(await api.get(f"/v1/conversations/{invalid_id}{path}"))
    assert_refused(await api.get("/v1/responses/conv_" + "0" * 32))
    for path in (f"/v1/conversations/{mint('conv')}", f"/v1/responses/{mint('resp')}", "/v1/nothing"):
        assert (await api.get(path)).status_code == 404


async def test_a_post_to_the_query_api_is_a_405(api: httpx.AsyncClient, conversation_id: str) -> None:
    answer = await api.post(f"/v1/conversations/{conversation_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_the_openapi_document_can_be_generated(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/openapi.json")).json()["paths"]
    assert "/v1/conversations/{conversation_id}/items" in paths
