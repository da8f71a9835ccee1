"""Stored chat completions: the list, single ones, and who may read them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from domain.commands import (
    CancelReply,
    DeleteReply,
    DescribeReply,
    FailReply,
    ShareConversation,
    UnshareConversation,
)
from domain.events import Share, Transcript
from infrastructure.ids import completion_id, mint
from infrastructure.settings import Settings
from queries.chat_completions import ANSWERED
from tests.principals import HeaderAuthenticator, headers_of
from tests.queries.conftest import open_api, served
from tests.queries.manual_projector import ManualProjector
from tests.queries.proxy import Proxy
from tests.queries.writer import Writer


@pytest.fixture
async def sdk(settings: Settings) -> AsyncIterator[AsyncOpenAI]:
    async with (
        served(settings) as url,
        AsyncOpenAI(api_key="-", base_url=f"{url}/v1", max_retries=0) as client,
    ):
        yield client


async def listed(sdk: AsyncOpenAI, **query: Any) -> list[str]:
    return [answer_of(completion) async for completion in await sdk.chat.completions.list(**query)]


def answer_of(completion: ChatCompletion) -> str:
    assert completion.id.startswith("chatcmpl-")
    return str(completion.choices[0].message.content)


async def test_the_list_has_the_chat_completions_that_ended_with_an_answer(
    sdk: AsyncOpenAI, write: Writer, live: ManualProjector
) -> None:
    conversations = [await write.start(listed=False) for _ in range(3)]
    ids = [await write.complete_chat(conversations[n % 3], f"question {n}", f"answer {n}") for n in range(7)]
    cut_off, questions = await write.request_reply(conversations[0], "?", transcript=Transcript())
    await write.complete_reply(conversations[0], cut_off, questions, "answer 7", finish="length")
    await _write_others(write)
    listed_conversation = await write.start()
    deleted = await write.complete_chat(listed_conversation, "?", "deleted")
    await write.execute(listed_conversation, DeleteReply(response_id=deleted))
    gone = await write.start(listed=False)
    with_conversation = await write.complete_chat(gone, "?", "deleted with its conversation")
    await write.delete(gone)

    expected = [f"answer {number}" for number in range(8)]
    assert await listed(sdk) == await listed(sdk, limit=3) == await listed(sdk, limit=4, order="asc") == expected
    assert await listed(sdk, limit=3, order="desc") == expected[::-1]
    page = await sdk.chat.completions.list(limit=3, after=completion_id(ids[1]))
    assert ([answer_of(completion) for completion in page.data], page.has_more) == (expected[2:5], True)
    # A client may delete what it has just listed.
    for cursor in (deleted, with_conversation):
        assert await listed(sdk, after=completion_id(cursor), order="desc") == expected[::-1]
    empty = await sdk.chat.completions.list(after=completion_id(cut_off))
    assert (empty.data, empty.has_more) == ([], False)


async def _write_others(write: Writer) -> None:
    """Replies that are not listed."""
    await write.reply(await write.start())
    others = write.for_tenant("other")
    await others.complete_chat(await others.start(), "?", "of another tenant")
    for end in (None, FailReply(response_id="", code="model_error", message="-"), CancelReply(response_id="")):
        conversation_id = await write.start()
        response_id, _ = await write.request_reply(conversation_id, "?", transcript=Transcript())
        if end is not None:
            await write.execute(conversation_id, replace(end, response_id=response_id))


async def test_the_list_is_filtered_by_model_and_metadata(
    sdk: AsyncOpenAI, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start(listed=False)
    odd = [
        await write.complete_chat(conversation_id, "?", f"{n}", metadata={"odd": f"{n % 2}", "$n": f"{n}", "a[b]": ""})
        for n in range(6)
    ][1::2]
    other_model, questions = await write.request_reply(conversation_id, "?", transcript=Transcript())
    await write.complete_reply(conversation_id, other_model, questions, "of another", model="smol-2")

    assert await listed(sdk, metadata={"odd": "1"}, limit=2) == ["1", "3", "5"]
    assert await listed(sdk, metadata={"odd": "1", "$n": "3"}) == ["3"]
    assert await listed(sdk, metadata={"odd": "1", "a[b]": ""}, order="desc") == ["5", "3", "1"]
    assert await listed(sdk, metadata={"odd": "2"}) == await listed(sdk, metadata={"1": "odd"}) == []
    assert await listed(sdk, model="smol-2") == ["of another"]
    assert await listed(sdk, model="smol-1", metadata={"odd": "0"}) == ["0", "2", "4"]
    assert await listed(sdk, model="smol") == []  # the provider answered with another name
    await write.execute(conversation_id, DescribeReply(response_id=odd[1], metadata={"odd": "no"}))
    assert await listed(sdk, metadata={"odd": "1"}) == ["1", "5"]
    assert await listed(sdk, metadata={"odd": "no"}) == ["3"]


async def test_a_chat_completion_is_read_by_either_of_its_ids(
    api: httpx.AsyncClient, sdk: AsyncOpenAI, write: Writer, live: ManualProjector
) -> None:
    conversation_id = await write.start()
    response_id, questions = await write.request_reply(
        conversation_id, "hi", transcript=Transcript(), metadata={"a": "1"}
    )
    running = await sdk.chat.completions.retrieve(completion_id(response_id))
    [answer] = await write.complete_reply(conversation_id, response_id, questions, "hello")
    completion = await sdk.chat.completions.retrieve(completion_id(response_id))
    assert (running.choices, running.metadata) == ([], {"a": "1"})
    assert (completion.id, answer_of(completion)) == (completion_id(response_id), "hello")
    paths = [f"/v1/chat/completions/{an_id}" for an_id in (response_id, completion_id(response_id))]
    by_either = [(await api.get(path)).json() for path in paths]
    assert by_either[0] == by_either[1] == completion.to_dict(mode="json")
    for path in ("", "/input_items", "/context", "?stream=true"):
        first, second = [
            await api.get(f"/v1/responses/{an_id}{path}") for an_id in (response_id, completion_id(response_id))
        ]
        assert (first.status_code, first.content) == (200, second.content), path

    await write.retract(conversation_id, answer.item_id)
    assert (await sdk.chat.completions.retrieve(completion_id(response_id))).choices[0].message.content != "hello"
    plain, questions = await write.request_reply(conversation_id, "hi")
    await write.complete_reply(conversation_id, plain, questions, "a Response")
    await write.execute(conversation_id, DeleteReply(response_id=response_id))
    for not_found in (plain, response_id, mint("resp")):
        for an_id in (not_found, completion_id(not_found)):
            missing = await api.get(f"/v1/chat/completions/{an_id}")
            message = f"There is no chat completion {completion_id(not_found)}."
            assert (missing.status_code, missing.json()["error"]["message"]) == (404, message)
    assert (await api.get(f"/v1/responses/{completion_id(plain)}")).status_code == 200


async def test_a_bad_cursor_id_or_filter_is_refused_and_named(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    other = write.for_tenant("other")
    foreign = await other.complete_chat(await other.start(), "?", "!")
    for query, param in (
        ({"after": completion_id(mint("resp"))}, "after"),
        ({"before": completion_id(foreign)}, "before"),
        ({"after": mint("conv")}, "after"),
        ({"after": "chatcmpl-1"}, "after"),
        ({"limit": "101"}, "limit"),
        ({"order": "up"}, "order"),
        ({f"metadata[{number}]": "" for number in range(17)}, "metadata"),
        ({"metadata": "a"}, "metadata"),
        ({"status": "failed"}, "status"),
    ):
        refused = await api.get("/v1/chat/completions", params=query)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), query
    malformed = await api.get("/v1/chat/completions/chatcmpl-1")
    assert (malformed.status_code, malformed.json()["error"]["param"]) == (400, "completion_id")


async def test_a_caller_lists_own_chat_completions_and_an_admin_lists_all(
    settings: Settings, write: Writer, live: ManualProjector
) -> None:
    ann, bob = write.for_subject("ann"), write.for_subject("bob")
    of_ann, of_bob = await ann.start(listed=False), await bob.start(listed=False)
    await ann.execute(of_ann, ShareConversation(share=Share(subject="bob", role="writer")))
    for who, conversation_id, answer in (
        (ann, of_ann, "ann's"),
        (bob, of_bob, "bob's"),
        (bob, of_ann, "bob's with ann"),
        (ann, of_ann, "ann's second"),
    ):
        await who.complete_chat(conversation_id, "?", answer)

    async with open_api(settings, authenticator=HeaderAuthenticator()) as api:

        async def seen_by(subject: str, *more_scopes: Any, **query: str) -> list[str]:
            page = await api.get("/v1/chat/completions", params=query, headers=headers_of(subject, *more_scopes))
            assert page.status_code == 200, page.text
            return [completion["choices"][0]["message"]["content"] for completion in page.json()["data"]]

        assert await seen_by("ann") == ["ann's", "ann's second"]
        assert await seen_by("bob", model="smol-1") == ["bob's", "bob's with ann"]
        assert await seen_by("eve") == []
        assert await seen_by("root", "admin") == ["ann's", "bob's", "bob's with ann", "ann's second"]
        await ann.execute(of_ann, UnshareConversation(subject="bob"))
        assert await seen_by("bob") == ["bob's"]
        await ann.execute(of_ann, ShareConversation(share=Share(role="reader")))
        assert await seen_by("bob", limit="2") == ["bob's", "bob's with ann"]
        await ann.delete(of_ann)
        assert await seen_by("bob") == ["bob's"]


async def test_chat_completions_are_unverified_while_postgres_is_unavailable(
    cut_api: httpx.AsyncClient, postgres: Proxy, write: Writer, projector: ManualProjector
) -> None:
    response_id = await write.complete_chat(await write.start(), "?", "!")
    await projector.catch_up()
    await postgres.cut()
    path = "/v1/chat/completions"
    for query in ({}, {"after": completion_id(mint("resp"))}):
        page = await cut_api.get(path, params=query)
        assert (page.status_code, page.headers["x-consistency"]) == (200, "unverified")
    one = await cut_api.get(f"{path}/{completion_id(response_id)}")
    assert (one.status_code, one.headers["x-consistency"]) == (200, "unverified")
    assert (await cut_api.get(f"{path}/{completion_id(mint('resp'))}")).status_code == 503
    assert (await cut_api.get(f"{path}/{completion_id(response_id)}/messages")).status_code == 503


async def test_a_page_of_large_answers_ends_early(sdk: AsyncOpenAI, write: Writer, live: ManualProjector) -> None:
    conversation_id = await write.start()
    answers = [f"{number}" * 3_000_000 for number in range(4)]
    for answer in answers:
        await write.complete_chat(conversation_id, "?", answer)
    first = await sdk.chat.completions.list()
    assert ([answer_of(completion) for completion in first.data], first.has_more) == (answers[:2], True)
    assert await listed(sdk) == answers
    assert await listed(sdk, limit=1, order="desc") == answers[::-1]


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"subject": "someone"},
        {"model": "smol-1"},
        {"subject": "someone", "model": "smol-1"},
        {"metadata": {"$elemMatch": {"$eq": ["a", "b"]}}},
    ],
    ids=str,
)
async def test_a_page_is_read_by_an_index_and_without_sorting(
    write: Writer, projector: ManualProjector, where: dict[str, Any]
) -> None:
    response_id = await write.complete_chat(await write.start(), "?", "!", metadata={"a": "b"})
    await projector.catch_up()
    responses = projector.views["responses"]
    [document] = await responses.find({"id": response_id}).to_list()
    others: list[dict[str, Any]] = [
        {"model": "other", "subject": "other", "metadata": []},
        {"status": "failed"},
        {"chat": False},
        {},
    ]
    await responses.insert_many(
        {**document, **others[number % 4], "_id": f"{number}", "id": f"resp_{number:032x}"} for number in range(400)
    )
    selection = {"tenant": "default", "chat": True, "status": {"$in": ANSWERED}, **where}
    for middle in (0, 200):
        query = {"find": "responses", "filter": {**selection, "id": {"$gt": f"resp_{middle:032x}"}}, "limit": 5}
        explain = {"explain": {**query, "sort": {"id": 1}}, "verbosity": "executionStats"}
        plan = await projector.views.command(explain)
        assert "'SORT'" not in str(plan["queryPlanner"]["winningPlan"])
        stats = plan["executionStats"]
        assert (stats["nReturned"], stats["totalDocsExamined"] <= 10) == (5, True), stats
