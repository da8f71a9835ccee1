"""Every route that needs a credential answers every kind of sender with the status in `matrix_rows.py`."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

import commands.main
import queries.main
from infrastructure.http.door import OPEN_PATHS
from infrastructure.http.openapi import DescribedRoute
from infrastructure.http.served_paths import SERVED
from infrastructure.settings import Settings
from tests.access.matrix_rows import READERS, ROWS, SENDERS, Row
from tests.access.matrix_store import ROLES, WORD, MatrixStore, Target, open_matrix_store, socket_answers, without
from tests.log import Log
from tests.scripted_provider import ScriptedProvider, scripted_provider

MODULES = (*commands.main.RESOURCES, *queries.main.RESOURCES)
STRANGERS = ("other tenant", "other user")
TARGETS_AT_ONCE = 8

MADE_UP = Target(*(f"{kind}{'0' * 32}" for kind in ("conv_", "msg_", "resp_", "chatcmpl-", "key_", "file-")))
"""A sender who may not see a target must get the same answer as for these ids."""

VARIANTS: dict[str, list[dict[str, str]]] = {
    "GET": [{"If-None-Match": "*"}, {"Accept": "text/event-stream"}, {"X-Min-Position": "1"}],
    "POST": [{"If-Match": '"1"'}, {"Idempotency-Key": "k"}],
    "DELETE": [{"If-Match": '"1"'}, {"Idempotency-Key": "k"}],
}
"""Headers that must not change a refusal."""


def routes() -> dict[tuple[str, str], DescribedRoute]:
    declared = [route for module in MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    described = [route for route in declared if isinstance(route, DescribedRoute)]
    assert len(described) == len(declared)
    return {(method, route.path): route for route in described for method in route.methods or ()}


def test_every_route_that_is_not_open_has_a_row_and_a_scope() -> None:
    served = {
        (method, path) for path, methods in SERVED.items() for method in methods.split() if path not in OPEN_PATHS
    }
    assert set(ROWS) == served == set(routes())
    assert [name for name, route in routes().items() if route.scope is None] == []


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


@pytest.fixture
async def store(settings: Settings, provider: ScriptedProvider) -> AsyncIterator[MatrixStore]:
    async with open_matrix_store(settings, provider) as opened:
        yield opened


def is_refused(sender: str, status: int) -> bool:
    return status in (401, 403, 404) or (status == 400 and sender in STRANGERS)


class Findings:
    def __init__(self) -> None:
        self.found: list[str] = []
        self.checked = 0

    def check(self, what: str, status: int, answer: httpx.Response, *hidden: str) -> None:
        """Notes what is wrong with the answer. An error must have the API's shape and no planted word."""
        self.checked += 1
        if answer.status_code != status:
            self.found.append(f"{what}: {answer.status_code} instead of {status}: {answer.text[:200]}")
        if answer.status_code >= 400:
            hidden = (*hidden, WORD)
            if answer.content and answer.json().keys() != {"error"}:
                self.found.append(f"{what}: not an error of ours: {answer.text[:200]}")
        sent = answer.text + str(answer.headers)
        self.found += [f"{what}: has {text}: {answer.text[:500]}" for text in hidden if text in sent]


def rows() -> Iterator[tuple[str, str, Row]]:
    return ((method, template, row) for (method, template), listed in ROWS.items() for row in listed)


async def test_a_refused_sender_gets_the_right_status_and_changes_nothing(
    store: MatrixStore, settings: Settings
) -> None:
    target, log, findings = await store.new_target(), Log(settings.postgres_url), Findings()
    before = log.count()
    scopes = {name: str(route.scope) for name, route in routes().items()}
    for method, template, row in rows():
        path, arguments = row.request(template, target)
        senders = [(name, authorization, 401) for name, authorization in store.invalid.items()]
        senders += [("missing scope", without(scopes[method, template]), 403)]
        senders += [(name, ROLES[name], status) for name, status in row.by_sender() if is_refused(name, status)]
        for name, authorization, status in senders:
            what = f"{name}: {method} {path}"
            answer = await store.send(method, path, authorization, **arguments)
            findings.check(what, status, answer)
            if name in STRANGERS and "{" in template + str(row.body):
                made_up_path, made_up = row.request(template, MADE_UP)
                unknown = await store.send(method, made_up_path, authorization, **made_up)
                if without_ids(unknown.text) != without_ids(answer.text):
                    findings.found.append(f"{what}: {answer.text} differs from {unknown.text}")
            if (status == 401) != ("www-authenticate" in answer.headers):
                findings.found.append(f"{what}: {answer.headers}")
            if name in STRANGERS or name == "no credential":
                for headers in VARIANTS[method]:
                    varied = await store.send(method, path, authorization, headers=headers, **arguments)
                    findings.check(f"{what} {headers}", status, varied)
            if method == "GET":
                findings.check(f"{what} (HEAD)", status, await store.send("HEAD", path, authorization, **arguments))
    assert findings.found == [], "\n".join(findings.found)
    assert findings.checked > 400
    assert log.count() == before


async def test_an_allowed_sender_gets_the_right_status(store: MatrixStore) -> None:
    cases = [
        (method, template, row, name, status)
        for method, template, row in rows()
        for name, status in row.by_sender()
        if not is_refused(name, status)
    ]
    shared = await store.new_target()
    targets = await new_targets(store, [case[2].once for case in cases], shared)
    findings = Findings()
    for (method, template, row, name, status), target in zip(cases, targets, strict=True):
        path, arguments = row.request(template, target)
        answer = await store.send(method, path, ROLES[name], **arguments)
        hidden = (WORD, *ids_of(shared)) if name in STRANGERS else ()
        findings.check(f"{name}: {method} {path}", status, answer, *hidden)
        if method == "GET" and row.statuses == READERS and row.has_content and WORD not in answer.text:
            findings.found.append(f"{name}: {method} {path}: the planted word is missing: {answer.text[:300]}")
    assert findings.found == [], "\n".join(findings.found)


async def test_a_repeated_idempotency_key_does_not_show_what_another_sender_made(store: MatrixStore) -> None:
    writes = [case for case in rows() if case[0] != "GET" and case[2].statuses[SENDERS.index("owner")] == 200]
    targets = await new_targets(store, [case[2].once for case in writes], await store.new_target())
    findings = Findings()
    for number, ((method, template, row), target) in enumerate(zip(writes, targets, strict=True)):
        path, arguments = row.request(template, target)
        headers = {"Idempotency-Key": f"key-{number}"}
        first = await store.send(method, path, ROLES["owner"], headers=headers, **arguments)
        if first.status_code == 400 and first.json()["error"]["param"] == "Idempotency-Key":
            continue
        findings.check(f"owner: {method} {path}", 200, first)
        for name, status in row.by_sender():
            if name in STRANGERS:
                repeated = await store.send(method, path, ROLES[name], headers=headers, **arguments)
                if "/shares" in path and repeated.status_code == 403:
                    continue
                findings.check(f"{name}: {method} {path}", status, repeated, WORD, "idempotent-replayed")
                created_id = first.json().get("id")
                if created_id and created_id not in path and created_id in repeated.text:
                    findings.found.append(f"{name}: {method} {path}: has the answer of the owner")
    assert findings.found == [], "\n".join(findings.found)


async def test_a_websocket_refuses_and_accepts_the_same_senders_as_a_post(
    store: MatrixStore, settings: Settings
) -> None:
    target, log = await store.new_target(), Log(settings.postgres_url)
    before = log.count()
    create: dict[str, Any] = {"model": "scripted", "input": "hi"}
    for name, authorization in store.invalid.items():
        status, [body] = await socket_answers(store.app, authorization, create)
        assert (status, body["error"]["type"]) == (401, "authentication_error"), name
    for fields in ({"conversation": target.conversation_id}, {"previous_response_id": target.response_id}):
        for name, status in (("other tenant", 404), ("other user", 404), ("missing scope", 403)):
            sender = ROLES.get(name) or without("reply")
            handshake, [event] = await socket_answers(store.app, sender, {**create, **fields})
            refused = 400 if status == 404 and "previous_response_id" in fields else status
            assert (handshake, event["type"], event["status"]) == (101, "error", refused), (name, event)
            assert WORD not in str(event)
    handshake, [event] = await socket_answers(
        store.app, ROLES["reader"], {**create, "conversation": target.conversation_id}
    )
    assert (handshake, event["status"], event["error"]["code"]) == (101, 403, "not_allowed")
    assert log.count() == before
    for name in ("writer", "owner", "admin"):
        handshake, events = await socket_answers(
            store.app, ROLES[name], {**create, "conversation": target.conversation_id}
        )
        assert (handshake, events[-1]["type"]) == (101, "response.completed"), events[-1]


async def new_targets(store: MatrixStore, needed: list[bool], shared: Target) -> list[Target]:
    """A target for each case: a new one if needed, otherwise the shared one."""
    turns = asyncio.Semaphore(TARGETS_AT_ONCE)

    async def new_target() -> Target:
        async with turns:
            return await store.new_target()

    created = iter(await asyncio.gather(*(new_target() for is_needed in needed if is_needed)))
    return [next(created) if is_needed else shared for is_needed in needed]


def without_ids(text: str) -> str:
    return re.sub("[0-9a-f]{32}", "", text)


def ids_of(target: Target) -> tuple[str, ...]:
    return (target.conversation_id, target.item_id, target.response_id)
