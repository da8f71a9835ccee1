"""`TENANT_DEFAULTS` sets the context policy of new conversations, except the fields that the client gives."""

import json
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from domain.events import ContextPolicy, ConversationDescribed, ConversationStarted
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, create_response, create_response_in_fork, error_of, open_api
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

OF_TENANT = {"budget": 900, "stopped": "keep", "on_disconnect": "finish"}
DEFAULT = ContextPolicy(budget=900, stopped="keep", on_disconnect="finish")


def policy_of(log: Log, conversation_id: str) -> ContextPolicy:
    policy = ContextPolicy()
    for event in log.events(conversation_id):
        if isinstance(event, ConversationStarted | ConversationDescribed) and event.context_policy is not msgspec.UNSET:
            policy = event.context_policy
    return policy


def settings_with(settings: Settings, provider: ScriptedProvider, defaults: dict[str, Any]) -> Settings:
    changed = {"openai_base_url": provider.url, "tenant_defaults": defaults}
    return Settings.model_validate({**settings.model_dump(), **changed})


async def test_the_tenants_defaults_fill_the_fields_that_the_client_leaves_out(
    settings: Settings, provider: ScriptedProvider, log: Log
) -> None:
    defaults = {"default": {"model": "scripted", "context_policy": OF_TENANT}, "other": {"model": "big"}}
    async with open_api(settings_with(settings, provider, defaults)) as api:
        plain = await create_conversation(api)
        partly = await create_conversation(api, context_policy={"stopped": "drop", "budget": None})
        response = await create_response(api, "one")
        chain = str(response["conversation"]["id"])
        messages = [{"role": "user", "content": "hi"}]
        chat = await api.post("/v1/chat/completions", json={"messages": messages, "model": "scripted"})
        lines = [{"title": "a"}, {"title": "b", "context_policy": {"on_disconnect": "stop"}}]
        report = await api.post(
            "/v1/import",
            content="\n".join(map(json.dumps, lines)),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert report.status_code == 200, report.text
        assert policy_of(log, plain) == policy_of(log, chain) == DEFAULT
        assert policy_of(log, chat.headers["x-conversation-id"]) == DEFAULT
        assert policy_of(log, partly) == ContextPolicy(on_disconnect="finish")
        imported = log.rows("SELECT DISTINCT 'conv_' || replace(originator_id::text, '-', '') FROM events")
        stopping = [policy_of(log, conversation).on_disconnect for (conversation,) in imported]
        assert sorted(stopping) == ["finish"] * 5 + ["stop"]

        path = f"/v1/conversations/{partly}"
        await api.post(path, json={"context_policy": {"refill": 0.5}})
        assert policy_of(log, partly) == msgspec.structs.replace(DEFAULT, refill=0.5)
        await api.post(path, json={"context_policy": None})
        assert policy_of(log, partly) == DEFAULT
        await api.post(path, json={"title": "x"})
        assert policy_of(log, partly) == DEFAULT
        for wrong in ({"stopped": "maybe"}, {"on_disconnect": 1}, {"stoped": "keep"}):
            [name] = wrong
            refused = await api.post(path, json={"context_policy": wrong})
            assert error_of(refused)[::2] == (400, f"context_policy.{name}")


async def test_a_fork_has_the_policy_of_its_origin(settings: Settings, provider: ScriptedProvider, log: Log) -> None:
    async with open_api(settings_with(settings, provider, {"default": {"context_policy": OF_TENANT}})) as api:
        origin = await create_conversation(api, context_policy={"budget": 800})
        first = await create_response(api, "one", conversation=origin)
        history = [{"role": "user", "content": "hi"}]
        unlisted = await create_response(api, history)
    async with open_api(settings_with(settings, provider, {})) as api:
        fork = await create_response_in_fork(api, "two", first)
        assert fork["conversation"]["id"] != origin
        assert policy_of(log, fork["conversation"]["id"]) == msgspec.structs.replace(DEFAULT, budget=800)
        assert policy_of(log, origin) == msgspec.structs.replace(DEFAULT, budget=800)
        assert policy_of(log, (await create_response(api, "x"))["conversation"]["id"]) == ContextPolicy()
        # The conversation is new, because the earlier conversation has a smaller budget.
        history_items = [*history, *unlisted["output"], {"role": "user", "content": "and?"}]
        assert (await create_response(api, history_items))["conversation"]["id"] != unlisted["conversation"]["id"]


async def test_a_repeated_history_continues_although_the_policy_for_stopped_replies_changed(
    settings: Settings, provider: ScriptedProvider
) -> None:
    defaults = {"default": {"context_policy": {"stopped": "keep", "on_disconnect": "finish"}}}
    async with open_api(settings_with(settings, provider, {})) as api:
        first = await create_response(api, [{"role": "user", "content": "hi"}])
    async with open_api(settings_with(settings, provider, defaults)) as api:
        history_items = [{"role": "user", "content": "hi"}, *first["output"], {"role": "user", "content": "and?"}]
        assert (await create_response(api, history_items))["conversation"] == first["conversation"]


@pytest.mark.parametrize(
    "defaults",
    [
        "[]",
        "{",
        '{"acme": "model"}',
        '{"acme": {"modle": "m"}}',
        '{"acme": {"model": ""}}',
        '{"acme": {"context_policy": {"stopped": "maybe"}}}',
        '{"acme": {"context_policy": {"refill": 1.5}}}',
        '{"acme": {"context_policy": {"budget": "many"}}}',
        '{"acme": {"context_policy": {"stoped": "keep"}}}',
    ],
)
def test_invalid_tenant_defaults_are_refused_at_start(monkeypatch: pytest.MonkeyPatch, defaults: str) -> None:
    monkeypatch.setenv("TENANT_DEFAULTS", defaults)
    with pytest.raises((ValidationError, ValueError), match=r"(?i)tenant_defaults"):
        Settings()


def test_the_old_setting_named_default_models_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEFAULT_MODELS", '{"acme": "m"}')
    with pytest.raises(ValidationError, match="TENANT_DEFAULTS"):
        Settings()
    monkeypatch.setenv("DEFAULT_MODELS", " ")
    assert Settings().default_models == ""
