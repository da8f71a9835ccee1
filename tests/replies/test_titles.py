"""Titles that the model writes after a reply (`TITLES=auto`)."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from infrastructure.settings import Settings
from replies.title_writer import MAX_FAILURES, MAX_TITLE_LENGTH, clean_title
from tests.queries.conftest import eventually
from tests.replies.both_apis import BothApis, open_both_apis
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider


class TitleProvider:
    """A provider that answers questions at once, and a request for a title when `allowed` is set."""

    def __init__(self, provider: ScriptedProvider) -> None:
        self.answer: Callable[[Exchange], None] = lambda exchange: exchange.stream_text("“Rain in Oslo”\n")
        self.allowed = threading.Event()
        self.allowed.set()
        self.requests: list[str] = []
        provider.script = self._script

    def _script(self, exchange: Exchange) -> None:
        messages = exchange.body["messages"]
        if not str(messages[0]["content"]).startswith("Write a title"):
            exchange.stream_text("It rains in Oslo.")
            return
        assert (
            exchange.body["max_completion_tokens" if "max_completion_tokens" in exchange.body else "max_tokens"] <= 64
        )
        self.requests.append(messages[-1]["content"])
        assert self.allowed.wait(10)
        self.answer(exchange)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
def titles(provider: ScriptedProvider) -> TitleProvider:
    return TitleProvider(provider)


@pytest.fixture
def with_titles(settings: Settings, provider: ScriptedProvider) -> Settings:
    changed = {"openai_base_url": provider.url, "default_model": "scripted", "titles": "auto"}
    return settings.model_copy(update=changed)


@pytest.fixture
async def apis(with_titles: Settings, titles: TitleProvider) -> AsyncIterator[BothApis]:
    async with open_both_apis(with_titles) as apis:
        stop = asyncio.Event()
        projecting = asyncio.create_task(apis.projector.run(stop))
        yield apis
        titles.allowed.set()
        stop.set()
        await projecting


async def post(http: httpx.AsyncClient, path: str, body: Any = None, **headers: str) -> Any:
    answer = await http.post(f"/v1/{path}", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ask(apis: BothApis, conversation: str, text: Any = "How is the weather?", **fields: Any) -> Any:
    return await post(apis.http, "responses", {"input": text, "conversation": conversation, **fields})


async def get(apis: BothApis, path: str) -> Any:
    answer = await apis.http.get(f"/v1/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(apis: BothApis, outcome: str) -> float:
    """How many titles had this outcome."""
    value = apis.metrics.registry.get_sample_value("conversation_store_titles_total", {"outcome": outcome})
    assert value is not None
    return value


async def test_an_untitled_listed_conversation_gets_a_title_after_its_first_reply(
    apis: BothApis, titles: TitleProvider
) -> None:
    conversation = (await post(apis.http, "conversations", {}))["id"]
    await ask(apis, conversation, "How is the weather? " + "x" * 5000)
    await eventually(lambda: ended(apis, "written") == 1)
    shown = await get(apis, f"conversations/{conversation}")
    assert (shown["title"], shown["title_by"]) == ("Rain in Oslo", "model")
    assert titles.requests[0].startswith("Question:\nHow is the weather? x")
    assert titles.requests[0].endswith("Answer:\nIt rains in Oslo.")
    assert len(titles.requests[0]) < 2100
    [row] = (await get(apis, "usage"))["data"]
    assert (row["replies"], row["titles"], row["input_tokens"]) == (1, 1, 14)
    event = (await get(apis, f"conversations/{conversation}/events"))["data"][-1]
    assert (event["type"], event["data"]["title_by"]) == ("conversation.described", "model")

    # No title is written if there is a title, in an unlisted conversation, or after a tool's output.
    await ask(apis, conversation, "And tomorrow?")
    given = (await post(apis.http, "conversations", {"title": "Mine"}))["id"]
    assert (await get(apis, f"conversations/{given}"))["title_by"] == "person"
    await ask(apis, given)
    await post(apis.http, "responses", {"input": "Alone"})
    after_call = (await post(apis.http, "conversations", {}))["id"]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    await post(apis.http, f"conversations/{after_call}/items", {"items": [call]})
    await ask(apis, after_call, [{"type": "function_call_output", "call_id": "c", "output": "4"}])
    assert (len(titles.requests), ended(apis, "written")) == (1, 1)

    # A person's title replaces the model's title, even if both titles are equal.
    answer = await post(apis.http, f"conversations/{conversation}", {"title": "Rain in Oslo"})
    assert (answer["title"], answer["title_by"]) == ("Rain in Oslo", "person")


async def test_a_title_is_refused_after_a_persons_title_or_a_deletion(apis: BothApis, titles: TitleProvider) -> None:
    titles.allowed.clear()
    given, retracted, deleted = [(await post(apis.http, "conversations", {}))["id"] for _ in range(3)]
    for conversation in (given, retracted, deleted):
        await ask(apis, conversation)
    await eventually(lambda: len(titles.requests) == 3)
    await post(apis.http, f"conversations/{given}", {"title": "A person's"})
    [_, question] = (await get(apis, f"conversations/{retracted}/items"))["data"]
    for path in (f"conversations/{retracted}/items/{question['id']}", f"conversations/{deleted}"):
        assert (await apis.http.delete(f"/v1/{path}")).status_code == 200
    titles.allowed.set()
    await eventually(lambda: ended(apis, "refused") == 3)

    shown = await get(apis, f"conversations/{given}")
    assert (shown["title"], shown["title_by"]) == ("A person's", "person")
    assert (await get(apis, f"conversations/{retracted}"))["title"] is None
    assert ended(apis, "written") == 0


async def test_a_title_is_removed_with_the_items_that_it_was_made_from(apis: BothApis, titles: TitleProvider) -> None:
    conversation = (await post(apis.http, "conversations", {}))["id"]
    await ask(apis, conversation)
    await eventually(lambda: ended(apis, "written") == 1)
    path = f"conversations/{conversation}"
    repeated = {"idempotency-key": "end"}
    assert (await post(apis.http, f"{path}/end", None, **repeated))["title"] == "Rain in Oslo"
    await post(apis.http, f"{path}/reopen")
    await post(apis.http, f"{path}/items", {"items": [{"role": "user", "content": "more"}]})
    items = (await get(apis, f"{path}/items?order=asc"))["data"]

    await apis.http.delete(f"/v1/{path}/items/{items[2]['id']}")
    assert (await get(apis, path))["title"] == "Rain in Oslo"
    assert (await apis.http.delete(f"/v1/{path}/items/{items[1]['id']}")).json()["title"] is None
    shown = await get(apis, path)
    assert (shown["title"], shown["title_by"]) == (None, None)
    assert (await get(apis, "conversations?title=rain"))["data"] == []
    assert (await post(apis.http, f"{path}/end", None, **repeated))["title"] is None


async def test_a_model_that_writes_no_title_is_asked_only_a_few_times(apis: BothApis, titles: TitleProvider) -> None:
    conversation = (await post(apis.http, "conversations", {}))["id"]
    titles.answer = lambda exchange: exchange.json(400, {"error": {"message": "no", "code": "bad", "type": "x"}})
    await ask(apis, conversation)
    await eventually(lambda: ended(apis, "failed") == 1)
    titles.answer = lambda exchange: exchange.stream_text(" \n ")
    for number in range(1, MAX_FAILURES):
        await ask(apis, conversation)
        await eventually(lambda count=number: ended(apis, "empty") == count)  # type: ignore[misc]
    await ask(apis, conversation)
    assert len(titles.requests) == MAX_FAILURES
    shown = await get(apis, f"conversations/{conversation}")
    assert (shown["title"], shown["item_count"]) == (None, 2 * (MAX_FAILURES + 1))


async def test_only_one_of_two_processes_writes_the_title(
    apis: BothApis, with_titles: Settings, titles: TitleProvider
) -> None:
    both, interrupted = [(await post(apis.http, "conversations", {}))["id"] for _ in range(2)]
    titles.allowed.clear()
    async with open_both_apis(with_titles) as other:
        for number, process in enumerate((apis, other), start=1):
            await ask(process, both)
            await eventually(lambda count=number: len(titles.requests) == count)  # type: ignore[misc]
        titles.allowed.set()
        await eventually(lambda: ended(apis, "written") + ended(other, "written") == 1)
        await eventually(lambda: ended(apis, "refused") + ended(other, "refused") == 1)
        titles.allowed.clear()
        await ask(other, interrupted)
        await eventually(lambda: len(titles.requests) == 3)
    assert (await get(apis, f"conversations/{both}"))["title"] == "Rain in Oslo"
    assert (await get(apis, f"conversations/{interrupted}"))["title"] is None

    titles.allowed.set()
    written = ended(apis, "written")
    await ask(apis, interrupted)
    await eventually(lambda: ended(apis, "written") == written + 1)
    assert (await get(apis, f"conversations/{interrupted}"))["title_by"] == "model"


async def test_a_fork_does_not_inherit_a_title_by_the_model(apis: BothApis, titles: TitleProvider) -> None:
    conversation = (await post(apis.http, "conversations", {}))["id"]
    await ask(apis, conversation)
    await eventually(lambda: ended(apis, "written") == 1)
    assert (await post(apis.http, f"conversations/{conversation}/fork", {}))["title"] is None
    assert (await post(apis.http, f"conversations/{conversation}/fork", {"title": "Mine"}))["title_by"] == "person"
    await post(apis.http, f"conversations/{conversation}", {"title": "A person's"})
    assert (await post(apis.http, f"conversations/{conversation}/fork", {}))["title"] == "A person's"


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("  **Title: Rain in Oslo** \nmore", "Rain in Oslo"),
        ("\n\n# Rain\x00in\tOslo", "Rain in Oslo"),
        ("<think>Hm.\nWell.</think>\n“Rain”", "Rain"),
        ("<think>Hm", ""),
        ("東京の天気", "東京の天気"),
        ("\ud800", ""),
        ("", ""),
        ("word " * 40, "word " * 15 + "word…"),
    ],
)
def test_a_title_is_one_short_line_without_marks_around_it(answer: str, title: str) -> None:
    assert clean_title(answer) == title
    assert len(clean_title(answer)) <= MAX_TITLE_LENGTH
