"""What the store knows about models, and the cost of a reply."""

from typing import Any

import pytest
from pydantic import ValidationError

from context.learnt_models import LearntModel
from context.models import Models
from domain.events import Usage
from infrastructure.settings import ModelSettings, Settings


@pytest.mark.parametrize(
    ("name", "window", "encoding", "safety", "unknown"),
    [
        ("gpt-5", 400_000, "o200k_base", 1.0, []),
        ("gpt-5-mini-2025-08-07", 400_000, "o200k_base", 1.0, []),
        ("openai/GPT-4o", 128_000, "o200k_base", 1.0, []),
        ("gpt-4", 8_192, "cl100k_base", 1.0, []),
        ("o3", 200_000, "o200k_base", 1.0, []),
        ("gpt-oss-20b", 131_072, "o200k_base", 1.0, []),
        ("text-davinci-003", 200_000, "o200k_base", 0.8, ["window", "price"]),
        ("claude-sonnet-4-5", 200_000, "o200k_base", 0.8, []),
        ("gemini-2.5-pro", 1_048_576, "o200k_base", 0.8, []),
        ("gpt-6-sol", 1_050_000, "o200k_base", 0.8, []),
        ("grok-4", 256_000, "o200k_base", 0.8, []),
        ("glm-of-tomorrow", 200_000, "o200k_base", 0.8, ["window", "price"]),
        ("smollm2-135m", 200_000, "o200k_base", 0.8, ["window", "price"]),
        ("", 200_000, "o200k_base", 0.8, ["window", "price"]),
    ],
)
def test_the_name_of_a_model_gives_its_window_encoding_and_safety(
    name: str, window: int, encoding: str, safety: float, unknown: list[str]
) -> None:
    models = Models(Settings())
    assert (models.window(name), models.encoding(name), models.facts(name).safety) == (window, encoding, safety)
    assert models.unknown(name) == unknown
    assert (models.cost(name, Usage(input_tokens=1)) is None) is ("price" in unknown)


def test_the_price_of_a_model_depends_on_the_provider() -> None:
    usage = Usage(input_tokens=1_000_000)
    costs = {
        Models(Settings(openai_base_url=url)).cost("openai/gpt-oss-120b", usage)
        for url in ("https://api.groq.com/openai/v1", "https://openrouter.ai/api/v1", "http://127.0.0.1:1/v1")
    }
    assert len(costs) > 1
    assert None not in costs


NO_TOKENS: list[Any] = [0, -1, "8192", True, 4_096.5, None, [], {"n_ctx": "8192"}, {"n_ctx": 0}, 10**30]
LISTED: list[tuple[dict[str, Any], int, bool]] = [
    ({"max_model_len": 4_096}, 4_096, True),
    ({"context_length": 5_000, "top_provider": {"context_length": 4_000}}, 4_000, True),
    ({"context_window": 6_000}, 6_000, True),
    ({"meta": {"n_ctx": 7_000, "n_ctx_train": 9_000}}, 7_000, True),
    ({"loaded_context_length": 8_000, "max_context_length": 9_000}, 8_000, True),
    ({"meta": {"n_ctx_train": 9_000}}, 9_000, False),
    ({"max_context_length": 900_000}, 200_000, False),
    *(
        ({field: wrong}, 200_000, False)
        for field in ("max_model_len", "context_length", "loaded_context_length", "max_context_length", "meta")
        for wrong in NO_TOKENS
    ),
]


@pytest.mark.parametrize(("entry", "window", "is_known"), LISTED)
def test_the_providers_list_says_how_large_a_window_is(entry: dict[str, Any], window: int, is_known: bool) -> None:
    models = Models(Settings(models={"mine": ModelSettings(window=999)}))
    models.set_listed([{"id": "models/local", **entry}, {"id": "mine", **entry}, {"id": "gpt-4o", **entry}])
    assert (models.window("local"), models.facts("local").window_is_known) == (window, is_known)
    assert models.window("mine") == 999
    assert models.window("gpt-4o") == (window if is_known else min(128_000, window))


def test_learnt_facts_only_shrink_a_window_and_override_no_setting() -> None:
    models = Models(Settings(models={"mine": ModelSettings(window=999, accepts=frozenset({"image"}))}))
    models.set_listed([{"id": "listed", "max_model_len": 4_096}])
    learnt = LearntModel(window=3_000, missing=frozenset({"image"}))
    assert models.window("unknown") == 200_000
    models.set_learnt(dict.fromkeys(("mine", "listed", "unknown", "gpt-4"), learnt))
    assert [models.window(name) for name in ("mine", "listed", "unknown", "gpt-4")] == [999, 3_000, 3_000, 3_000]
    assert models.unknown("unknown") == ["price"]
    assert models.missing_abilities("unknown") == {"image"}
    assert models.missing_abilities("mine") == {"file", "audio", "tools", "custom_tools"}
    models.set_learnt({"listed": LearntModel(window=100_000)})
    assert (models.window("unknown"), models.window("listed")) == (200_000, 4_096)


def test_the_providers_list_says_what_a_model_accepts() -> None:
    models = Models(Settings())
    models.set_listed(
        [
            {"id": "a", "architecture": {"input_modalities": ["text", "image"]}, "supported_parameters": ["tools"]},
            {"id": "b", "capabilities": {"vision": False, "function_calling": True, "audio": 5}},
            {"id": "c", "architecture": "text", "capabilities": ["completion"], "supported_parameters": "tools"},
            {"id": "d", "top_provider": {"max_completion_tokens": 300}},
        ]
    )
    accepts = [models.facts(name).accepts for name in "abc"]
    assert accepts == [
        {"image": True, "file": False, "audio": False, "tools": True},
        {"image": False, "tools": True},
        {},
    ]
    assert models.facts("d").output == 300


def test_settings_override_what_is_known_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", '{"mine": {"window": 999, "safety": 0.5}, "gpt-4o": {"output_price": 3}}')
    models = Models(Settings())
    assert (models.window("mine"), models.facts("mine").safety, models.encoding("mine")) == (999, 0.5, "o200k_base")
    assert (models.max_request_tokens("mine"), models.max_request_tokens("mine", reserved=99)) == (499, 450)
    assert models.facts("gpt-4o").output_price == 3
    assert models.facts("gpt-4o").input_price == 2.5
    assert Models(Settings(model_window=50)).window("gpt-5") == 50
    assert Models(Settings(model_window=50)).window("mine") == 999


@pytest.mark.parametrize(
    "setting",
    [
        "{",
        "[]",
        '{"a": 5}',
        '{"a": {"windows": 5}}',
        '{"a": {"window": 0}}',
        '{"a": {"window": 9223372036854775808}}',
        '{"a": {"output": 0}}',
        '{"a": {"accepts": ["video"]}}',
        '{"a": {"accepts": "image"}}',
        '{"a": {"safety": 1.5}}',
        '{"a": {"input_price": -1}}',
        '{"a": {"encoding": "p50k_base"}}',
        "[" * 100_000,
    ],
)
def test_invalid_settings_are_refused_at_start(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("MODELS", setting)
    with pytest.raises(ValidationError, match="models"):
        Settings()


def test_an_empty_setting_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS", "")
    monkeypatch.setenv("TENANT_DEFAULTS", " ")
    assert (Settings().models, Settings().tenant_defaults) == ({}, {})


def test_the_cost_of_a_reply_is_in_billionths_of_a_dollar() -> None:
    models = Models(Settings())
    usage = Usage(input_tokens=1_000, cached_tokens=400, output_tokens=10)
    assert models.cost("gpt-4o", usage) == 600 * 2_500 + 400 * 1_250 + 10 * 10_000
    assert models.cost("gpt-4", usage) == 1_000 * 30_000 + 10 * 60_000
    assert models.cost("gpt-4", Usage(input_tokens=1, cached_tokens=5)) == 30_000
    assert models.cost("of-tomorrow", usage) is None


def test_without_a_price_setting_the_price_of_the_reported_model_is_used() -> None:
    priced = {"fast": ModelSettings(input_price=1, output_price=1), "free": ModelSettings(window=9)}
    models, usage = Models(Settings(models=priced)), Usage(input_tokens=1_000)
    assert models.cost("fast", usage, reported="gpt-4o") == 1_000 * 1_000
    assert models.cost("free", usage, reported="gpt-4o") == 1_000 * 2_500
    assert models.cost("gpt-4o", usage, reported="of-tomorrow") is None


def test_long_requests_and_cache_writes_have_their_own_prices() -> None:
    models = Models(Settings())
    short, long = (Usage(input_tokens=tokens, output_tokens=10) for tokens in (100_000, 300_000))
    assert models.cost("claude-sonnet-4-5", short) == 100_000 * 3_000 + 10 * 15_000
    assert models.cost("claude-sonnet-4-5", long) == 300_000 * 6_000 + 10 * 22_500
    written = Usage(input_tokens=1_000, cached_tokens=300, cache_write_tokens=400)
    assert models.cost("claude-sonnet-4-5", written) == 300 * 3_000 + 300 * 300 + 400 * 3_750
