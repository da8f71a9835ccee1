"""GET /v1/search: what is found, in which order, and where in the text."""

from typing import Any

import httpx

from domain.commands import RetractItem, ReviseItem, ShareConversation, UnshareConversation
from domain.conversation import KnownItem
from domain.events import Fork, Leaf, PathBranch, Share
from infrastructure.access.principal import Scope
from infrastructure.ids import mint_in_partition_of
from infrastructure.settings import Settings
from tests.principals import HeaderAuthenticator, headers_of
from tests.queries.conftest import open_api
from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer, new_items


async def found(api: httpx.AsyncClient, q: str, **parameters: Any) -> list[str]:
    """The snippets, best first, with the matches in brackets."""
    answer = await api.get("/v1/search", params={"q": q, **parameters})
    assert answer.status_code == 200, answer.text
    return [_marked(hit) for hit in answer.json()["data"]]


def _marked(hit: dict[str, Any]) -> str:
    text = hit["snippet"]
    for start, end in reversed(hit["highlights"]):
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return str(text)


async def test_words_phrases_and_prefixes_are_found_without_excluded_parts(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    await write.start("I drink green tea", "Tea that is green", "Greenland has no tea", "Green milk tea", "Don't!")
    await projector.catch_up()
    assert await found(api, "green TEA") == ["[Green] milk [tea]", "[Tea] that is [green]", "I drink [green] [tea]"]
    assert await found(api, '"green tea"') == ["I drink [green tea]"]
    assert await found(api, "green tea -milk -drink") == ["[Tea] that is [green]"]
    assert await found(api, 'tea -"green tea"') == ["Green milk [tea]", "Greenland has no [tea]", "[Tea] that is green"]
    assert sorted(await found(api, "gree* tea")) == sorted(
        ["[Gree]n milk [tea]", "[Tea] that is [gree]n", "[Gree]nland has no [tea]", "I drink [gree]n [tea]"]
    )
    assert await found(api, "don't") == ["[Don't]!"]
    assert await found(api, "coffee") == await found(api, "green coffee") == await found(api, "coff*") == []


async def test_a_hit_names_its_item_and_filters_choose_among_the_hits(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    response_id, question = await write.request_reply(conversation_id, "Which tea is best?")
    [answer] = await write.complete_reply(conversation_id, response_id, question, "Green tea is best.", model="smol-1")
    other = await write.start("Tea for two")
    await projector.catch_up()
    page = (await api.get("/v1/search", params={"q": "best"})).json()
    [best, first] = sorted(page["data"], key=lambda hit: hit["role"])
    position = (await api.get("/v1/projections")).json()["data"][0]["position"]
    assert page | {"data": []} == {
        "object": "list",
        "data": [],
        "position": position,
        "has_more": False,
        "next_cursor": None,
    }
    assert best == {
        "object": "search.hit",
        "conversation": conversation_id,
        "item": answer.item_id,
        "branch": 0,
        "leaf": answer.item_id,
        "role": "assistant",
        "created_at": best["created_at"],
        "snippet": "Green tea is best.",
        "highlights": [[13, 17]],
        "score": best["score"],
    }
    assert (first["item"], first["leaf"]) == (question[0].item_id, answer.item_id)
    now = best["created_at"]
    for parameters, expected in (
        ({"role": "assistant"}, 1),
        ({"role": "system"}, 0),
        ({"model": "smol-1"}, 1),
        ({"author": "someone"}, 1),
        ({"author": "nobody"}, 0),
        ({"conversation": other}, 1),
        ({"since": now - 100, "until": now + 100}, 3),
        ({"since": now + 100}, 0),
        ({"until": now - 100}, 0),
    ):
        assert len(await found(api, "tea", **parameters)) == expected, parameters


async def test_a_hit_names_a_leaf_whose_path_has_the_item(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start()
    first, second, third = await write.append(conversation_id, "tea one", "tea two", "tea three")
    [revised] = new_items(["tea revised"])
    after_first = Leaf(first, 1, (PathBranch(0, 1, 2),))
    await write.execute(conversation_id, ReviseItem(item_id=second, item=revised, author="someone", leaf=after_first))
    [last] = await write.append(conversation_id, "the end")
    await projector.catch_up()
    hits = (await api.get("/v1/search", params={"q": "tea"})).json()["data"]
    assert {hit["item"]: hit["leaf"] for hit in hits} == {
        first: last,
        revised.item_id: last,
        second: third,
        third: third,
    }
    await check_leaves(api, hits)
    await write.retract(conversation_id, last)
    await projector.catch_up()
    assert (await api.get("/v1/search", params={"q": "tea"})).json()["data"] == hits
    await check_leaves(api, hits)


async def check_leaves(api: httpx.AsyncClient, hits: list[dict[str, Any]]) -> None:
    for hit in hits:
        path = await api.get(f"/v1/conversations/{hit['conversation']}/items", params={"leaf": hit["leaf"]})
        assert path.status_code == 200, path.text
        assert hit["item"] in {item["id"] for item in path.json()["data"]}


async def test_a_hit_names_an_existing_leaf_after_the_last_item_is_deleted(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    origin = await write.start()
    ids = await write.append(origin, "heron one", "heron two")
    middle, fork = mint_in_partition_of(origin), mint_in_partition_of(origin)
    begin = Fork(conversation_id=origin, item_id=ids[1], version=3, depth=2)
    await write.start(conversation_id=middle, forked_from=begin, family=origin)
    [last] = await write.append(middle, "the end")
    begin = Fork(conversation_id=middle, item_id=last, version=2, depth=3)
    await write.start(conversation_id=fork, forked_from=begin, family=origin)
    search = {"q": "heron", "conversation": fork}
    for is_deleted in (False, True):
        if is_deleted:
            await write.delete(middle)
        await projector.catch_up()
        hits = (await api.get("/v1/search", params=search)).json()["data"]
        assert {hit["item"]: hit["leaf"] for hit in hits} == {each: each if is_deleted else last for each in ids}
        await check_leaves(api, hits)


async def test_each_of_many_matches_is_found_once_through_pages(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("Greenland one", "Greenland two")
    for number in range(7):
        await write.append(conversation_id, *(f"green tea {300 * number + each}" for each in range(300)))
    await write.append(conversation_id, "Greenland three")
    await projector.catch_up()

    async def pages(**parameters: Any) -> list[list[str]]:
        found: list[list[str]] = []
        while True:
            page = (await api.get("/v1/search", params=parameters)).json()
            found.append([hit["snippet"] for hit in page["data"]])
            if not page["has_more"]:
                return found
            parameters["after"] = page["next_cursor"]

    of_prefix = await pages(q="greenl*", limit=2)
    assert of_prefix == [["Greenland three", "Greenland two"], ["Greenland one"]]
    of_words = await pages(q="tea green", limit=100)
    assert sorted(snippet for page in of_words for snippet in page) == sorted(
        f"green tea {number}" for number in range(2_100)
    )
    assert of_words[0] == [f"green tea {number}" for number in reversed(range(2_000, 2_100))]


async def test_a_cursor_continues_only_its_own_search(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start(*(f"tea {'x ' * number}" for number in range(7)))
    await projector.catch_up()
    parameters: dict[str, Any] = {"q": "tea", "limit": 3}
    items: list[str] = []
    first_cursor = None
    while True:
        page = (await api.get("/v1/search", params=parameters)).json()
        items += [hit["item"] for hit in page["data"]]
        first_cursor = first_cursor or page["next_cursor"]
        if not page["has_more"]:
            break
        parameters["after"] = page["next_cursor"]
        await write.append(conversation_id, "tea")  # newer matches do not move the pages
        await projector.catch_up()
    assert len(items) == len({*items}) == 7
    for wrong in (
        {"q": "other", "after": first_cursor},
        {"q": "tea", "role": "user", "after": first_cursor},
        {"q": "tea", "after": "WyJhIiwgWzFdXQ"},
        {"q": "tea", "after": "é" * 9},
        {"q": "tea", "after": "A" * 10_000},
    ):
        answer = await api.get("/v1/search", params=wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_cursor"), wrong


async def test_wrong_queries_are_refused_and_odd_queries_are_answered(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    await write.start("a $where {$gt: 1} .* b")
    await projector.catch_up()
    for q in (
        "",
        " ",
        "\0",
        "-a",
        '-"a b" -c',
        "***",
        "- -- *",
        '"',
        '"a',
        "x" * 1_001,
        "x " * 5_000,
        "a " + "-b" * 600,
    ):
        answer = await api.get("/v1/search", params={"q": q})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_query", "q"), q[:20]
    for parameters in ("", "?q=a&limit=0", "?q=a&since=x", "?q=a&role=tool", "?q=a&y=1"):
        assert (await api.get(f"/v1/search{parameters}")).status_code == 400, parameters
    wrong_id = await api.get("/v1/search", params={"q": "a", "conversation": "conv_1"})
    assert (wrong_id.status_code, wrong_id.json()["error"]["param"]) == (400, "conversation")
    for q in ("a", "$where", "{$gt: 1}", "a .*", "a*", "a -", "“a”", "where\0gt"):
        assert len(await found(api, q)) == 1, q


async def test_deleted_and_unshared_items_are_not_found_while_the_view_is_behind(
    settings: Settings, write: Writer, projector: ManualProjector
) -> None:
    async with open_api(settings, authenticator=HeaderAuthenticator()) as api:
        ann = write.for_subject("ann")
        kept, shared, deleted = [await ann.start(f"platypus {name}") for name in ("kept", "shared", "deleted")]
        [gone] = await ann.append(kept, "platypus gone")
        for conversation_id in (kept, shared):
            await ann.execute(conversation_id, ShareConversation(share=Share(role="reader", subject="eve")))
        await write.for_tenant("other").start("platypus of another tenant")
        await projector.catch_up()

        async def found_by(subject: str, *scopes: Scope, tenant: str = "default") -> set[str]:
            headers = headers_of(subject, *scopes, tenant=tenant)
            answer = await api.get("/v1/search", params={"q": "platypus"}, headers=headers)
            return {hit["snippet"].removeprefix("platypus ") for hit in answer.json()["data"]}

        assert await found_by("ann") == await found_by("root", "admin") == {"kept", "shared", "deleted", "gone"}
        assert await found_by("eve") == {"kept", "shared", "gone"}
        assert await found_by("ben") == await found_by("ann", tenant="third") == set()
        await ann.retract(kept, gone)
        await ann.execute(shared, UnshareConversation(subject="eve"))
        await ann.delete(deleted)
        for catch_up in (False, True):
            if catch_up:
                await projector.catch_up()
            assert await found_by("ann") == await found_by("root", "admin") == {"kept", "shared"}
            assert await found_by("eve") == {"kept"}
        unseen = await api.get("/v1/search", params={"q": "a", "conversation": shared}, headers=headers_of("eve"))
        assert unseen.status_code == 404


async def test_an_inherited_item_is_found_through_a_fork(
    settings: Settings, write: Writer, projector: ManualProjector
) -> None:
    async with open_api(settings, authenticator=HeaderAuthenticator()) as api:
        ann, eve = write.for_subject("ann"), write.for_subject("eve")
        origin = await ann.start()
        ids = await ann.append(origin, "heron one", "heron two", "heron three")
        await ann.execute(origin, ShareConversation(share=Share(role="reader", subject="eve")))
        fork = mint_in_partition_of(origin)
        begin = Fork(conversation_id=origin, item_id=ids[1], version=5, depth=2)
        await eve.start(conversation_id=fork, forked_from=begin, family=origin)
        grandchild = mint_in_partition_of(origin)
        begin = Fork(conversation_id=fork, item_id=ids[1], version=1, depth=2)
        await eve.start("heron four", conversation_id=grandchild, forked_from=begin, family=origin)
        await eve.execute(grandchild, ShareConversation(share=Share(role="reader", subject="ben")))

        async def hits(subject: str, *scopes: Scope, tenant: str = "default", **query: str) -> dict[str, str]:
            headers = headers_of(subject, *scopes, tenant=tenant)
            answer = await api.get("/v1/search", params={"q": "heron", **query}, headers=headers)
            assert answer.status_code == 200, answer.text
            for hit in answer.json()["data"] if views_are_current else ():
                path = f"/v1/conversations/{hit['conversation']}/items?leaf={hit['leaf']}"
                listed = (await api.get(path, headers=headers)).json()["data"]
                assert (hit["item"] in [item["id"] for item in listed], hit["branch"]) == (True, 0)
            return {hit["snippet"].removeprefix("heron "): hit["conversation"] for hit in answer.json()["data"]}

        all_of_origin = dict.fromkeys(("one", "two", "three"), origin)
        own = {"four": grandchild}
        await projector.catch_up()
        views_are_current = True
        assert await hits("ann") == all_of_origin
        assert await hits("eve") == all_of_origin | own
        assert await hits("ben") == {"one": grandchild, "two": grandchild, **own}
        assert await hits("eve", conversation=grandchild) == {"one": grandchild, "two": grandchild, **own}
        assert await hits("eve", conversation=fork) == {"one": fork, "two": fork}
        assert await hits("eve", conversation=origin) == all_of_origin
        assert await hits("root", "admin") == all_of_origin | own
        assert await hits("root", "admin", conversation=fork) == {"one": fork, "two": fork}
        assert await hits("dan") == await hits("eve", tenant="other") == {}
        views_are_current = False
        await ann.execute(origin, UnshareConversation(subject="eve"))
        assert await hits("eve") == {"one": grandchild, "two": grandchild, **own}
        await projector.catch_up()
        assert await hits("eve") == {"one": grandchild, "two": grandchild, **own}
        # The hidden item is now found through the other fork.
        hidden = RetractItem(item_id=ids[0], inherited=KnownItem(depth=1, inherited=True))
        await eve.execute(grandchild, hidden)
        assert await hits("eve") == {"one": fork, "two": grandchild, **own}
        assert await hits("ben") == await hits("eve", conversation=grandchild) == {"two": grandchild, **own}
        await ann.retract(origin, ids[1])
        assert await hits("eve") == {"one": fork, **own}
        await eve.execute(fork, hidden)
        assert await hits("eve") == await hits("ben") == own
        assert await hits("ann") == {"one": origin, "three": origin}


async def test_a_search_waits_only_for_the_position_in_its_header(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    conversation_id = await write.start("tea")
    await projector.catch_up()
    before = (await api.get("/v1/search", params={"q": "tea"})).json()
    await write.append(conversation_id, "tea")
    unchanged = await api.get("/v1/search", params={"q": "tea"})
    assert unchanged.json() == before
    behind = await api.get("/v1/search", params={"q": "tea"}, headers={"X-Min-Position": str(before["position"] + 1)})
    assert (behind.status_code, behind.json()["error"]["code"]) == (503, "read_models_behind")
    await projector.catch_up()
    now = (await api.get("/v1/search", params={"q": "tea"})).json()
    assert (len(now["data"]), now["position"] > before["position"]) == (2, True)


async def test_a_snippet_is_the_part_with_the_matches(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    await write.start(f"{'lorem ipsum ' * 50}Zürich is naïve {'dolor sit ' * 50}", "\U0001f44d\U0001f3fd 東京都に行く")
    await projector.catch_up()
    [long] = await found(api, "ZURICH naive")
    assert "[Zürich] is [naïve]" in long
    assert (long[0], long[-1], len(long) < 210) == ("…", "…", True)
    assert await found(api, "京都") == ["\U0001f44d\U0001f3fd 東[京都]に行く"]
