"""Lists of conversations for a sidebar."""

import time
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import httpx
import pytest

from domain.commands import DescribeConversation, ShareConversation
from domain.events import InputItem, Share
from infrastructure.event_log.log import EventLog
from infrastructure.ids import mint
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from projections.views.list_terms import FIRST_VERSION_WITH_TERMS
from tests.access.apis_as import ADMIN, TENANT, Apis, open_apis, projecting, user
from tests.queries.branched_conversation import BranchedConversation
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer, new_items

ANN, BOB, ROOT = user("ann"), user("bob"), user("root", scopes=ADMIN)


async def page(api: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await api.get("/v1/conversations", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ids(listed: dict[str, Any]) -> list[str]:
    return [conversation["id"] for conversation in listed["data"]]


async def shown(api: httpx.AsyncClient, conversation_id: str) -> dict[str, Any]:
    """Returns the conversation. It must be the same alone and in a list."""
    listed = {entry["id"]: entry for entry in (await page(api, limit=100, order_by="activity"))["data"]}
    alone: dict[str, Any] = (await api.get(f"/v1/conversations/{conversation_id}")).json()
    assert alone == listed[conversation_id]
    return alone


@pytest.fixture
async def apis(settings: Settings) -> AsyncIterator[Apis]:
    async with open_apis(settings) as apis, projecting(apis.projector):
        yield apis


@pytest.fixture
async def writer(settings: Settings) -> AsyncIterator[Writer]:
    log = EventLog(settings.postgres_url, Metrics())
    log.open()
    yield Writer(log, TENANT, "ann")
    await log.close()


async def test_a_list_shows_what_a_sidebar_needs(api: httpx.AsyncClient, write: Writer, live: ManualProjector) -> None:
    before = int(time.time())
    conversation = await write.start("How is \n the weather? " + "x" * 100, title="Weather", owner="ann")
    response, question = await write.request_reply(conversation, "And in Oslo?")
    waiting = await shown(api, conversation)
    [answer] = await write.complete_reply(conversation, response, question, "It rains.")
    answered = await shown(api, conversation)

    assert {name: waiting[name] for name in ("owner", "title", "archived", "item_count")} == {
        "owner": "ann",
        "title": "Weather",
        "archived": False,
        "item_count": 1,
    }
    assert waiting["first_text"] == waiting["last_text"] == ("How is the weather? " + "x" * 60)
    assert (waiting["running_response"], answered["running_response"]) == (response, None)
    assert (answered["item_count"], answered["last_text"]) == (3, "It rains.")
    assert before <= answered["created_at"] <= answered["updated_at"] <= time.time()
    empty = await shown(api, await write.start())
    names = ("title", "item_count", "first_text", "last_text", "running_response")
    assert [empty[name] for name in names] == [None, 0, None, None, None]

    await write.retract(conversation, answer.item_id)
    retracted = await shown(api, conversation)
    assert (retracted["item_count"], retracted["last_text"]) == (2, "And in Oslo?")
    items = (await api.get(f"/v1/conversations/{conversation}/items", params={"order": "asc"})).json()["data"]
    await write.retract(conversation, items[0]["id"])
    retracted = await shown(api, conversation)
    assert (retracted["first_text"], retracted["last_text"]) == ("And in Oslo?", "And in Oslo?")
    await write.retract(conversation, items[1]["id"])
    retracted = await shown(api, conversation)
    assert (retracted["item_count"], retracted["first_text"], retracted["last_text"]) == (0, None, None)


async def test_a_list_hides_the_text_of_a_copy_whose_original_is_deleted(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    origin = await write.start()
    [original] = await write.append(origin, "A secret")
    conversation = await write.start()
    response, _ = await write.request_reply(conversation)
    copy = InputItem(item_id=mint("msg"), item=new_items(["A secret"])[0].item, copy_of=original)
    await write.complete_reply(conversation, response, (copy,), "Thanks.")
    assert (await shown(api, conversation))["first_text"] == "A secret"
    assert "no-store" in (await api.get(f"/v1/conversations/{conversation}")).headers["cache-control"]

    await write.retract(origin, original)

    assert (await shown(api, conversation))["first_text"] is None
    assert "secret" not in (await api.get("/v1/conversations")).text


async def test_first_and_last_text_come_from_the_active_path(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    random = Random(7)
    branched = BranchedConversation(write, await write.start())
    other = await write.start("other")
    for step in range(30):
        if step == 12:
            await branched.revise(
                branched.path_to(branched.head(branched.version), branched.version)[0], "another first"
            )
        else:
            await branched.do_something(random)
        items = (await api.get(f"/v1/conversations/{branched.id}/items?order=asc&limit=100")).json()["data"]
        texts = [item["content"][0]["text"] for item in items]
        conversation = await shown(api, branched.id)
        assert (conversation["first_text"], conversation["last_text"]) == (texts[0], texts[-1])
        assert conversation["item_count"] == sum(node.exists(branched.version) for node in branched.nodes.values())
        assert ids(await page(api, order_by="activity")) == [branched.id, other]
    assert len({node.branch for node in branched.nodes.values()}) > 5


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_by_activity_neither_skip_nor_repeat_unchanged_conversations(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector, order: str
) -> None:
    started = [await write.start(str(number)) for number in range(14)]
    for number in range(14):
        await write.append(started[number * 5 % 14], "more")
    expected = [started[number * 5 % 14] for number in range(14)]
    if order == "desc":
        expected.reverse()
    query = {"order_by": "activity", "order": order, "limit": 4}
    assert ids(await page(api, **query | {"limit": 100})) == expected
    changed = {expected[3], expected[4], expected[11]}

    forwards = [await page(api, **query)]
    await write.append(expected[3], "changes on the page that was read")
    await write.append(expected[11], "changes on a page that comes later")
    while forwards[-1]["next_cursor"]:
        forwards.append(await page(api, **query, after=forwards[-1]["next_cursor"]))
    seen = [entry for each in forwards for entry in ids(each) if entry not in changed]
    assert seen == [entry for entry in expected if entry not in changed]
    assert [each["has_more"] for each in forwards] == [True] * (len(forwards) - 1) + [False]
    assert forwards[0]["previous_cursor"] is None

    backwards = [forwards[-1]]
    await write.append(expected[4], "changes while we page backwards")
    while backwards[-1]["previous_cursor"]:
        backwards.append(await page(api, **query, before=backwards[-1]["previous_cursor"]))
    seen = [entry for each in reversed(backwards) for entry in ids(each) if entry not in changed]
    assert seen == [entry for entry in expected if entry not in changed]
    next_page = await page(api, **query, after=backwards[-1]["next_cursor"])
    assert not {*ids(next_page)} & {*ids(backwards[-1])}


async def test_an_unsuitable_cursor_or_parameter_is_refused_and_named(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector
) -> None:
    started = [await write.start(title="A trip", metadata={"a": "b"}) for _ in range(3)]
    cursor = (await page(api, limit=1))["next_cursor"]
    by_activity = (await page(api, limit=1, order_by="activity", title="Trip"))["next_cursor"]

    assert ids(await page(api, after=cursor, limit=1)) == [started[1]]
    assert ids(await page(api, after=by_activity, order_by="activity", title="Trip")) == started[1::-1]
    refused: list[tuple[dict[str, Any], str, str]] = [
        ({"after": cursor, "order": "asc"}, "invalid_cursor", "after"),
        ({"after": cursor, "order_by": "activity"}, "invalid_cursor", "after"),
        ({"before": cursor, "owner": "someone"}, "invalid_cursor", "before"),
        ({"after": cursor, "metadata[a]": "b"}, "invalid_cursor", "after"),
        ({"after": cursor, "since": 5}, "invalid_cursor", "after"),
        ({"after": by_activity, "order_by": "activity"}, "invalid_cursor", "after"),
        ({"after": started[0], "order_by": "activity"}, "invalid_cursor", "after"),
        ({"after": "cursor_"}, "invalid_cursor", "after"),
        ({"after": "cursor_%00é"}, "invalid_cursor", "after"),
        ({"before": cursor[:-3]}, "invalid_cursor", "before"),
        ({"after": "nonsense"}, "invalid_id", "after"),
        ({"title": "…"}, "invalid_value", "title"),
        ({"since": "yesterday"}, "invalid_value", "since"),
        ({"until": 10**15}, "invalid_value", "until"),
        ({"order_by": "title"}, "invalid_value", "order_by"),
        ({"archived": "perhaps"}, "invalid_value", "archived"),
    ]
    for query, code, param in refused:
        answer = await api.get("/v1/conversations", params=query)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param), query


async def test_a_list_is_filtered_by_title_and_time(
    api: httpx.AsyncClient, write: Writer, live: ManualProjector, projector: ManualProjector
) -> None:
    cafe = await write.start("x", title="Le CAFÉ de la Straße")
    tokyo = await write.start("x", title="東京 trip: what to see?")
    plain = await write.start("x", title="Plain trip")
    await write.start("x")

    for title, expected in (
        ("cafe", [cafe]),
        ("STRASSE café", [cafe]),
        ("trip", [plain, tokyo]),
        ("trip plain", [plain]),
        ("tri", []),
        ("東京", [tokyo]),
        ("京", [tokyo]),
        ("京都", []),
        ("東", [tokyo]),
    ):
        for order_by in ("created", "activity"):
            assert ids(await page(api, title=title, order_by=order_by)) == expected, title
    await write.execute(plain, DescribeConversation(title="Another"))
    assert ids(await page(api, title="trip")) == [tokyo]

    long_ago = 1_000_000 * int(time.time() - 1000)
    await projector.catch_up()
    await projector.views["conversations"].update_one(
        {"id": tokyo}, {"$set": {"activity": f"{long_ago:016x}{tokyo[5:]}", "updated_at": long_ago}}
    )
    now, second = int(time.time()), long_ago // 1_000_000
    for since, until, expected in (
        (second, second + 1, [tokyo]),
        (second + 1, now + 5, [plain, cafe]),
        (now + 5, None, []),
        (None, second, []),
    ):
        bounds = {name: value for name, value in (("since", since), ("until", until)) if value is not None}
        found = ids(await page(api, order_by="activity", **bounds))
        assert [entry for entry in found if entry in (cafe, tokyo, plain)] == expected
    assert len(ids(await page(api, since=now - 30, until=now + 30))) == 4
    assert ids(await page(api, since=now - 30, until=now - 20)) == ids(await page(api, until=0)) == []
    first = await page(api, since=now - 30, limit=3)
    assert len(ids(await page(api, since=now - 30, limit=3, after=first["next_cursor"]))) == 1
    assert ids(await page(api, until=now - 20, after=cafe)) == []


async def test_a_list_is_filtered_by_owner_and_by_shares(apis: Apis, writer: Writer) -> None:
    own = await apis.create(ANN, "Ann's")
    with_bob = await apis.create(ANN, "Ann's, and Bob reads it")
    with_all = await apis.create(ANN, "Ann's, and all read it")
    of_bob = await apis.create(BOB, "Bob's")
    await writer.execute(with_bob, ShareConversation(share=Share(role="reader", subject="bob")))
    await writer.execute(with_all, ShareConversation(share=Share(role="reader", subject="bob")))
    await writer.execute(with_all, ShareConversation(share=Share(role="reader")))
    everything = [of_bob, with_all, with_bob, own]

    for principal, query, expected in (
        (BOB, {}, [of_bob, with_all, with_bob]),
        (BOB, {"shared": "true"}, [with_all, with_bob]),
        (BOB, {"shared": "false"}, [of_bob]),
        (BOB, {"owner": "ann"}, [with_all, with_bob]),
        (BOB, {"owner": "bob"}, [of_bob]),
        (BOB, {"owner": "bob", "shared": "true"}, []),
        (BOB, {"owner": "ann", "shared": "false"}, []),
        (ANN, {"shared": "true"}, []),
        (ANN, {"shared": "false"}, [with_all, with_bob, own]),
        (ANN, {"owner": "bob"}, []),
        (ROOT, {}, everything),
        (ROOT, {"owner": "bob"}, [of_bob]),
        (ROOT, {"shared": "true"}, [with_all]),
        (ROOT, {"shared": "false"}, []),
        (user("ann", "other"), {}, []),
    ):
        for order_by in ("created", "activity"):
            listed = await apis.listed(principal, **query, order_by=order_by, limit="50")
            wanted = expected
            if order_by == "activity":
                wanted = [entry for entry in (with_all, with_bob, of_bob, own) if entry in expected]
            assert listed == wanted, (principal.subject, query)
    await apis.post(ANN, f"/v1/conversations/{with_bob}/items", {"items": [{"role": "user", "content": "Hidden?"}]})
    assert (await apis.get(BOB, "/v1/conversations?order_by=activity")).json()["data"][0]["last_text"] == "Hidden?"
    of_eve = (await apis.get(user("eve"), "/v1/conversations?order_by=activity")).json()["data"]
    assert [entry["first_text"] for entry in of_eve] == ["Ann's, and all read it"]


async def test_a_view_of_an_older_version_gives_the_same_lists_except_by_title(apis: Apis, writer: Writer) -> None:
    titled = await apis.create(ANN, "Hello", metadata={"team": "7"}, title="Tokyo")
    of_bob = await apis.create(BOB, "Hello", metadata={"team": "8"})
    await writer.execute(of_bob, ShareConversation(share=Share(role="reader", subject="ann")))
    await apis.create(BOB, "Hello")
    queries = (
        "",
        "?owner=bob",
        "?shared=true",
        "?shared=false",
        "?metadata[team]=7",
        "?order_by=activity&archived=false",
    )

    async def listed() -> list[list[str]]:
        return [
            ids((await apis.get(who, f"/v1/conversations{query}")).json()) for who in (ANN, ROOT) for query in queries
        ]

    before = await listed()
    assert before[0] == [of_bob, titled]
    await apis.projector.views["conversations"].update_many({}, {"$unset": {"lists": 1}})
    of_view = {"view": "conversations"}
    await apis.projector.views["projections"].update_many(of_view, {"$set": {"version": FIRST_VERSION_WITH_TERMS - 1}})
    assert await listed() == before
    answer = await apis.get(ANN, "/v1/conversations?title=Tokyo")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "read_models_behind")
