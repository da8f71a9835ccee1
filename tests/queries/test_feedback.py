"""Feedback on items and responses: given, changed, withdrawn, listed, filtered and counted."""

import asyncio
from typing import Any

import pytest

from tests.commands.api_client import create_conversation, create_response, create_response_in_fork, error_of
from tests.queries.test_deleted_items import Store, provider, store

__all__ = ["provider", "store"]

COMMENT = "the platypus is a bird"


async def _entries(store: Store, path: str) -> tuple[list[tuple[Any, ...]], Any]:
    page = await store.get(path)
    return [(each["item"] or each["response"], each["rating"], each["comment"]) for each in page["data"]], page[
        "counts"
    ]


async def test_lists_filter_and_count_feedback_that_was_given_changed_or_withdrawn(store: Store) -> None:
    conversation_id = await create_conversation(store.commands)
    [first, second] = await store.add(conversation_id, "alpha", "beta")
    response = await create_response(store.commands, "one", conversation=conversation_id)
    path = f"/v1/conversations/{conversation_id}"
    given = await store.commands.post(f"{path}/items/{first}/feedback", json={"rating": 1, "labels": ["short"]})
    body = {"rating": -1, "labels": ["wrong", "wrong", "long"], "comment": COMMENT}
    changed = await store.commands.post(f"{path}/items/{first}/feedback", json=body)
    same = await store.commands.post(f"{path}/items/{first}/feedback", json=body)
    assert same.json() == changed.json()
    assert changed.headers["etag"] == same.headers["etag"]
    expected = {
        "object": "feedback",
        "id": given.json()["id"],
        "conversation": conversation_id,
        "item": first,
        "response": None,
    }
    assert changed.json() == given.json() | expected | {"rating": -1, "labels": ["wrong", "long"], "comment": COMMENT}
    await store.commands.post(f"{path}/items/{second}/feedback", json={"rating": 1, "labels": ["long"]})
    of_response = f"/v1/responses/{response['id']}/feedback"
    assert (await store.commands.post(of_response, json={"rating": 1})).json()["response"] == response["id"]
    await store.catch_up()

    entries, counts = await _entries(store, f"{path}/feedback")

    assert entries == [(response["id"], 1, None), (second, 1, None), (first, -1, COMMENT)]
    assert counts == {"positive": 2, "negative": 1, "labels": {"long": 2, "wrong": 1}}
    assert await _entries(store, "/v1/feedback") == (entries, counts)
    assert await _entries(store, "/v1/feedback?rating=-1&label=wrong") == (
        entries[2:],
        {"positive": 0, "negative": 1, "labels": {"long": 1, "wrong": 1}},
    )
    page = await store.get("/v1/feedback?limit=1")
    assert (page["has_more"], page["counts"]) == (True, counts)
    assert (await _entries(store, f"/v1/feedback?after={page['last_id']}"))[0] == entries[1:]
    for empty in ("label=none", "until=1700000000", "since=4000000000"):
        assert await _entries(store, f"/v1/feedback?{empty}") == ([], {"positive": 0, "negative": 0, "labels": {}})
    items = [
        document async for document in store.world.database["items"].find({}, {"positive": 1, "negative": 1, "id": 1})
    ]
    assert {
        document["id"]: (document.get("positive", 0), document.get("negative", 0))
        for document in items
        if document["id"] in (first, second)
    } == {
        first: (0, 1),
        second: (1, 0),
    }
    for withdrawn in (f"{path}/items/{second}/feedback", of_response):
        assert (await store.commands.delete(withdrawn)).json()["deleted"] is True
        assert error_of(await store.commands.delete(withdrawn))[:2] == (404, "feedback_not_found")
    repeated = await store.commands.post(f"{path}/items/{second}/feedback", json={"rating": -1})
    assert repeated.status_code == 200

    async def check() -> None:
        assert (await _entries(store, f"{path}/feedback"))[0] == [(second, -1, None), (first, -1, COMMENT)]

    await store.in_every_state(check, rebuild=True)


async def test_the_last_of_two_simultaneous_feedback_commands_takes_effect(
    store: Store,
) -> None:
    conversation_id = await create_conversation(store.commands)
    item_ids = await store.add(conversation_id, *"abcdefgh")
    path = f"/v1/conversations/{conversation_id}"
    given: set[str] = set()
    for item_id in item_ids:
        of_item = f"{path}/items/{item_id}/feedback"
        await store.commands.post(of_item, json={"rating": 1})
        withdrawn, repeated = await asyncio.gather(
            store.commands.delete(of_item), store.commands.post(of_item, json={"rating": -1})
        )
        assert (withdrawn.status_code, repeated.status_code) == (200, 200)
        if int(repeated.headers["x-position"]) > int(withdrawn.headers["x-position"]):
            given.add(repeated.json()["id"])
    await store.catch_up()
    assert {entry["id"] for entry in (await store.get(f"{path}/feedback"))["data"]} == given


async def test_a_comment_disappears_and_comes_back_with_its_item(
    store: Store,
) -> None:
    conversation_id = await create_conversation(store.commands)
    [first] = await store.add(conversation_id, "alpha")
    response = await create_response(store.commands, "one", conversation=conversation_id)
    fork = await create_response_in_fork(store.commands, "two", response)
    path = f"/v1/conversations/{conversation_id}"
    forked = f"/v1/conversations/{fork['conversation']['id']}"
    body, key = {"rating": -1, "comment": COMMENT}, {"Idempotency-Key": "feedback"}
    item = f"{path}/items/{first}"
    targets = (f"{item}/feedback", f"{forked}/items/{first}/feedback", f"/v1/responses/{response['id']}/feedback")
    for target in targets:
        answer = await store.commands.post(target, json=body, headers={"Idempotency-Key": target[-60:]})
        assert answer.status_code == 200, answer.text
    lists = (f"{path}/feedback", f"{forked}/feedback", "/v1/feedback")
    await store.catch_up()
    assert (await store.text_of(*lists)).count(COMMENT) == 6
    await store.delete(item)
    await store.catch_up()
    assert (await store.text_of(*lists)).count(COMMENT) == 2, "only the comments on the response are left"
    assert (await _entries(store, lists[2]))[1]["negative"] == 3
    repeated = await store.commands.post(targets[0], json=body, headers={"Idempotency-Key": targets[0][-60:]})
    assert (repeated.status_code, repeated.json()["comment"]) == (200, None)
    assert error_of(await store.commands.post(targets[0], json=body, headers=key))[:2] == (404, "not_found")
    await store.commands.post(f"{item}/restore")
    await store.delete(f"/v1/responses/{response['id']}")
    await store.catch_up()
    assert (await store.text_of(*lists)).count(COMMENT) == 4
    await store.delete(path)
    await store.catch_up()
    assert [entry[2] for entry in (await _entries(store, "/v1/feedback"))[0]] == [None]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"rating": 2}, "rating"),
        ({"rating": True}, "rating"),
        ({"rating": 1.0}, "rating"),
        ({}, "rating"),
        ({"rating": 1, "labels": ["x"] * 100}, "labels"),
        ({"rating": 1, "labels": [""]}, "labels[0]"),
        ({"rating": 1, "labels": ["a\nb"]}, "labels[0]"),
        ({"rating": 1, "comment": "x" * 1_000_000}, "comment"),
        ({"rating": 1, "comment": "a\0b"}, "comment"),
        ({"rating": 1, "stars": 5}, "stars"),
    ],
)
async def test_wrong_feedback_is_refused_and_the_error_names_the_field(store: Store, body: Any, param: str) -> None:
    conversation_id = await create_conversation(store.commands)
    [first] = await store.add(conversation_id, "alpha")
    answer = await store.commands.post(f"/v1/conversations/{conversation_id}/items/{first}/feedback", json=body)
    assert (answer.status_code, error_of(answer)[2]) == (400, param), answer.text
