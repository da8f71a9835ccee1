"""`If-None-Match`: 304 if the client already has the answer. HEAD answers like GET, without a body."""

from typing import Any

import httpx
import pytest

from infrastructure.http.served_paths import SERVED
from infrastructure.ids import mint
from infrastructure.settings import Settings
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer


class Read:
    """The paths of a conversation with one reply."""

    def __init__(self, conversation_id: str, item_id: str, response_id: str) -> None:
        conversation = f"/v1/conversations/{conversation_id}"
        self.id = conversation_id
        self.conversation = conversation
        self.by_version = [
            conversation,
            f"{conversation}/items?limit=2",
            f"{conversation}/events?after=1",
            f"{conversation}/responses",
            f"{conversation}/context?model=smol",
        ]
        """Paths whose answers depend only on the conversation's version."""

        self.others = [
            f"{conversation}/items/{item_id}",
            f"{conversation}/items?as_of=1",
            f"{conversation}/items?after={item_id}&order=asc",
            f"{conversation}/responses?after={response_id}",
            f"/v1/responses/{response_id}",
            f"/v1/responses/{response_id}/input_items",
        ]


@pytest.fixture
async def read(write: Writer, live: ManualProjector) -> Read:
    conversation_id = await write.start("hello", "you")
    [item_id] = await write.append(conversation_id, "first")
    response_id, input_items = await write.request_reply(conversation_id, "two plus two?")
    await write.complete_reply(conversation_id, response_id, input_items, "four")
    return Read(conversation_id, item_id, response_id)


async def get(api: httpx.AsyncClient, path: str, tag: str | None = None, method: str = "GET") -> httpx.Response:
    return await api.request(method, path, headers={} if tag is None else {"If-None-Match": tag})


async def test_an_answer_that_the_client_has_is_a_304(api: httpx.AsyncClient, write: Writer, read: Read) -> None:
    paths = [*read.by_version, *read.others]
    answers = {path: await get(api, path) for path in paths}
    for path, answer in answers.items():
        assert answer.status_code == 200, path
        tag = answer.headers["etag"]
        for method, sent in (("GET", tag), ("GET", "*"), ("HEAD", f"W/{tag}")):
            same = await get(api, path, sent, method)
            assert (same.status_code, same.content) == (304, b""), (method, path, sent)
            assert same.headers["etag"] == tag
            assert same.headers["vary"] == "Accept-Encoding"
            assert same.headers["x-request-id"]
            assert "content-length" not in same.headers

    await write.append(read.id, "more")

    for path, answer in answers.items():
        changed = await get(api, path, answer.headers["etag"])
        assert changed.status_code == 200, path
        assert changed.headers["etag"] != answer.headers["etag"]


@pytest.mark.parametrize("path", ["", "/items?as_of=1"])
async def test_a_header_may_have_several_tags(api: httpx.AsyncClient, read: Read, path: str) -> None:
    path = f"{read.conversation}{path}"
    tag = (await get(api, path)).headers["etag"]
    for sent in (f'"other", {tag}', f'"a,b" ,,W/{tag}', f"{tag},", f" {tag} "):
        assert (await get(api, path, sent)).status_code == 304, sent
    lines = [("If-None-Match", '"other"'), ("If-None-Match", tag)]
    assert (await api.get(path, headers=lines)).status_code == 304
    for sent in ('"other"', '""', f'"{tag[1:-1]}0"', f'"{tag[1:-1]}-gzip"'):
        assert (await get(api, path, sent)).status_code == 200, sent
    for sent in (tag.strip('"'), "", f"{tag} {tag} x", '"', f"*, {tag}", "w/" + tag):
        answer = await get(api, path, sent)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "If-None-Match"), sent


async def test_if_none_match_does_not_hide_a_404_or_a_400(api: httpx.AsyncClient, write: Writer, read: Read) -> None:
    tag = (await get(api, read.conversation)).headers["etag"]
    gone = await write.start("hello")
    await write.delete(gone)
    for path in (
        f"/v1/conversations/{gone}",
        f"{read.conversation}/items/{mint('msg')}",
        f"/v1/responses/{mint('resp')}",
    ):
        for sent in (tag, "*", '"2"'):
            assert (await get(api, path, sent)).status_code == 404
    for path in (f"{read.conversation}/items?as_of=99", f"{read.conversation}/items?after={mint('msg')}"):
        assert (await get(api, path, tag)).status_code == 400


async def test_a_304_that_depends_only_on_the_version_reads_no_view(
    settings: Settings, api: httpx.AsyncClient, write: Writer, read: Read
) -> None:
    tag = (await get(api, read.conversation)).headers["etag"]
    without_views = settings.model_copy(
        update={"mongodb_url": "mongodb://127.0.0.1:1/none?serverSelectionTimeoutMS=50"}
    )
    async with open_api(without_views) as blind:
        for path in read.by_version:
            assert (await get(blind, path, tag)).status_code == 304, path
        assert (await get(blind, read.conversation, '"1"')).status_code == 503


async def test_an_unverified_read_is_never_a_304(cut_api: httpx.AsyncClient, postgres: Proxy, read: Read) -> None:
    tag = (await get(cut_api, read.conversation)).headers["etag"]
    await postgres.cut()
    for path in (read.conversation, f"{read.conversation}/items", f"{read.conversation}/responses"):
        for sent in (tag, "*"):
            answer = await get(cut_api, path, sent)
            assert (answer.status_code, answer.headers["x-consistency"]) == (200, "unverified")


async def test_a_stream_is_never_a_304(api: httpx.AsyncClient, write: Writer, read: Read) -> None:
    failed, _ = await write.request_reply(read.id, "?")
    await write.fail_reply(read.id, failed)
    headers = {"If-None-Match": "*", "Accept": "text/event-stream"}
    stream = f"/v1/responses/{failed}?stream=true"
    for path in (f"{read.conversation}/events", stream):
        assert (await api.head(path, headers=headers)).status_code == 200
    streamed = await api.get(stream, headers=headers)
    assert (streamed.status_code, b"response.failed" in streamed.content) == (200, True)
    malformed = await api.get(stream, headers={**headers, "If-None-Match": "x"})
    assert (malformed.status_code, malformed.json()["error"]["param"]) == (400, "If-None-Match")


async def test_a_minimum_position_is_awaited_before_a_304(api: httpx.AsyncClient, read: Read) -> None:
    headers: dict[str, Any] = {"If-None-Match": "*", "X-Min-Position": "999999"}
    answer = await api.get(read.conversation, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "read_models_behind")


async def test_head_has_the_status_and_the_headers_of_get(api: httpx.AsyncClient, read: Read) -> None:
    paths = [*read.by_version, *read.others]
    paths += [path for path, methods in SERVED.items() if "GET" in methods.split() and "{" not in path]
    paths[paths.index("/v1/search")] += "?q=word"
    for path in [*paths, "/v1/models/unknown", f"{read.conversation}/items/{mint('msg')}", f"{paths[0]}?as_off=1"]:
        got, head = await get(api, path), await get(api, path, method="HEAD")
        assert head.status_code == got.status_code, path
        assert got.status_code == 200 or path not in paths
        changing = {"x-request-id", *(["content-length"] if path == "/v1/projections" else [])}
        assert {name: value for name, value in head.headers.items() if name not in changing} == {
            name: value for name, value in got.headers.items() if name not in changing
        }
