"""The local model that `scripts/up` starts answers through both provider APIs."""

from typing import Any, Literal

import pytest

from context.models import Models
from context.rendering import render
from infrastructure.embedded.model import MODEL
from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from replies.provider.stream_parts import Finished, ItemStarted
from tests.replies.provider.conftest import joined

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "What is 40 + 2?"},
    {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": '{"a":40,"b":2}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "42"},
    {"role": "assistant", "content": "It is 42."},
    {"role": "user", "content": "Say hello."},
]


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_the_local_model_answers_a_conversation(model_url: str, api: Literal["chat", "responses"]) -> None:
    settings = Settings(openai_base_url=model_url, model_api=api)
    model = ModelProvider(settings)
    body = render(
        Models(settings).renderer,
        model=MODEL,
        instructions=["Be brief."],
        summary="They greeted each other.",
        items=TALK,
        parameters={"max_output_tokens": 12, "temperature": 0.1},
    )
    parts = [part async for part in model.stream(body)]
    assert parts[0] == ItemStarted({"type": "message", "role": "assistant"})
    [(_, text)] = joined(parts)
    assert text.strip()
    end = parts[-1]
    assert isinstance(end, Finished)
    assert end.model == MODEL
    assert end.usage is not None
    assert 0 < end.usage.output_tokens <= 12
    assert end.usage.input_tokens > 50
    assert await model.has_model(MODEL)
    assert not await model.has_model("gpt-nobody")
    await model.close()
