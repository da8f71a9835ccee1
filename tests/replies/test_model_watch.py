"""A process logs at its start the models whose window or price is unknown. `GET /v1/models` shows this too."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from infrastructure.settings import Settings
from tests.commands.api_client import eventually
from tests.replies.both_apis import open_both_apis
from tests.scripted_provider import ScriptedProvider, scripted_provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


async def test_models_with_unknown_window_or_price_are_named_at_start(
    settings: Settings, provider: ScriptedProvider
) -> None:
    provider.models = ["gpt-4o", "glm-of-tomorrow", "of-tomorrow"]
    provider.model_facts = {
        "glm-of-tomorrow": {"max_model_len": 5_000, "architecture": {"input_modalities": ["text", "image"]}},
        "of-tomorrow": {"max_model_len": "5000", "context_length": 0, "meta": {"n_ctx": -1, "n_ctx_train": 9_000}},
    }
    changed = settings.model_copy(update={"openai_base_url": provider.url, "default_model": "configured-of-tomorrow"})
    with capture_logs() as logs:
        async with open_both_apis(changed) as apis:
            await eventually(lambda: len([entry for entry in logs if entry["event"] == "unknown_models"]) == 4 or None)
            listed = (await apis.http.get("/v1/models")).json()["data"]
    named = {entry["unknown"]: entry["models"] for entry in logs if entry["event"] == "unknown_models"}
    assert named == {
        "window": ["configured-of-tomorrow", "of-tomorrow"],
        "price": ["configured-of-tomorrow", "glm-of-tomorrow", "of-tomorrow"],
    }
    priced, with_window, unknown = listed
    assert (priced["window"], priced["unknown"], priced["price"]["output"]) == (128_000, [], 10)
    assert (with_window["window"], with_window["unknown"], with_window["price"]) == (5_000, ["price"], None)
    assert with_window["accepts"] == {"image": True, "file": False, "audio": False}
    assert (unknown["window"], unknown["unknown"]) == (9_000, ["window", "price"])
