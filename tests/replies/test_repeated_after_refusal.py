"""A provider refuses a request as too long. If items may be left out, the store sends a shorter request, and learns the window."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

from context.learnt_models import LearntModel, LearntModels
from domain.events import ReplyShown
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.commands.api_client import events_of
from tests.log import Log
from tests.replies.both_apis import BothApis, open_both_apis
from tests.scripted_provider import Exchange, Script, ScriptedProvider, scripted_provider

Api = Literal["chat", "responses"]
MODEL = "glm-of-tomorrow"
TURN_WORDS, TURNS = 200, 30


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    for provider in scripted_provider():
        provider.models = [MODEL]
        yield provider


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


@asynccontextmanager
async def opened(
    settings: Settings, provider: ScriptedProvider, model_api: Api = "chat", **changed: Any
) -> AsyncIterator[BothApis]:
    values = {"openai_base_url": provider.url, "default_model": MODEL, "model_api": model_api, **changed}
    async with open_both_apis(Settings.model_validate({**settings.model_dump(), **values})) as apis:
        yield apis


def words(body: Any) -> int:
    """Counts each `word`, which is about one token."""
    return json.dumps(body).count("word")


def answer(exchange: Exchange) -> None:
    if exchange.path.endswith("/responses"):
        text = {"type": "output_text", "text": "short answer", "annotations": []}
        exchange.stream_items({"type": "message", "id": "msg_a", "role": "assistant", "content": [text]})
    else:
        exchange.stream_text("short", " answer")


def with_window(tokens: int, message: str = "This model's maximum context length is {} tokens.") -> Script:
    """A script that refuses requests over the window with `message`."""

    def script(exchange: Exchange) -> None:
        if words(exchange.body) > tokens:
            exchange.json(400, {"error": {"message": message.format(tokens), "code": 400}})
        else:
            answer(exchange)

    return script


async def long_conversation(apis: BothApis, turns: int = TURNS, turn_words: int = TURN_WORDS, **settings: Any) -> str:
    """Returns a conversation's id. Each question has `turn_words` words and a short answer."""
    created = await apis.http.post("/v1/conversations", json=settings)
    conversation = str(created.json()["id"])
    question = {"type": "message", "role": "user", "content": "word " * turn_words}
    for _ in range(turns // 10):
        items = [question, {"type": "message", "role": "assistant", "content": "yes"}] * 10
        added = await apis.http.post(f"/v1/conversations/{conversation}/items", json={"items": items})
        assert added.status_code == 200, added.text
    return conversation


@pytest.mark.parametrize("model_api", ["chat", "responses"])
async def test_a_too_long_request_is_repeated_with_what_fits(
    settings: Settings, provider: ScriptedProvider, log: Log, model_api: Api
) -> None:
    provider.script = with_window(4_000)
    async with opened(settings, provider, model_api) as apis:
        conversation = await long_conversation(apis)
        raw = await apis.sdk.responses.with_raw_response.create(input="now", conversation=conversation)
        response = raw.parse()
        assert response.output_text == "short answer"
        assert response.to_dict()["cost_usd"] is None
        assert int(raw.headers["x-context-left-out"]) > TURNS
        refused, repeated = provider.requests
        assert words(refused) == TURNS * TURN_WORDS
        assert 1_000 < words(repeated) < 4_000

        events = log.events(conversation)
        assert log.topics(conversation)[-5:] == [
            "reply.requested",
            "reply.shown",
            "item.appended",
            "item.appended",
            "reply.completed",
        ]
        shown = next(event for event in events if isinstance(event, ReplyShown))
        assert (shown.response_id, shown.reason) == (response.id, "window")
        await apis.projector.catch_up()
        context = (await apis.http.get(f"/v1/responses/{response.id}/context")).json()
        assert (context["request"], context["request_sha256_matches"]) == (repeated, True)
        assert (context["tokens"], context["budget"]) == (shown.shown.tokens, shown.shown.budget)
        assert [part["reason"] for part in context["left_out"]] == ["budget"]

        await apis.sdk.responses.create(input="and now", conversation=conversation)
        assert len(provider.requests) == 3
        assert words(provider.requests[-1]) < 4_000
        [model] = (await apis.http.get("/v1/models")).json()["data"]
        assert model["unknown"] in (["price"], ["window", "price"])  # perhaps the read API has not read the window yet

    async with opened(settings, provider, model_api) as apis:
        await apis.sdk.responses.create(input="later", conversation=conversation)
        assert len(provider.requests) == 4


async def test_a_refused_request_is_repeated_for_streamed_background_forked_and_unstored_responses(
    settings: Settings, provider: ScriptedProvider
) -> None:
    """`tests/commands/test_response_socket.py` tests the repeat over a WebSocket."""
    async with opened(settings, provider) as apis:
        conversation = await long_conversation(apis, 240, 50, context_policy={"reserve": 50, "window": "newest"})
        window = 28_000

        async def ask(**body: Any) -> Any:
            """Each call makes the window smaller."""
            nonlocal window
            window = window * 7 // 20
            provider.script = with_window(window)
            provider.requests.clear()
            answered = await apis.http.post(
                "/v1/responses", json={"input": "now", "conversation": conversation, **body}
            )
            assert answered.status_code == 200, answered.text
            return answered

        def check_repeated() -> None:
            assert len(provider.requests) == 2
            assert words(provider.requests[1]) < window < words(provider.requests[0])

        streamed = events_of(await ask(stream=True))
        check_repeated()
        assert streamed[-1]["type"] == "response.completed"
        assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))

        background = (await ask(background=True)).json()
        done = events_of(await apis.http.get(f"/v1/responses/{background['id']}", params={"stream": "true"}))
        assert done[-1]["type"] == "response.completed"
        check_repeated()

        fork = (await apis.http.post(f"/v1/conversations/{conversation}/fork", json={})).json()
        forked = (await ask(conversation=fork["id"])).json()
        check_repeated()
        assert forked["conversation"]["id"] == fork["id"] != conversation
        await ask(store=False, conversation=None, previous_response_id=background["id"])
        check_repeated()


async def test_with_truncation_disabled_the_refusal_is_the_answer(
    settings: Settings, provider: ScriptedProvider
) -> None:
    provider.script = with_window(4_000)
    async with opened(settings, provider) as apis:
        conversation = await long_conversation(apis)
        body = {"input": "now", "conversation": conversation, "truncation": "disabled"}
        refused = await apis.http.post("/v1/responses", json=body)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")
        assert "4000 tokens" in error["message"]
        assert len(provider.requests) == 1

        # The store learns nothing from these two refusals.
        provider.script = with_window(4_000, "Please reduce the length of the messages.")
        assert (await apis.http.post("/v1/responses", json=body)).status_code == 400
        provider.script = answer
        assert (await apis.http.post("/v1/responses", json={**body, "truncation": "auto"})).status_code == 200
        assert [words(request) for request in provider.requests] == [TURNS * TURN_WORDS] * 3

        # This input is longer than the assumed window.
        large = [{"type": "message", "role": "user", "content": "word " * 170_000}]
        too_long = await apis.http.post("/v1/responses", json={"input": large, "truncation": "disabled"})
        error = too_long.json()["error"]
        assert (too_long.status_code, error["code"]) == (400, "context_length_exceeded")
        assert "The window of this model is not known: the setting MODELS can name it." in error["message"]
        assert len(provider.requests) == 3


async def test_at_most_three_quarters_are_sent_if_the_refusal_names_no_window(
    settings: Settings, provider: ScriptedProvider
) -> None:
    provider.script = with_window(2_000, "Please reduce the length of the messages or completion.")
    async with opened(settings, provider) as apis:
        conversation = await long_conversation(apis)
        sizes: list[int] = []
        for _ in range(6):
            answered = await apis.http.post("/v1/responses", json={"input": "now", "conversation": conversation})
            sizes += map(words, provider.requests)
            provider.requests.clear()
            if answered.status_code == 200:
                break
            error = answered.json()["error"]
            assert (answered.status_code, error["code"]) == (400, "context_length_exceeded")
            assert "Please reduce" not in error["message"]
        assert answered.status_code == 200
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[1] <= sizes[0] * 3 / 4
        assert sizes[-1] <= 2_000


async def test_if_the_newest_turn_is_too_long_the_refusal_is_the_answer(
    settings: Settings, provider: ScriptedProvider
) -> None:
    provider.script = with_window(1_000)
    async with opened(settings, provider) as apis:
        refused = await apis.http.post("/v1/responses", json={"input": "word " * 1_500})
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
        assert error["response_id"] in error["message"]
        assert len(provider.requests) == 1
        short = await apis.http.post("/v1/responses", json={"input": "word " * 900})
        assert short.status_code == 200  # nothing was learnt from the long message


async def test_a_request_whose_answer_has_begun_is_not_repeated(settings: Settings, provider: ScriptedProvider) -> None:
    def breaks(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk("par")
        exchange.chunk(error={"message": "This model's maximum context length is 4000 tokens."})

    provider.script = breaks
    async with opened(settings, provider) as apis:
        conversation = await long_conversation(apis)
        refused = await apis.http.post("/v1/responses", json={"input": "now", "conversation": conversation})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert len(provider.requests) == 1


async def test_a_learnt_window_never_overrides_a_setting(settings: Settings, provider: ScriptedProvider) -> None:
    provider.script = with_window(4_000)
    configured = {MODEL: {"window": 100_000, "input_price": 1, "output_price": 2}}
    async with opened(settings, provider, models=configured) as apis:
        conversation = await long_conversation(apis, context_policy={"window": "newest"})
        for _ in range(2):
            provider.requests.clear()
            await apis.sdk.responses.create(input="now", conversation=conversation)
            assert len(provider.requests) == 2
            assert words(provider.requests[0]) > 4_000 > words(provider.requests[1])
        [model] = (await apis.http.get("/v1/models")).json()["data"]
        assert (model["window"], model["unknown"]) == (100_000, [])


@pytest.mark.parametrize("refused_first", ["length", "image"])
async def test_the_store_learns_from_refusals_for_length_and_for_an_image(
    settings: Settings, provider: ScriptedProvider, refused_first: str
) -> None:
    too_long, no_images = with_window(4_000), {"error": {"message": "This model does not support image input."}}

    def script(exchange: Exchange) -> None:
        has_image = "a.png" in json.dumps(exchange.body)
        is_long = words(exchange.body) > 4_000
        if has_image and (refused_first == "image" or not is_long):
            exchange.json(400, no_images)
        else:
            too_long(exchange)

    provider.script = script
    async with opened(settings, provider) as apis:
        conversation = await long_conversation(apis, context_policy={"window": "newest"})
        image = {"type": "input_image", "image_url": "https://example.org/a.png"}
        items = [{"type": "message", "role": "user", "content": [image]}]
        added = await apis.http.post(f"/v1/conversations/{conversation}/items", json={"items": items})
        assert added.status_code == 200, added.text
        await apis.sdk.responses.create(input="now", conversation=conversation)
        assert len(provider.requests) == 3
        await apis.sdk.responses.create(input="and now", conversation=conversation)
        assert len(provider.requests) == 4


async def test_a_refused_chat_completion_is_not_repeated(settings: Settings, provider: ScriptedProvider) -> None:
    provider.script = with_window(100)
    async with opened(settings, provider) as apis:
        messages = [{"role": "user", "content": "word " * 300}, {"role": "assistant", "content": "yes"}] * 3
        body = {"messages": [*messages, {"role": "user", "content": "now"}]}
        refused = await apis.http.post("/v1/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert len(provider.requests) == 1


async def test_a_process_reads_what_another_has_learnt_of_the_same_provider(
    settings: Settings,
) -> None:
    async with (
        make_pool(settings.postgres_url, max_size=1, read_only=False) as writer,
        make_pool(settings.postgres_url, max_size=1) as reader,
    ):
        read: dict[str, Any] = {}
        url = "https://ann:secret@models.example.com/v1"
        learnt = LearntModels(writer, url, lambda _: None)
        other = LearntModels(reader, "https://models.example.com/v1/", read.update)
        await learnt.learn_window("a", 9_000)
        await learnt.learn_window("a", 8_000)
        await learnt.learn_window("a", 8_500)
        await learnt.learn_missing("b", ["image", "audio"])
        await other.refresh()
        assert read == {
            "a": LearntModel(window=8_000),
            "b": LearntModel(missing=frozenset({"image", "audio"})),
        }
        async with writer.connection() as connection:
            stored = await (await connection.execute("SELECT DISTINCT provider FROM learnt_models")).fetchall()
            assert stored == [("models.example.com/v1",)]
            await connection.execute("UPDATE learnt_models SET learnt_at = now() - interval '8 days'")
        read.clear()
        await other.refresh()
        assert read == {}
        await learnt.refresh()
        await learnt.learn_window("a", 12_000)
        await other.refresh()
        assert read == {"a": LearntModel(window=12_000)}
        elsewhere = LearntModels(reader, "https://other.example.com/v1", read.update)
        read.clear()
        await elsewhere.refresh()
        assert read == {}
