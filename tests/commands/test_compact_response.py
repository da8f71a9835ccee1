"""POST /v1/responses/compact: summarizes an input or a chain of responses."""

import httpx

from infrastructure.ids import mint
from tests.commands.api_client import create_response, error_of, sent_messages
from tests.log import Log
from tests.scripted_provider import ScriptedProvider

WITH_PROVIDER = {"model_window": 1_000}


async def test_turns_that_fill_more_than_eight_portions_are_a_400(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    # A portion has room for about 470 tokens. One of these turns has 310.
    turns = [
        {"role": role, "content": "word " * words}
        for _ in range(11)
        for role, words in (("user", 10), ("assistant", 300))
    ]
    answer = await api.post("/v1/responses/compact", json={"model": "scripted", "input": turns})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert provider.requests == []
    answer = await api.post("/v1/responses/compact", json={"model": "scripted", "input": turns[:8]})
    assert answer.status_code == 200
    assert [item["type"] for item in answer.json()["output"]] == ["message"] * 4 + ["compaction"]


async def test_a_compacted_chain_continues_from_its_summary(
    api: httpx.AsyncClient, log: Log, provider: ScriptedProvider
) -> None:
    first = await create_response(api, "My name is Ada.")
    before = log.count()
    provider.script = lambda exchange: exchange.stream_text("Ada ", "likes tea.")
    body = {"model": "scripted", "previous_response_id": first["id"], "input": "I like tea."}
    answer = await api.post("/v1/responses/compact", json=body)
    assert answer.status_code == 200, answer.text
    assert log.count() == before
    assert [item["type"] for item in answer.json()["output"]] == ["message", "message", "compaction"]
    assert answer.json()["object"] == "response.compaction"
    assert answer.json()["usage"]["output_tokens"] == 2
    assert "Ada" in provider.requests[-1]["messages"][-1]["content"]
    items = answer.json()["output"]
    await create_response(api, [items[-1], {"role": "user", "content": "Who am I?"}])
    [summary, question] = sent_messages(provider.requests[-1])
    assert "Ada likes tea." in summary[1]
    assert question == ("user", "Who am I?")


async def test_an_invalid_request_is_a_400_that_names_the_wrong_field(
    api: httpx.AsyncClient,
) -> None:
    for body, expected_error in (
        ({"input": "x"}, (400, "invalid_value", "model")),
        ({"model": "scripted"}, (400, "missing_required_parameter", "input")),
        ({"model": "nobody", "input": "x"}, (400, "model_not_found", "model")),
        ({"model": "scripted", "input": "x", "service_tier": ""}, (400, "invalid_value", "service_tier")),
        ({"model": "scripted", "previous_response_id": mint("resp")}, (400, "previous_response_not_found", "previous_response_id")),
    ):  # fmt: skip
        assert error_of(await api.post("/v1/responses/compact", json=body)) == expected_error
