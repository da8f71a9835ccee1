"""Requests that revise an item or move the head."""

from typing import Any

from infrastructure.ids import mint
from tests.commands.api_client import create_conversation, error_of, message
from tests.commands.summarizing_store import Store, talk
from tests.commands.test_withdrawn_summaries import compact, retract
from tests.scripted_provider import ScriptedProvider


async def texts(store: Store, conversation_id: str) -> list[str]:
    """The texts that the model would be sent before the new input."""
    _, context = await store.assemble(conversation_id)
    return [sent["content"] for sent in context.fields["messages"]][:-1]


async def revise(
    store: Store, conversation_id: str, item_id: str, text: str, **headers: Any
) -> tuple[int, dict[str, Any]]:
    path = f"/v1/conversations/{conversation_id}/items/{item_id}"
    answer = await store.api.post(path, json={"item": message(text)}, headers=headers)
    return answer.status_code, answer.json()


async def test_a_model_is_shown_the_path_to_the_head(store: Store) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await store.append(conversation_id, *(message(f"m{number}") for number in range(4)))
    status, new = await revise(store, conversation_id, ids[1], "n1")
    assert (status, new["type"], new["content"][0]["text"]) == (200, "message", "n1")
    assert await texts(store, conversation_id) == ["m0", "n1"]
    [next_id] = await store.append(conversation_id, message("n2"))
    assert await texts(store, conversation_id) == ["m0", "n1", "n2"]
    for item_id, expected in ((ids[2], ["m0", "m1", "m2"]), (ids[3], ["m0", "m1", "m2", "m3"])):
        moved = await store.post(f"{conversation_id}/head", item=item_id)
        assert (moved.status_code, moved.json()["id"]) == (200, conversation_id)
        assert await texts(store, conversation_id) == expected
    await store.append(conversation_id, message("p4"), message("p5"))
    assert await texts(store, conversation_id) == ["m0", "m1", "m2", "m3", "p4", "p5"]
    await revise(store, conversation_id, ids[0], "q0")
    assert await texts(store, conversation_id) == ["q0"]
    await store.post(f"{conversation_id}/head", item=next_id)
    assert await texts(store, conversation_id) == ["m0", "n1", "n2"]
    await store.api.delete(f"/v1/conversations/{conversation_id}/items/{next_id}")
    assert await texts(store, conversation_id) == ["m0", "n1"]
    await store.append(conversation_id, message("n3"))
    assert await texts(store, conversation_id) == ["m0", "n1", "n3"]


async def test_revisions_and_moves_obey_if_match_and_idempotency_keys(
    store: Store,
) -> None:
    conversation_id = await create_conversation(store.api)
    [first, _] = await store.append(conversation_id, message("a"), message("b"))
    once = {"Idempotency-Key": mint("key")}
    answers = [await revise(store, conversation_id, first, "c", **once) for _ in range(2)]
    assert answers[0] == answers[1]
    assert (await revise(store, conversation_id, first, "d", **once))[0] == 422
    assert (await revise(store, conversation_id, first, "d", **{"If-Match": '"3"'}))[0] == 412
    path = f"/v1/conversations/{conversation_id}/head"
    moved = await store.api.post(path, json={"item": first}, headers={"If-Match": '"3"'})
    assert moved.status_code == 412
    version = (await store.post(f"{conversation_id}/head", item=first)).headers["etag"]
    assert (await store.post(f"{conversation_id}/head", item=first)).headers["etag"] == version


async def test_invalid_revisions_and_moves_are_refused(
    store: Store,
) -> None:
    conversation_id, other_id = [await create_conversation(store.api) for _ in range(2)]
    [item_id, retracted_id] = await store.append(conversation_id, message("a"), message("b"))
    [foreign_id] = await store.append(other_id, message("c"))
    await store.api.delete(f"/v1/conversations/{conversation_id}/items/{retracted_id}")
    for missing in (foreign_id, retracted_id, mint("msg")):
        assert (await revise(store, conversation_id, missing, "x"))[0] == 404
        assert (await store.post(f"{conversation_id}/head", item=missing)).status_code == 404
    bodies: list[Any] = [
        {},
        {"item": None},
        {"item": 7},
        {"item": "\0"},
        {"item": "x" * 9_000},
        {"item": item_id, "more": 1},
        [],
    ]
    for body in bodies:
        answer = await store.api.post(f"/v1/conversations/{conversation_id}/head", json=body)
        assert answer.status_code == 400, (body, answer.text)
    for body in ({}, {"item": "text"}, {"item": {"type": "message"}}, {"items": [message("x")]}):
        answer = await store.api.post(f"/v1/conversations/{conversation_id}/items/{item_id}", json=body)
        assert answer.status_code == 400, (body, answer.text)
    assert error_of(await store.post(f"{conversation_id}/head", item="msg_1")) == (400, "invalid_id", "item")
    assert (await revise(store, conversation_id, "msg_1", "x"))[0] == 400
    await store.post(f"{conversation_id}/end")
    assert (await revise(store, conversation_id, item_id, "x"))[0] == 409
    assert (await store.post(f"{conversation_id}/head", item=item_id)).status_code == 409
    assert await texts(store, conversation_id) == ["a"]


async def test_a_repeat_gets_the_first_answer_although_the_item_is_deleted(store: Store) -> None:
    conversation_id = await create_conversation(store.api)
    [first, second] = await store.append(conversation_id, message("a"), message("b"))
    revise_once, move_once = [{"Idempotency-Key": mint("key")} for _ in range(2)]
    status, new = await revise(store, conversation_id, second, "c", **revise_once)
    head = f"/v1/conversations/{conversation_id}/head"
    moved = await store.api.post(head, json={"item": second}, headers=move_once)
    await store.api.delete(f"/v1/conversations/{conversation_id}/items/{second}")
    assert await revise(store, conversation_id, second, "c", **revise_once) == (status, new)
    repeat = await store.api.post(head, json={"item": second}, headers=move_once)
    assert (repeat.json(), repeat.headers["idempotent-replayed"]) == (moved.json(), "true")
    assert (await store.api.post(head, json={"item": first}, headers=move_once)).status_code == 422
    assert await texts(store, conversation_id) == ["a"]


async def test_a_revised_approval_is_linked_to_its_request(store: Store) -> None:
    conversation_id = await create_conversation(store.api)
    call = {"type": "mcp_approval_request", "server_label": "s", "name": "n", "arguments": "{}"}
    [request_id] = await store.append(conversation_id, {**call, "id": "mcpr_a"})
    approval = {"type": "mcp_approval_response", "approval_request_id": "mcpr_a", "approve": True}
    [approval_id] = await store.append(conversation_id, approval)
    path = f"/v1/conversations/{conversation_id}/items/{approval_id}"
    new = (await store.api.post(path, json={"item": {**approval, "approve": False}})).json()
    assert (new["approval_request_id"], new["approve"]) == (request_id, False)


async def test_a_retraction_on_one_branch_withdraws_a_summary_on_another(
    store: Store, provider: ScriptedProvider
) -> None:
    conversation_id = await create_conversation(store.api)
    ids = await store.append(conversation_id, *talk(40))
    await revise(store, conversation_id, ids[-1], "another end")
    await compact(store, provider, conversation_id, "Of tea.")
    assert "Of tea." in str(await texts(store, conversation_id))
    _, early = await revise(store, conversation_id, ids[1], "another beginning")
    assert "Of tea." not in str(await texts(store, conversation_id))
    await store.post(f"{conversation_id}/head", item=ids[-1])
    assert "Of tea." in str(await texts(store, conversation_id))
    await retract(store, conversation_id, early["id"])
    assert "Of tea." not in str(await texts(store, conversation_id))
    assert (await store.post(f"{conversation_id}/compact/undo")).status_code == 409


async def test_a_fork_can_revise_inherited_items_without_changing_its_origin(
    store: Store,
) -> None:
    origin = await create_conversation(store.api)
    ids = await store.append(origin, *(message(f"m{number}") for number in range(3)))
    fork = (await store.post(f"{origin}/fork")).json()["id"]
    status, new = await revise(store, fork, ids[1], "n1")
    assert (status, await texts(store, fork)) == (200, ["m0", "n1"])
    await store.append(fork, message("n2"))
    assert (await store.post(f"{fork}/head", item=ids[1])).status_code == 200
    assert await texts(store, fork) == ["m0", "m1"]
    await store.append(fork, message("p2"))
    assert await texts(store, fork) == ["m0", "m1", "p2"]
    grandchild = (await store.post(f"{fork}/fork")).json()["id"]
    await revise(store, grandchild, ids[0], "q0")
    assert await texts(store, grandchild) == ["q0"]
    await retract(store, grandchild, ids[1])
    assert (await store.post(f"{grandchild}/items/{ids[1]}/restore")).status_code == 200
    await store.post(f"{grandchild}/head", item=ids[1])
    assert await texts(store, grandchild) == ["m0", "m1"]
    for gone in (ids[2], new["id"]):
        assert (await revise(store, grandchild, gone, "x"))[0] == 404
        assert (await store.post(f"{grandchild}/head", item=gone)).status_code == 404
    await retract(store, fork, ids[1])
    assert await texts(store, fork) == ["m0", "p2"]
    assert (await revise(store, fork, ids[1], "x"))[0] == 404
    assert (await store.post(f"{fork}/items/{ids[1]}/restore")).status_code == 200
    assert (await revise(store, fork, ids[1], "r1"))[0] == 200
    await retract(store, origin, ids[0])
    assert await texts(store, fork) == ["r1"]
    assert (await revise(store, fork, ids[0], "x"))[0] == 404
    assert await texts(store, origin) == ["m1", "m2"]
