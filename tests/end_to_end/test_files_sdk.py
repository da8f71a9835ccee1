"""Images and PDFs with the official SDK and the OpenAI Agents SDK."""

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import openai
import psycopg
import pytest
import redis
from agents import OpenAIConversationsSession
from openai import AsyncOpenAI, OpenAI
from openai.types import FileDeleted, FileObject
from pymongo import MongoClient

from infrastructure.settings import Settings
from tests.files.samples import PDF, data_uri, png, with_image
from tests.scripted_provider import Exchange, ScriptedProvider
from tests.system import System

WITH_PROVIDER = True
ENVIRONMENT = {"LOG_LEVEL": "DEBUG", "DEFAULT_MODEL": "scripted"}
MB = 1024 * 1024


@pytest.fixture(autouse=True)
def answering(provider: ScriptedProvider) -> None:
    provider.script = lambda exchange: exchange.stream_text("A cat.")


def test_a_file_is_uploaded_asked_about_listed_downloaded_and_deleted(
    client: OpenAI, provider: ScriptedProvider
) -> None:
    image = png(300_000)
    files = [
        client.files.create(file=("cat.png", image), purpose="vision"),
        client.files.create(
            file=("a.pdf", PDF), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3_600}
        ),
    ]
    for file in files:
        FileObject.model_validate(file.to_dict(), strict=True)
        assert client.files.retrieve(file.id) == file
    content: list[Any] = [
        {"type": "input_text", "text": "What are these?"},
        {"type": "input_image", "file_id": files[0].id, "detail": "auto"},
        {"type": "input_file", "file_id": files[1].id},
    ]
    response = client.responses.create(input=[{"role": "user", "content": content}])
    assert response.output_text == "A cat."
    sent = json.dumps(provider.requests[-1])
    assert data_uri(image) in sent
    assert data_uri(PDF, "application/pdf") in sent
    [item] = client.responses.input_items.list(response.id).data
    parts: Any = item.to_dict()["content"]
    assert [part.get("file_id") for part in parts][1:] == [file.id for file in files]
    assert [file.id for file in client.files.list()][:2] == [file.id for file in reversed(files)]
    assert [file.id for file in client.files.list(limit=1)][:2] == [file.id for file in reversed(files)]
    assert client.files.content(files[0].id).read() == image
    deleted = client.files.delete(files[0].id)
    assert deleted == FileDeleted(id=files[0].id, deleted=True, object="file")
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(files[0].id)
    assert client.files.content(files[0].id).read() == image  # the item still has the image
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(files[0].id)


async def test_a_session_of_the_agents_sdk_lists_an_image_and_sends_it_back(
    running: System, provider: ScriptedProvider
) -> None:
    image = png(50_000)
    async with AsyncOpenAI(base_url=f"{running.base_url}/v1", api_key="any", max_retries=0) as client:
        session = OpenAIConversationsSession(openai_client=client)
        turn: Any = with_image(image_url=data_uri(image))
        await session.add_items([turn])
        listed: list[Any] = list(await session.get_items())
        assert "file_id" in json.dumps(listed)
        await session.add_items(listed)
        resent: list[Any] = list(await session.get_items())
        assert [item["content"] for item in resent] == [listed[0]["content"]] * 2
        await client.responses.create(input=listed)
        assert data_uri(image) in json.dumps(provider.requests[-1])


def test_an_image_of_ten_turns_is_stored_once_and_only_in_postgres(running: System, client: OpenAI) -> None:
    image = png(2_000_000)
    marker = base64.b64encode(image)[1_000_000:1_000_200].decode()
    with psycopg.connect(running.env["POSTGRES_URL"]) as connection:

        def size() -> int:
            connection.execute("CHECKPOINT")
            [row] = connection.execute("SELECT pg_database_size(current_database())").fetchall()
            return int(row[0])

        def ask_ten_times(about: bytes) -> str:
            conversation = client.conversations.create()
            for _ in range(10):
                message: Any = with_image(image_url=data_uri(about))
                client.responses.create(input=[message], conversation=conversation.id)
            return conversation.id

        connection.autocommit = True
        ask_ten_times(png(1_000))  # makes the first page of each table
        before = size()
        conversation_id = ask_ten_times(image)
        assert size() - before < 2_200_000
        [row] = connection.execute("SELECT count(*), sum(size) FROM contents WHERE size = 2000000").fetchall()
        assert row == (1, 2_000_000)
    assert len(client.conversations.items.list(conversation_id, limit=100).data) == 20
    mongo: MongoClient[Any] = MongoClient(running.env["MONGODB_URL"])
    with mongo:
        views = mongo[Settings(mongodb_url=running.env["MONGODB_URL"]).mongodb_database]
        for collection in views.list_collection_names():
            assert not [each for each in views[collection].find() if marker in str(each)], collection
    with redis.Redis.from_url(running.env["REDIS_URL"]) as client_of_redis:
        for key in client_of_redis.scan_iter():
            assert marker.encode() not in (client_of_redis.dump(key) or b"")
    assert marker not in running.output()


def api_memory(running: System) -> int:
    """The largest resident size of an api process, in bytes."""
    apis = [process for process in running.processes() if "scripts.api" in " ".join(process.cmdline())]
    return max(process.memory_info().rss for process in apis)


def test_large_uploads_and_bodies_at_once_take_little_memory(running: System, client: OpenAI) -> None:
    client.files.create(file=("a", png(1_000)), purpose="user_data")
    conversation = client.conversations.create()
    idle = api_memory(running)

    def upload(_: int) -> None:
        client.files.create(file=("a", png(32 * MB)), purpose="user_data")

    def append(_: int) -> None:
        message: Any = with_image(image_url=data_uri(png(32 * MB)))
        client.conversations.items.create(conversation.id, items=[message])

    for work, limit in ((upload, 64 * MB), (append, 300 * MB)):
        largest = 0
        with ThreadPoolExecutor(10) as threads:
            running_work = [threads.submit(work, number) for number in range(10)]
            while wait(running_work, 0.02).done != set(running_work):
                largest = max(largest, api_memory(running))
        for done in running_work:
            done.result()
        assert largest - idle < limit, f"{work.__name__}: {(largest - idle) // MB} MB"


@pytest.mark.parametrize("store", [True, False])
def test_running_replies_do_not_hold_their_images(running: System, provider: ScriptedProvider, store: bool) -> None:
    with OpenAI(base_url=f"{running.env['API_1_URL']}/v1", api_key="any", max_retries=0) as client:

        def question(image: bytes) -> Any:
            if store:
                return with_image(file_id=client.files.create(file=("a.png", image), purpose="vision").id)
            return with_image(image_url=data_uri(image))

        def ask(message: Any) -> str:
            return client.responses.create(input=[message], store=store).output_text

        ask(question(png(22 * MB)))
        questions = [question(png(22 * MB)) for _ in range(10)]
        idle = api_memory(running)
        answering = threading.Semaphore(0)
        go_on = threading.Event()

        def answer_late(exchange: Exchange) -> None:
            provider.requests.clear()
            exchange.begin_stream()
            exchange.text_chunk("A cat.")
            answering.release()
            go_on.wait(120)
            exchange.text_chunk(finish_reason="stop")
            exchange.end_stream()

        provider.script = answer_late
        with ThreadPoolExecutor(10) as threads:
            replies = [threads.submit(ask, each) for each in questions]
            largest, running_replies = 0, 0
            while running_replies < 10 and not any(reply.done() for reply in replies):
                running_replies += answering.acquire(timeout=0.02)
                largest = max(largest, api_memory(running))
            kept = api_memory(running)
            go_on.set()
        assert [reply.result() for reply in replies] == ["A cat."] * 10
        figures = f"at most {(largest - idle) // MB} MB, then {(kept - idle) // MB} MB"
        assert largest - idle < (64 if store else 300) * MB, figures
        # After a body of 30 MB was parsed, the process keeps some of the freed memory.
        assert kept - idle < (64 if store else 200) * MB, figures
