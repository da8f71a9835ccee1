"""The facts about a model are found by its name, and settings override them.

The cost of a reply is computed from these facts.
"""

import pytest
from pydantic import ValidationError

from context.models import Models
from domain.events import Usage
from infrastructure.settings import Settings


@pytest.mark.parametrize(
    ("name", "window", "encoding", "safety", "priced"),
    [
        ("gpt-5", 400_000, "o200k_base", 1.0, True),
        ("gpt-5-mini-2025-08-07", 400_000, "o200k_base", 1.0, True),
        ("openai/GPT-4o", 128_000, "o200k_base", 1.0, True),
        ("gpt-4", 8_192, "cl100k_base", 1.0, True),
        ("o3", 200_000, "o200k_base", 1.0, True),
        ("claude-sonnet-4-5", 200_000, "o200k_base", 0.8, True),
        ("gemini-2.5-pro", 1_048_576, "o200k_base", 0.8, False),
        ("Qwen/Qwen2.5-7B-Instruct", 32_768, "o200k_base", 0.8, False),
        ("smollm2-135m", 4_096, "o200k_base", 0.8, False),
        ("of-tomorrow", 4_096, "o200k_base", 0.8, False),
    ],
)
def test_a_model_is_found_by_the_prefix_of_its_name(
    name: str, window: int, encoding: str, safety: float, priced: bool
) -> None:
    models = Models(Settings())
    assert (models.window(name), models.encoding(name), models.facts(name).safety) == (window, encoding, safety)
    assert (models.cost(name, Usage(input_tokens=1)) is not None) is priced


def test_settings_override_the_listed_facts(monkeypatch: pytest.MonkeyPatch) -> None:
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
