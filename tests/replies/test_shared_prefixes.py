"""The API says what a request leaves out, and what it shares with an earlier request."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from infrastructure.settings import Settings
from tests.replies.both_apis import BothApis, open_both_apis
from tests.scripted_provider import ScriptedProvider, scripted_provider

HEADER = "x-context-left-out"
BUDGET = 300


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[BothApis]:
    changed = {"openai_base_url": provider.url, "default_model": "scripted"}
    async with open_both_apis(settings.model_copy(update=changed)) as store:
        yield store


async def create(store: BothApis, turns: int, **policy: Any) -> str:
    """Creates a conversation. Each of the turns has about 30 tokens."""
    created = await store.http.post("/v1/conversations", json={"context_policy": {"budget": BUDGET, **policy}})
    conversation_id = str(created.json()["id"])
    messages = [
        {"role": role, "content": f"{n} " + "word " * 10} for n in range(turns) for role in ("user", "assistant")
    ]
    for start in range(0, len(messages), 20):
        url = f"/v1/conversations/{conversation_id}/items"
        assert (await store.http.post(url, json={"items": messages[start : start + 20]})).status_code == 200
    return conversation_id


async def ask(store: BothApis, text: str, **body: Any) -> dict[str, Any]:
    answer = await store.http.post("/v1/responses", json={"input": text, **body})
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


async def context_of(store: BothApis, response: dict[str, Any]) -> dict[str, Any]:
    answer = await store.http.get(f"/v1/responses/{response['id']}/context")
    assert answer.status_code == 200, answer.text
    context: dict[str, Any] = answer.json()
    return context


async def test_an_answer_says_how_many_items_did_not_fit_in_the_budget(store: BothApis) -> None:
    short, long = await create(store, 2), await create(store, 20)
    everything_shown = await store.http.post("/v1/responses", json={"input": "hi", "conversation": short})
    assert HEADER not in everything_shown.headers
    headers = {"idempotency-key": "k"}
    first = await store.http.post("/v1/responses", json={"input": "hi", "conversation": long}, headers=headers)
    repeated = await store.http.post("/v1/responses", json={"input": "hi", "conversation": long}, headers=headers)
    context = await context_of(store, first.json())
    [left_out] = context["left_out"]
    assert left_out["reason"] == "budget"
    assert left_out["count"] + len(context["items"]) == 41
    assert (repeated.headers["idempotent-replayed"], repeated.json()["id"]) == ("true", first.json()["id"])
    in_stream = await store.http.post("/v1/responses", json={"input": "hi", "conversation": long, "stream": True})
    not_stored = {"input": "hi", "previous_response_id": first.json()["id"], "store": False}
    unstored = await store.http.post("/v1/responses", json=not_stored)
    chat = {"messages": [{"role": "user", "content": "hi"}], "conversation": long}
    completion = await store.http.post("/v1/chat/completions", json=chat)
    for answer in (first, repeated, in_stream, unstored, completion):
        assert (answer.status_code, answer.headers.get(HEADER)) == (200, str(left_out["count"])), answer.request.content


async def test_the_context_of_a_response_says_what_it_shares(
    store: BothApis,
) -> None:
    conversation = await create(store, 2)
    responses = [await ask(store, "How are you?", conversation=conversation) for _ in range(3)]
    contexts = [await context_of(store, response) for response in responses]
    shared = [context["shared_prefix"] for context in contexts]
    assert shared[0] == {"tokens": 0, "messages": 0, "reason": "comparison_response_not_found"}
    for earlier, later in zip(contexts, shared[1:], strict=False):
        messages = len(earlier["request"]["messages"])
        assert later == {"tokens": earlier["tokens"], "messages": messages, "reason": None}
    # Chat Completions messages are sent unchanged.
    chat = {"messages": [{"role": "user", "content": "hi"}], "store": True}
    completion = (await store.http.post("/v1/chat/completions", json=chat)).json()
    assert (await context_of(store, completion))["shared_prefix"] is None
    await store.projector.catch_up()
    [usage] = (await store.http.get("/v1/usage")).json()["data"]
    assert usage["prefix_tokens"] == sum(prefix["tokens"] for prefix in shared) > 0


async def test_a_branch_shares_the_prefix_of_the_request_that_it_continues(store: BothApis) -> None:
    first = await ask(store, "First question? " + "word " * 10)
    second = await ask(store, "Second question?", previous_response_id=first["id"])
    third = await ask(store, "Third question?", previous_response_id=second["id"])
    beside = await ask(store, "Another third question?", previous_response_id=second["id"])
    fourth = await ask(store, "Fourth question?", previous_response_id=beside["id"])
    assert beside["conversation"] == third["conversation"]
    expected = await context_of(store, second)
    shared = (await context_of(store, beside))["shared_prefix"]
    assert shared == {"tokens": expected["tokens"], "messages": len(expected["request"]["messages"]), "reason": None}
    # The fourth question is compared with the request that opened the branch.
    opening = await context_of(store, beside)
    shared = (await context_of(store, fourth))["shared_prefix"]
    assert shared == {"tokens": opening["tokens"], "messages": len(opening["request"]["messages"]), "reason": None}
    # The third question came after the place where this branch begins.
    late = await ask(store, "And another third question?", previous_response_id=second["id"])
    expected = await context_of(store, second)
    assert (await context_of(store, late))["shared_prefix"]["tokens"] == expected["tokens"]


async def test_a_branch_keeps_the_window_of_the_request_that_it_continues(store: BothApis) -> None:
    """The window had moved before the branch began."""
    conversation = await create(store, 7)
    last = await ask(store, "Question " + "word " * 50, conversation=conversation)
    start = (await context_of(store, last))["items"][0]["id"]
    await ask(store, "More", conversation=conversation)
    beside = await ask(store, "Different", previous_response_id=last["id"])
    assert (await context_of(store, beside))["items"][0]["id"] == start
