"""docs/clients.md lists the parameters of the official client, and the store treats them as listed."""

import importlib
import json
import pkgutil
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai.types.conversations
import openai.types.responses
import pytest
from typing_extensions import is_typeddict

from context.rendering import request_sha256
from domain.events import ReplyRequested
from infrastructure.ids import mint
from infrastructure.settings import Settings
from tests.commands.api_client import error_of, events_of, open_api, post_response
from tests.commands.parameter_lists import APIS, fields, listed, value_at
from tests.log import Log
from tests.scripted_provider import Exchange, ScriptedProvider

NOT_IN_THE_PACKAGE = {"client_metadata", "frequency_penalty", "presence_penalty", "generate"}
CALLS = {
    "input_token_count_params": "POST /v1/responses/input_tokens",
    "response_compact_params": "POST /v1/responses/compact",
    "response_retrieve_params": "GET /v1/responses/{id}",
    "input_item_list_params": "GET /v1/responses/{id}/input_items",
    "conversation_create_params": "POST /v1/conversations",
    "conversation_update_params": "POST /v1/conversations/{id}",
    "item_create_params": "POST /v1/conversations/{id}/items",
    "item_list_params": "GET /v1/conversations/{id}/items",
    "item_retrieve_params": "GET /v1/conversations/{id}/items/{item}",
}
"""Module of parameters in the `openai` package -> its call."""

TOOL = {"type": "function", "name": "f", "description": None, "parameters": {"type": "object"}, "strict": True}
FORMAT = {"type": "json_schema", "name": "n", "description": "d", "schema": {"type": "object"}, "strict": True}
VALUES: dict[str, Any] = {
    "access_programs": {"cyber": "daybreak_blue"},
    "access_programs.cyber": "daybreak_red",
    "background_options": {"completion_window": "soonest", "continuation_id": "c"},
    "background_options.completion_window": "8h",
    "background_options.continuation_id": "c",
    "client_metadata": {"session": "1", "nested": {"a": [1, None]}},
    "frequency_penalty": -0.5,
    "generate": False,
    "image": {"context_compression": "enabled"},
    "image.context_compression": "enabled",
    "include": ["reasoning.encrypted_content"],
    "input": "hi",
    "instructions": "Be brief.",
    "max_output_tokens": 40,
    "max_tool_calls": 3,
    "metadata": {"a": "b"},
    "model": "scripted",
    "moderation": {"model": "m"},
    "moderation.model": "m",
    "moderation.policy": {"input": {"mode": "score"}, "output": {"mode": "score"}},
    "moderation.policy.input": {"mode": "score"},
    "moderation.policy.input.mode": "block",
    "moderation.policy.output": {"mode": "score"},
    "moderation.policy.output.mode": "block",
    "parallel_tool_calls": False,
    "presence_penalty": 1.5,
    "prompt": {"id": "pmpt_1"},
    "prompt.id": "pmpt_1",
    "prompt.variables": {"a": "b"},
    "prompt.version": "2",
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit", "ttl": "12h"},
    "prompt_cache_options.comparison_response_id": "resp_1",
    "prompt_cache_options.mode": "explicit",
    "prompt_cache_options.prewarm": True,
    "prompt_cache_options.ttl": "12h",
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "low"},
    "reasoning.context": "all_turns",
    "reasoning.effort": "high",
    "reasoning.generate_summary": "concise",
    "reasoning.mode": "pro",
    "reasoning.summary": "auto",
    "safety_identifier": "s",
    "service_tier": "flex",
    "stream_options": {"include_obfuscation": False},
    "stream_options.include_obfuscation": True,
    "temperature": 0.25,
    "text": {"verbosity": "low"},
    "text.format": FORMAT,
    "text.verbosity": "high",
    "tool_choice": "required",
    "tools": [TOOL],
    "top_logprobs": 3,
    "top_p": 0.5,
    "user": "u",
}
"""A value for each parameter that the store sends, keeps or refuses."""

REQUIRED: dict[str, dict[str, Any]] = {"tool_choice": {"tools": [TOOL]}, "parallel_tool_calls": {"tools": [TOOL]}}
NOT_REPEATED = ("include", "input", "moderation", "model")
CHAT_NESTED = {name: value for name, value in FORMAT.items() if name != "type"}
IN_CHAT: dict[str, tuple[str, Any]] = {
    "input": ("messages", [{"role": "user", "content": "hi"}]),
    "instructions": (
        "messages",
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
    ),
    "max_output_tokens": ("max_tokens", 40),
    "reasoning": ("reasoning_effort", "low"),
    "reasoning.effort": ("reasoning_effort", "high"),
    "stream_options": ("stream_options", {"include_usage": True, "include_obfuscation": False}),
    "text": ("verbosity", "low"),
    "text.format": ("response_format", {"type": "json_schema", "json_schema": CHAT_NESTED}),
    "text.verbosity": ("verbosity", "high"),
    "tools": (
        "tools",
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
    ),
}
"""Parameters that differ in the Chat Completions API -> (name, value) in that API."""
IN_RESPONSES: dict[str, tuple[str, Any]] = {
    "input": ("input", [{"type": "message", "role": "user", "content": "hi"}]),
}


TREATMENTS = {name: (responses, chat) for name, responses, chat, _ in listed("Every field of `POST /v1/responses`", 4)}


def official_fields() -> dict[str, set[str]]:
    """Module of parameters in the `openai` package -> its fields."""
    found: dict[str, set[str]] = {}
    for package in (openai.types.responses, openai.types.conversations):
        for module_info in pkgutil.iter_modules(package.__path__):
            if not module_info.name.endswith("_params"):
                continue
            module = importlib.import_module(f"{package.__name__}.{module_info.name}")
            names = [name for name in module.__all__ if "Params" in name and is_typeddict(getattr(module, name))]
            found[module_info.name] = {field for name in names for field in fields(getattr(module, name))}
    return found


def test_every_field_of_the_official_client_is_listed_with_its_treatment() -> None:
    official = official_fields()
    create = official.pop("response_create_params")
    assert set(TREATMENTS) == create | NOT_IN_THE_PACKAGE
    others = listed("Every field of the other calls", 3)
    in_list: dict[str, set[str]] = {}
    for call, name, _ in others:
        in_list.setdefault(call, set()).add(name)
    counted = official.pop("input_token_count_params")
    assert in_list.pop(CALLS["input_token_count_params"]) == counted - create | {"all others"}
    assert in_list == {CALLS[module]: names for module, names in official.items()}


def streams_hello(exchange: Exchange) -> None:
    if exchange.path.endswith("/responses"):
        part = {"type": "output_text", "text": "Hello", "annotations": []}
        exchange.stream_items({"id": "msg_1", "type": "message", "role": "assistant", "content": [part]})
    else:
        exchange.stream_text("Hello")


@pytest.fixture(params=APIS)
async def api_of(
    request: pytest.FixtureRequest, settings: Settings, provider: ScriptedProvider
) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """(the provider's API, a client of the command API)."""
    provider.script = streams_hello
    changes = {"openai_base_url": provider.url, "model_api": request.param, "default_model": "scripted"}
    async with open_api(settings.model_copy(update=changes)) as api:
        yield request.param, api


def without_cache_key(sent: dict[str, Any]) -> dict[str, Any]:
    """The prompt cache key differs between conversations."""
    return {name: value for name, value in sent.items() if name != "prompt_cache_key"}


def request_with(name: str) -> dict[str, Any]:
    first, *path = name.split(".")
    body: dict[str, Any] = {"input": "hi", **REQUIRED.get(name, {})}
    if first == "moderation":
        body[first] = {"model": "m"}
    inner = body
    for step, following in zip([first, *path], path, strict=False):
        assert following
        inner = inner.setdefault(step, {})
    inner[name.rsplit(".", 1)[-1]] = VALUES[name]
    return body


async def test_each_parameter_is_sent_kept_or_refused_as_the_list_says(
    api_of: tuple[str, httpx.AsyncClient], provider: ScriptedProvider, log: Log
) -> None:
    provider_api, api = api_of
    renamed = IN_CHAT if provider_api == "chat" else IN_RESPONSES
    assert (await api.post("/v1/responses", json={"input": "hi"})).status_code == 200
    plain = provider.requests[-1]
    treatments = {name: treatment[APIS.index(provider_api)] for name, treatment in TREATMENTS.items()}
    assert set(treatments.values()) == {"used", "sent", "kept", "refused"}
    assert {name for name, treatment in treatments.items() if treatment != "used"} == set(VALUES)
    for name, value in VALUES.items():
        before = log.count()
        answer = await api.post("/v1/responses", json=request_with(name))
        if treatments[name] == "refused":
            assert answer.status_code == 400, name
            status, code, param = error_of(answer)
            assert (status, code) == (400, "unsupported_parameter")
            assert param is not None
            assert name in (param, param.rsplit(".", 1)[0]) or name.startswith(f"{param}."), (name, param)
            assert log.count() == before
            continue
        assert answer.status_code == 200, (name, answer.text)
        response, sent = answer.json(), provider.requests[-1]
        if name.split(".")[0] not in NOT_REPEATED:
            repeated = value_at(response, name)
            is_object = isinstance(value, dict) and isinstance(repeated, dict)
            assert ({key: repeated[key] for key in value} if is_object else repeated) == value, name
        if treatments[name] == "kept":
            assert without_cache_key(sent) == without_cache_key(plain), name
        else:
            sent_name, sent_value = renamed.get(name, (name, value))
            assert value_at(sent, sent_name) == sent_value, name


async def test_values_that_ask_for_nothing_special_are_accepted(api_of: tuple[str, httpx.AsyncClient]) -> None:
    _, api = api_of
    for body in (
        {"background_options": {"completion_window": "soonest"}},
        {"prompt_cache_options": {"prewarm": False}},
        {"generate": True},
        {"top_logprobs": 0},
        {"prompt": None},
        {"moderation": None},
        {"access_programs": {"cyber": "standard"}},
        {"image": {"context_compression": "disabled"}},
        {"image": {"context_compression": "auto"}},
        {"reasoning": {"context": "auto", "mode": "standard", "effort": None}},
        {"stream_options": {"include_usage": True}},
    ):
        assert (await post_response(api, "hi", **body)).status_code == 200, body


async def test_allowed_tools_have_the_mode_auto_by_default(
    api_of: tuple[str, httpx.AsyncClient], provider: ScriptedProvider
) -> None:
    provider_api, api = api_of
    choice = {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]}
    answer = await post_response(api, "hi", tools=[TOOL], tool_choice=choice)
    assert answer.status_code == 200, answer.text
    assert answer.json()["tool_choice"] == {**choice, "mode": "auto"}
    sent = provider.requests[-1]["tool_choice"]
    assert (sent["allowed_tools"] if provider_api == "chat" else sent)["mode"] == "auto"


async def test_an_error_about_an_unknown_parameter_names_its_replacement(
    api_of: tuple[str, httpx.AsyncClient], log: Log
) -> None:
    _, api = api_of
    nested = {"name": "f", "parameters": {}}
    conversation = (await api.post("/v1/conversations", json={})).json()["id"]
    for path, body, code, param, ours in (
        ("/v1/responses", {"max_tokens": 5}, "unknown_parameter", "max_tokens", "`max_output_tokens`"),
        ("/v1/responses", {"max_completion_tokens": 5}, "unknown_parameter", "max_completion_tokens", "`max_output_"),
        ("/v1/responses", {"messages": [], "temperature": "x"}, "unknown_parameter", "messages", "Use `input`."),
        ("/v1/responses", {"functions": []}, "unknown_parameter", "functions", "`tools`"),
        ("/v1/responses", {"function_call": "auto"}, "unknown_parameter", "function_call", "`tool_choice`"),
        ("/v1/responses", {"response_format": {}}, "unknown_parameter", "response_format", "`text.format`"),
        ("/v1/responses", {"reasoning_effort": "low"}, "unknown_parameter", "reasoning_effort", "`reasoning.effort`"),
        ("/v1/responses", {"verbosity": "low"}, "unknown_parameter", "verbosity", "`text.verbosity`"),
        ("/v1/responses", {"system": "x"}, "unknown_parameter", "system", "`instructions`"),
        ("/v1/responses", {"stop": "x"}, "unknown_parameter", "stop", "`stop`"),
        ("/v1/responses", {"prompt": "x"}, "invalid_value", "prompt", "Use `input`"),
        ("/v1/responses", {"tools": [{"type": "function", "function": nested}]}, "invalid_value", "tools[0].function", "`tools[0]`"),
        ("/v1/responses", {"tool_choice": {"type": "function", "function": nested}}, "invalid_value", "tool_choice.function", "`tool_choice`"),
        ("/v1/responses", {"text": {"format": {"type": "json_schema", "json_schema": nested}}}, "invalid_value", "text.format.json_schema", "`text.format`"),
        ("/v1/responses/input_tokens", {"messages": []}, "unknown_parameter", "messages", "`input`"),
        ("/v1/responses/input_tokens", {"personality": "friendly"}, "unknown_parameter", "personality", "`personality`"),
        ("/v1/responses/compact", {"messages": []}, "unknown_parameter", "messages", "`input`"),
        ("/v1/conversations", {"messages": []}, "unknown_parameter", "messages", "`items`"),
        (f"/v1/conversations/{conversation}/items", {"messages": []}, "unknown_parameter", "messages", "`items`"),
        (f"/v1/conversations/{conversation}/items/{mint('msg')}", {"input": "x"}, "unknown_parameter", "input", "`item`"),
    ):  # fmt: skip
        answer = await api.post(path, json={"input": "hi", **body} if path == "/v1/responses" else body)
        assert error_of(answer) == (400, code, param), body
        assert ours in answer.json()["error"]["message"]
    assert log.count() == 1


async def test_the_error_for_an_invalid_value_names_the_parameter(api_of: tuple[str, httpx.AsyncClient]) -> None:
    _, api = api_of
    for param, body in (
        ("reasoning.effort", {"reasoning": {"effort": 5}}),
        ("reasoning.summary", {"reasoning": {"summary": "long"}}),
        ("text.verbosity", {"text": {"verbosity": "loud"}}),
        ("text.format", {"text": {"format": "json"}}),
        ("stream_options.include_obfuscation", {"stream_options": {"include_obfuscation": "no"}}),
        ("stream_options.surprise", {"stream_options": {"surprise": 1}}),
        ("prompt_cache_options.ttl", {"prompt_cache_options": {"ttl": "1y"}}),
        ("moderation.model", {"moderation": {}}),
        ("presence_penalty", {"presence_penalty": 2.5}),
        ("top_logprobs", {"top_logprobs": 21}),
        ("service_tier", {"service_tier": ""}),
        ("user", {"user": "u" * 513}),
        ("client_metadata", {"client_metadata": "x"}),
        ("include[0]", {"include": ["message.output_text.logprobs"]}),
    ):
        answer = await api.post("/v1/responses", json={"input": "hi", **body})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_accepted_parameters_and_the_hash_of_the_request_are_recorded(
    api_of: tuple[str, httpx.AsyncClient], provider: ScriptedProvider, log: Log
) -> None:
    provider_api, api = api_of
    accepted = {
        name: value
        for name, value in VALUES.items()
        if "." not in name and TREATMENTS[name][APIS.index(provider_api)] != "refused"
    }
    answer = await api.post("/v1/responses", json={**accepted, "stream": True})
    assert answer.status_code == 200, answer.text
    response = events_of(answer)[-1]["response"]
    assert response["status"] == "completed"
    requested = log.events(response["conversation"]["id"])[1]
    assert isinstance(requested, ReplyRequested)
    recorded = json.loads(requested.parameters)
    assert recorded == {name: value for name, value in accepted.items() if name not in ("input", "model")}
    assert requested.shown.request_sha256 == request_sha256(provider.requests[-1])


async def test_a_summary_request_has_the_cache_parameters_and_the_service_tier(
    api_of: tuple[str, httpx.AsyncClient], provider: ScriptedProvider
) -> None:
    _, api = api_of
    sent = {
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
        "prompt_cache_retention": "24h",
        "service_tier": "flex",
    }
    answer = await api.post("/v1/responses/compact", json={"model": "scripted", "input": "hi", **sent})
    assert answer.status_code == 200, answer.text
    assert {name: provider.requests[-1][name] for name in sent} == sent
