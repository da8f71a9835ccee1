"""Read-your-writes: an answer shows everything that was committed before the request.

Without certainty, the query API refuses the request or marks the answer as unverified.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from threading import Event

import httpx
import psycopg
import pytest
from starlette.requests import Request

from infrastructure.access.principal import ANONYMOUS
from infrastructure.event_log.append_request import LogBusy
from infrastructure.event_log.reader import EventReader
from infrastructure.http.errors import ApiError
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from projections.views.catalog import MONGO_VIEWS, POSITIONS_COLLECTION, MongoView
from queries.log_access import LOOKUP_TIMEOUT_SECONDS, LogAccess
from queries.main import open_dependencies
from queries.principal_log import PrincipalLog
from queries.query_context import QueryContext
from tests.queries.conftest import open_api, open_projector
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer
from tests.servers import EMPTY_TABLES

SLOW_SECONDS = 10.0
"""On a busy machine, a read of two seconds may take this long."""


def path_of(conversation_id: str) -> str:
    return f"/v1/conversations/{conversation_id}"


async def timed(api: httpx.AsyncClient, path: str, **headers: str) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    answer = await api.get(path, headers=headers)
    return answer, time.monotonic() - started


async def test_every_item_is_readable_right_after_it_was_written(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start()
    for number in range(30):
        [item_id] = await write.append(conversation_id, str(number))
        answer = await api.get(f"{path_of(conversation_id)}/items", params={"limit": 1})
        assert answer.json()["data"][0]["id"] == item_id
        assert answer.headers["etag"] == f'"{number + 2}"'


async def test_a_read_from_views_that_stay_behind_is_a_503(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    await write.append(conversation_id, "b")

    paths = (path_of(conversation_id), f"{path_of(conversation_id)}/items", "/v1/conversations")
    for answer, seconds in await asyncio.gather(*(timed(api, path) for path in paths)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "read_models_behind")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["x-should-retry"] == "true"
        assert 1.9 < seconds < SLOW_SECONDS


async def test_a_read_of_a_conversation_does_not_wait_for_other_conversations(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    await write.start("not shown yet")

    answer = await api.get(path_of(conversation_id))

    assert answer.status_code == 200  # no projector runs, so waiting would end in a 503


async def test_a_list_does_not_wait_for_what_other_tenants_wrote(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    await write.for_tenant("other").start("not shown yet")

    answer = await api.get("/v1/conversations")

    assert [conversation["id"] for conversation in answer.json()["data"]] == [conversation_id]


async def test_a_read_waits_for_a_projector_that_catches_up(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")

    reading = asyncio.create_task(api.get(f"{path_of(conversation_id)}/items"))
    done, _ = await asyncio.wait({reading}, timeout=0.2)
    await projector.catch_up()
    answer = await reading

    assert not done
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 1


async def test_a_read_from_views_before_the_requested_minimum_position_is_a_503(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    ended = await write.end(conversation_id)
    await projector.catch_up()

    for path in (path_of(conversation_id), "/v1/conversations"):
        reached, _ = await timed(api, path, **{"X-Min-Position": str(ended.position)})
        beyond, seconds = await timed(api, path, **{"X-Min-Position": str(ended.position + 1)})
        assert reached.status_code == 200
        assert (beyond.status_code, beyond.json()["error"]["code"]) == (503, "read_models_behind")
        assert seconds < SLOW_SECONDS


async def test_reads_of_views_are_unverified_without_postgres(
    cut_api: httpx.AsyncClient, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    response_id, input_items = await write.request_reply(conversation_id, "b")
    await write.complete_reply(conversation_id, response_id, input_items, "c")
    await projector.catch_up()
    await postgres.cut()

    first, seconds = await timed(cut_api, path_of(conversation_id))
    assert seconds < SLOW_SECONDS
    answers = [
        (await timed(cut_api, path))
        for path in (
            path_of(conversation_id),
            f"{path_of(conversation_id)}/items",
            f"{path_of(conversation_id)}/items/{input_items[0].item_id}",
            "/v1/conversations",
            f"/v1/responses/{response_id}",
            "/v1/projections",
        )
    ]

    for answer, seconds in [(first, 0.0), *answers]:
        assert (answer.status_code, answer.headers["x-consistency"]) == (200, "unverified"), answer.url
        assert seconds < LOOKUP_TIMEOUT_SECONDS, "the read waited although Postgres was known to be unavailable"
    assert answers[1][0].headers["etag"] == '"6"'
    assert len(answers[1][0].json()["data"]) == 3
    events, seconds = await timed(cut_api, f"{path_of(conversation_id)}/events")
    assert (events.status_code, events.json()["error"]["code"]) == (503, "event_store_unavailable")
    assert seconds < LOOKUP_TIMEOUT_SECONDS


async def test_reads_are_verified_again_soon_after_postgres_is_available(
    cut_api: httpx.AsyncClient, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    # Opens connections of the pool. None of the connections may cause an unverified read later.
    await asyncio.gather(*(cut_api.get(path_of(conversation_id)) for _ in range(20)))
    await postgres.cut()
    assert (await cut_api.get(path_of(conversation_id))).headers["x-consistency"] == "unverified"
    await postgres.restore()

    async with asyncio.timeout(10):
        while True:
            if "x-consistency" not in (await cut_api.get(path_of(conversation_id))).headers:
                break
            await asyncio.sleep(0.05)
    answers = await asyncio.gather(*(cut_api.get(path_of(conversation_id)) for _ in range(20)))
    assert not any("x-consistency" in answer.headers for answer in answers)


async def test_connections_that_broke_while_idle_are_replaced_before_they_are_used(
    cut_api: httpx.AsyncClient, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    await asyncio.gather(*(cut_api.get(path_of(conversation_id)) for _ in range(20)))

    await postgres.cut()
    await postgres.restore()
    answer = await cut_api.get(path_of(conversation_id))

    assert answer.status_code == 200
    assert "x-consistency" not in answer.headers


async def test_reads_are_unverified_while_postgres_is_frozen(
    cut_api: httpx.AsyncClient, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    assert (await cut_api.get(path_of(conversation_id))).status_code == 200
    postgres.freeze()

    first, first_seconds = await timed(cut_api, path_of(conversation_id))
    second, second_seconds = await timed(cut_api, path_of(conversation_id))
    await postgres.restore()

    assert first.headers["x-consistency"] == second.headers["x-consistency"] == "unverified"
    assert first_seconds < SLOW_SECONDS
    assert second_seconds < LOOKUP_TIMEOUT_SECONDS


async def test_one_slow_lookup_does_not_mark_postgres_as_unavailable(settings: Settings, write: Writer) -> None:
    async with open_dependencies(settings, Event()) as dependencies:
        with pytest.raises(LogBusy):
            await dependencies.log.look_up(lambda _: asyncio.sleep(10))
        assert not dependencies.log.is_unavailable
        assert (await dependencies.log.end()).position == 0


async def test_a_busy_event_loop_does_not_make_lookups_time_out(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    async with open_dependencies(settings, Event()) as dependencies:
        log, own_log = dependencies.log, dependencies.of(ANONYMOUS).log
        await asyncio.gather(own_log.head(conversation_id), log.look_up(EventReader.last_position))
        lookups = [
            asyncio.create_task(own_log.head(conversation_id)),
            asyncio.create_task(log.look_up(EventReader.last_position)),
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(LOOKUP_TIMEOUT_SECONDS + 0.2)  # noqa: ASYNC251 - blocks the event loop, as thousands of requests at once would
        await asyncio.gather(*lookups)


async def test_a_pool_without_a_free_connection_does_not_mark_postgres_as_unavailable(
    settings: Settings, write: Writer
) -> None:
    conversation_id = await write.start("a")
    async with AsyncExitStack() as stack:
        pool = make_pool(settings.postgres_url, max_size=2)
        await pool.open()
        stack.push_async_callback(pool.close)
        log = LogAccess(pool)
        stack.push_async_callback(log.close)
        for _ in range(2):
            await stack.enter_async_context(pool.connection())
        with pytest.raises(LogBusy):
            await log.end()
        assert not log.is_unavailable
        assert (await PrincipalLog(log, ANONYMOUS).existing_head(conversation_id)).version == 2


async def test_a_list_from_views_that_are_ahead_of_the_log_is_refused(
    settings: Settings, api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    await write.start("lost")
    await projector.catch_up()
    assert (await api.get("/v1/conversations")).status_code == 200
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute(EMPTY_TABLES)

    refused = await api.get("/v1/conversations")
    async with open_projector(settings) as restarted:
        await restarted.catch_up()
    emptied = await api.get("/v1/conversations")

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "read_models_behind")
    assert (emptied.status_code, emptied.json()["data"]) == (200, [])


async def test_a_conversation_that_is_not_found_is_a_503_without_postgres(
    cut_api: httpx.AsyncClient, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    foreign = await write.for_tenant("others").start("a")
    await projector.catch_up()
    not_shown_yet = await write.start("b")
    await postgres.cut()

    for conversation_id in (foreign, not_shown_yet):
        for path in (path_of(conversation_id), f"{path_of(conversation_id)}/items"):
            answer = await cut_api.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "event_store_unavailable")
    assert (await cut_api.get("/v1/responses/resp_" + "0" * 32)).status_code == 503


async def test_a_view_is_not_read_while_it_is_being_rebuilt(
    settings: Settings, cut_api: httpx.AsyncClient, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()
    for view in MONGO_VIEWS:
        await projector.reset_view(view, target=2)
    paths = (path_of(conversation_id), f"{path_of(conversation_id)}/items", "/v1/conversations")

    verified = await asyncio.gather(*(cut_api.get(path) for path in paths))
    await postgres.cut()
    unverified = await asyncio.gather(*(cut_api.get(path) for path in paths))
    async with open_projector(settings) as rebuilding:
        await rebuilding.catch_up()
    rebuilt = await asyncio.gather(*(cut_api.get(path) for path in paths))

    assert [answer.json()["error"]["code"] for answer in (*verified, *unverified)] == ["read_models_behind"] * 6
    assert [answer.status_code for answer in rebuilt] == [200] * 3


async def test_a_read_whose_view_is_reset_meanwhile_is_a_503(
    settings: Settings, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("a")
    await projector.catch_up()

    async with open_dependencies(settings, Event()) as dependencies:
        log = dependencies.of(ANONYMOUS).log
        read = await dependencies.consistency.read_conversation(log, conversation_id, "items")
        await dependencies.consistency.check(read)
        await projector.reset_view("items")
        with pytest.raises(ApiError) as refused:
            await dependencies.consistency.check(read)

    assert (refused.value.status, refused.value.code) == (503, "read_models_behind")


@pytest.mark.parametrize("view", ["conversations", "items"])
async def test_a_document_found_while_its_view_is_being_rebuilt_is_a_503(
    settings: Settings, write: Writer, projector: ManualProjector, view: MongoView
) -> None:
    conversation_id = await write.start()
    [item_id] = await write.append(conversation_id, "a")
    await projector.catch_up()

    async with open_dependencies(settings, Event()) as dependencies:
        context = QueryContext(dependencies.of(ANONYMOUS), ANONYMOUS, 0, Request({"type": "http"}))
        read = await context.read_conversation(conversation_id, view)
        document_id = conversation_id if view == "conversations" else item_id
        assert await context.find_document(read, view, document_id, "version") is not None
        rebuilding = {"$set": {"position": read.position - 1, "state": "rebuilding"}}
        await projector.views[POSITIONS_COLLECTION].update_many({"view": view}, rebuilding)
        with pytest.raises(ApiError) as refused:
            await context.find_document(read, view, document_id, "version")

    assert (refused.value.status, refused.value.code) == (503, "read_models_behind")


async def test_without_mongodb_reads_of_views_are_a_503(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    without_mongodb = settings.model_copy(update={"mongodb_url": "mongodb://127.0.0.1:9/nowhere"})

    async with open_api(without_mongodb) as api:
        paths = (path_of(conversation_id), "/v1/conversations", "/v1/projections")
        for answer, seconds in await asyncio.gather(*(timed(api, path) for path in paths)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "read_models_unavailable")
            assert seconds < SLOW_SECONDS
        assert (await api.get("/health/ready")).status_code == 503
        events = await api.get(f"{path_of(conversation_id)}/events")
        assert events.status_code == 200


async def test_the_query_api_starts_and_answers_while_no_store_is_available(settings: Settings) -> None:
    unreachable = {
        "postgres_url": "postgresql://nobody@127.0.0.1:9/nowhere",
        "mongodb_url": "mongodb://127.0.0.1:9/nowhere",
        "redis_url": "redis://127.0.0.1:9/0",
    }
    async with asyncio.timeout(SLOW_SECONDS), open_api(settings.model_copy(update=unreachable)) as api:
        assert (await api.get("/health/live")).status_code == 200
        answer = await api.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
