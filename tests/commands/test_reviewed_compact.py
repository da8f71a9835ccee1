"""POST /v1/responses/compact of what takes too many portions: refused before the model is asked, not after."""

import httpx

from tests.scripted_provider import ScriptedProvider

WITH_PROVIDER = {"model_window": 1_000}


async def test_given_turns_that_fill_more_than_eight_portions_then_it_is_a_400_and_the_model_is_not_asked(
    api: httpx.AsyncClient, provider: ScriptedProvider
) -> None:
    # A portion has room for some 470 tokens: one turn of these, and half of another.
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
