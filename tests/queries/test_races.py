"""A read during a rebuild or a deletion gets a complete page, or is refused."""

import asyncio
from collections import Counter

import httpx

from projections.views.catalog import MONGO_VIEWS
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer

READERS = 4


async def test_a_page_read_during_a_rebuild_is_complete_or_a_503(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start(*map(str, range(60)))
    path = f"/v1/conversations/{conversation_id}/items"
    complete = (await api.get(path, params={"limit": 100})).content
    finished = asyncio.Event()
    answers: Counter[str] = Counter()

    async def read() -> None:
        while not finished.is_set():
            for params in ({"limit": 100}, {"limit": 30}):
                answer = await api.get(path, params=params)
                assert answer.status_code == 200 or answer.json()["error"]["code"] == "read_models_behind", answer.text
                if answer.status_code == 200 and params["limit"] == 100:
                    assert answer.content == complete
                if answer.status_code == 200 and params["limit"] == 30:
                    assert len(answer.json()["data"]) == 30
                answers[f"items {answer.status_code}"] += 1
            conversation = await api.get(f"/v1/conversations/{conversation_id}")
            assert conversation.status_code in (200, 503), conversation.text
            listed = await api.get("/v1/conversations")
            assert listed.status_code == 503 or len(listed.json()["data"]) == 1
            answers[f"list {listed.status_code}"] += 1

    async def reset() -> None:
        for _ in range(8):
            for view in MONGO_VIEWS:
                await live.reset_view(view)
            await asyncio.sleep(0.2)
        finished.set()

    async with asyncio.timeout(60):
        await asyncio.gather(reset(), *(read() for _ in range(READERS)))
    assert answers["items 200"] > 0
    assert answers["list 200"] > 0


async def test_a_page_read_during_a_deletion_is_complete_or_not_found(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    for _ in range(10):
        conversation_id = await write.start(*map(str, range(30)))
        path = f"/v1/conversations/{conversation_id}/items"
        await api.get(path)
        deleted = asyncio.Event()

        async def read(path: str = path, deleted: asyncio.Event = deleted) -> None:
            while not deleted.is_set():
                answer = await api.get(path, params={"limit": 100})
                assert answer.status_code == 404 or len(answer.json()["data"]) == 30, answer.text

        readers = [asyncio.create_task(read()) for _ in range(READERS)]
        await asyncio.sleep(0.02)
        await write.delete(conversation_id)
        assert (await api.get(path)).status_code == 404
        await asyncio.sleep(0.05)
        deleted.set()
        await asyncio.gather(*readers)
