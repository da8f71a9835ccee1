"""A model gets a note in place of history that it cannot take. New input that the model cannot take fails.

`tests/strict_model.py` describes the strict provider.
"""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from domain.events import ReplyFailed, ReplyRequested, ReplyShown
from infrastructure.settings import Settings
from tests.commands.api_client import create_response_in_fork
from tests.log import Log
from tests.replies.both_apis import BothApis, open_both_apis
from tests.scripted_provider import ScriptedProvider, scripted_provider
from tests.strict_model import StrictModels

Api = Literal["chat", "responses"]

SETS: dict[str, frozenset[str]] = {
    "all": frozenset(["image", "file", "audio", "tools", "custom_tools", "other_items", "reasoning"]),
    "vision": frozenset(["image", "tools"]),
    "tools": frozenset(["tools"]),
    "text": frozenset(),
}
"""Each set has a known and an unknown model. The known model is in the setting MODELS."""

SETTABLE = {"image", "file", "audio", "tools", "custom_tools"}
PLAIN = "plain"
"""A model that takes all items."""

IMAGE = {"type": "input_image", "image_url": "https://example.org/a.png"}
PDF = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQ="}
SCREENSHOT = {"type": "computer_screenshot", "image_url": "https://example.org/s.png"}


def user(*parts: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(parts)}


def text(words: str) -> dict[str, Any]:
    return {"type": "input_text", "text": words}


def call(kind: str = "function_call", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "call_id": "c1", "name": "look", **fields}


def output(value: Any, kind: str = "function_call_output") -> dict[str, Any]:
    return {"type": kind, "call_id": "c1", "output": value}


ARGUMENTS = {"arguments": '{"a": 1}'}
ODD: dict[str, list[dict[str, Any]]] = {
    "an image": [user(text("What is it?"), IMAGE)],
    "only an image": [user(IMAGE | {"detail": "low"})],
    "an image by id": [user({"type": "input_image", "file_id": "file-1"})],
    "a malformed image": [user({"type": "input_image", "image_url": 5})],
    "a file": [user(PDF)],
    "a file by url": [user({"type": "input_file", "file_url": "https://example.org/a.pdf"})],
    "a file without content": [user({"type": "input_file"})],
    "audio": [user({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}})],
    "an image and a file": [user(IMAGE, PDF)],
    "a part of tomorrow": [user(text("?"), {"type": "hologram", "data": {}})],
    "an image of the assistant": [{"type": "message", "role": "assistant", "content": [IMAGE]}],
    "a refusal": [{"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
    "an empty message": [user()],
    "an answered function": [call(**ARGUMENTS), output("2")],
    "cut off arguments": [call(arguments='{"cut": "of'), output("invalid")],
    "no arguments": [call(arguments=""), output("2")],
    "arguments that are a list": [call(arguments="[1]"), output("2")],
    "an image in an output": [call(**ARGUMENTS), output([text("2"), IMAGE])],
    "odd parts in an output": [call(**ARGUMENTS), output([7, None, {"a": 1}])],
    "a custom tool": [call("custom_tool_call", input="1+1"), output("2", "custom_tool_call_output")],
    "a custom tool with an image": [call("custom_tool_call", input="1"), output([IMAGE], "custom_tool_call_output")],
    "two kinds of calls": [
        call(**ARGUMENTS),
        call("custom_tool_call", input="1+1"),
        output("2"),
        output("2", "custom_tool_call_output"),
    ],
    "a call without an output": [call(**ARGUMENTS)],
    "an output without a call": [output("2")],
    "a web search": [{"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}],
    "a generated image": [{"type": "image_generation_call", "status": "completed", "result": "AA=="}],
    "a computer": [call("computer_call", action={}), output(SCREENSHOT, "computer_call_output")],
    "a shell": [call("shell_call", action={"commands": []}), output([], "shell_call_output")],
    "a call of MCP": [{"type": "mcp_call", "server_label": "s", "name": "n", "arguments": "{}"}],
    "encrypted reasoning": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}],
    "a summary of others": [{"type": "compaction", "encrypted_content": "theirs"}],
    "an item of tomorrow": [{"type": "telepathy_call", "thought": "?"}],
}


@pytest.fixture
def models() -> StrictModels:
    abilities = {f"{kind}-{name}": abilities for name, abilities in SETS.items() for kind in ("known", "unknown")}
    return StrictModels(abilities | {PLAIN: SETS["all"]})


@pytest.fixture
def provider(models: StrictModels) -> Iterator[ScriptedProvider]:
    for provider in scripted_provider():
        provider.models = list(models.abilities)
        provider.script = models
        yield provider


@pytest.fixture
def log(settings: Settings) -> Log:
    return Log(settings.postgres_url)


def store_settings(settings: Settings, provider: ScriptedProvider, model_api: Api) -> Settings:
    accepts = {f"known-{name}": {"accepts": sorted(abilities & SETTABLE)} for name, abilities in SETS.items()}
    changed = {"openai_base_url": provider.url, "default_model": PLAIN, "model_api": model_api, "models": accepts}
    return Settings.model_validate({**settings.model_dump(), **changed, "model_window": 32_000})


async def conversation_with(apis: BothApis, items: list[dict[str, Any]]) -> str:
    """Creates a conversation with a turn, these items, and another turn."""
    turn = [user(text("Q")), {"type": "message", "role": "assistant", "content": "A"}]
    created = await apis.http.post("/v1/conversations", json={"items": [*turn, *items, *turn]})
    assert created.status_code == 200, created.text
    return str(created.json()["id"])


async def ask(apis: BothApis, conversation: str, model: str, given: Any = "next") -> Any:
    body = {"input": given, "conversation": conversation, "model": model}
    answer = await apis.http.post("/v1/responses", json=body)
    assert answer.status_code == 200, (model, answer.text)
    return answer.json()


@pytest.mark.parametrize("model_api", ["chat", "responses"])
async def test_every_model_answers_in_a_conversation_with_any_odd_item(
    settings: Settings, provider: ScriptedProvider, models: StrictModels, log: Log, model_api: Api
) -> None:
    names = [name for name in models.abilities if name != PLAIN]
    async with open_both_apis(store_settings(settings, provider, model_api)) as apis:
        plain = await conversation_with(apis, [user(IMAGE, PDF)] if model_api == "chat" else [user(IMAGE)])

        async def go_through_all_models(number: int, items: list[dict[str, Any]]) -> str:
            conversation = await conversation_with(apis, items)
            for index in range(len(names)):
                await ask(apis, conversation, names[(number + 3 * index) % len(names)])
            return conversation

        async def ask_plain() -> None:
            for _ in range(len(names)):
                await ask(apis, plain, PLAIN, [user(text("next"), IMAGE)])

        odd = list(enumerate(ODD.values()))
        conversations, _ = await asyncio.gather(
            asyncio.gather(*(go_through_all_models(number, items) for number, items in odd)), ask_plain()
        )
        await apis.projector.catch_up()
        for number, conversation in enumerate([*conversations, plain]):
            events = log.events(conversation)
            assert not any(isinstance(event, ReplyFailed) for event in events)
            requested = [event for event in events if isinstance(event, ReplyRequested)]
            repeated = {event.response_id: event.shown for event in events if isinstance(event, ReplyShown)}
            for event in requested:
                # The store knows what this model lacks.
                if event.model.startswith("known") and model_api == "chat":
                    assert event.response_id not in repeated
            assert len(requested) == len(names)
            newest = requested[number % len(names)].response_id
            context = (await apis.http.get(f"/v1/responses/{newest}/context")).json()
            assert context["request_sha256_matches"] is True
    assert PLAIN not in models.refused


@pytest.mark.parametrize("model_api", ["chat", "responses"])
async def test_a_missing_ability_is_learnt_from_one_refusal(
    settings: Settings, provider: ScriptedProvider, models: StrictModels, log: Log, model_api: Api
) -> None:
    async with open_both_apis(store_settings(settings, provider, model_api)) as apis:
        conversation = await conversation_with(apis, ODD["an image"])
        responses = [await ask(apis, conversation, "unknown-text") for _ in range(3)]
        assert models.refused == ["unknown-text"]
        await apis.projector.catch_up()
        shown = [f"responses/{response['id']}/context" for response in responses]
        for path in (*shown, f"conversations/{conversation}/context?model=known-text"):
            context = (await apis.http.get(f"/v1/{path}")).json()
            [left_out] = context["left_out"]
            assert (left_out["reason"], left_out["count"]) == ("no_image", 1)
            assert context.get("request_sha256_matches", True)
            assert sum(item["tokens"] for item in context["items"]) < 200  # an image alone is 1,105 tokens
        [repeat] = [event for event in log.events(conversation) if isinstance(event, ReplyShown)]
        assert (repeat.reason, repeat.shown.notes) == ("abilities", ("image",))

        before, requests = log.count(), len(provider.requests)
        body = {"conversation": conversation, "input": [user(text("And this?"), IMAGE)]}
        for model in ("unknown-text", "known-text"):
            refused = await apis.http.post("/v1/responses", json={**body, "model": model})
            error = refused.json()["error"]
            assert (refused.status_code, error["param"]) == (400, "input[0].content[1]")
        assert (log.count(), len(provider.requests)) == (before, requests)
        await ask(apis, conversation, "unknown-vision", body["input"])


async def test_new_input_that_an_unknown_model_refuses_is_an_error(
    settings: Settings, provider: ScriptedProvider, models: StrictModels, log: Log
) -> None:
    async with open_both_apis(store_settings(settings, provider, "chat")) as apis:
        conversation = await conversation_with(apis, [])
        body = {"conversation": conversation, "model": "unknown-text", "input": [user(text("This?"), IMAGE)]}
        for _ in range(6):  # five failures of the model in a row would open the circuit breaker
            refused = await apis.http.post("/v1/responses", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (502, "model_error")
            assert refused.headers["x-should-retry"] == "false"
        assert models.refused == ["unknown-text"] * 6
        assert await ask(apis, conversation, "unknown-text")

        # Input of a failed reply counts as history.
        chained = {"input": "So?", "previous_response_id": refused.json()["error"]["response_id"]}
        for model in ("unknown-text", "known-text"):
            answer = await apis.http.post("/v1/responses", json={**chained, "model": model})
            assert answer.status_code == 200, answer.text
            assert "An image was here." in str(provider.requests[-1])

        first = await apis.sdk.responses.create(model=PLAIN, input=[user(text("This?"), IMAGE)])  # type: ignore[list-item]  # the SDK's types
        unstored = await apis.sdk.responses.create(
            model="unknown-tools", input="So?", previous_response_id=first.id, store=False
        )
        assert unstored.output_text == "Yes"
        assert models.refused[-1] == "unknown-tools"


async def test_a_conversation_and_its_forks_share_one_prompt_cache_key(
    settings: Settings, provider: ScriptedProvider
) -> None:
    async with open_both_apis(store_settings(settings, provider, "responses")) as apis:
        conversation = await conversation_with(apis, [])
        first = await ask(apis, conversation, PLAIN)
        await ask(apis, conversation, PLAIN)
        fork = await create_response_in_fork(apis.http, "And?", first, model=PLAIN)
        fork_of_fork = await create_response_in_fork(apis.http, "And?", fork, model=PLAIN)
        assert len({conversation, fork["conversation"]["id"], fork_of_fork["conversation"]["id"]}) == 3
        assert [request.get("prompt_cache_key") for request in provider.requests] == [conversation] * 4
        chain = await apis.sdk.responses.create(input="Q", model=PLAIN)
        assert chain.conversation is not None
        assert provider.requests[-1]["prompt_cache_key"] == chain.conversation.id
        own = await apis.sdk.responses.create(input="Q", model=PLAIN, prompt_cache_key="mine")
        assert provider.requests[-1]["prompt_cache_key"] == "mine"
        await apis.sdk.responses.create(input="Q", model=PLAIN, store=False)
        assert "prompt_cache_key" not in provider.requests[-1]
        await apis.projector.catch_up()
        for response_id in (first["id"], fork["id"], fork_of_fork["id"], chain.id, own.id):
            context = (await apis.http.get(f"/v1/responses/{response_id}/context")).json()
            assert context["request_sha256_matches"] is True
