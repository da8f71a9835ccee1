"""The table `transcript_prefixes` maps a hash to the item at which a transcript continues."""

import asyncio
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from domain.commands import (
    AppendItems,
    CompleteReply,
    DeleteConversation,
    DeleteReply,
    MoveHead,
    NewItem,
    Prefix,
    RequestReply,
    RestoreItem,
    RetractItem,
    ShareConversation,
    StartConversation,
)
from domain.events import InputItem, ItemRetracted, PathBranch, Share, Shown, Timing, Usage
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.codec import encode
from infrastructure.event_log.log import EventLog
from infrastructure.event_log.migrate import migrate
from infrastructure.event_log.prefix_lookup import MAX_HASHES, MAX_PREFIXES
from infrastructure.event_log.reader import EventReader
from infrastructure.ids import mint, uuid_of
from infrastructure.settings import Settings
from tests.event_log.appending import ANN, append_texts, request, start
from tests.log import Log

BOB = Principal("acme", "bob", frozenset({"read", "write", "reply"}))
ADA = Principal("acme", "ada", BOB.scopes)


def prefix(item_id: str, hashed: str, **fields: Any) -> Prefix:
    return Prefix(item_id=item_id, hash=hashed.encode(), answered=True, **fields)


def append(*hashes: str) -> AppendItems:
    items = [NewItem(item_id=mint("msg"), item=b"{}") for _ in hashes]
    prefixes = tuple(prefix(item.item_id, hashed) for item, hashed in zip(items, hashes, strict=True))
    return AppendItems(items=tuple(items), author="ann", prefixes=prefixes)


async def reply(events: EventLog, conversation_id: str, *hashes: str, start_unlisted: bool = False) -> CompleteReply:
    response_id = mint("resp")
    shown = Shown(version=1, ranges=(), budget=1, tokens=1, encoding="e", renderer=6, request_sha256=b"")
    given = InputItem(item_id=mint("msg"), item=b'{"role": "user", "content": "?"}')
    begin = (
        StartConversation(conversation_id=conversation_id, tenant="acme", owner="ann", listed=False)
        if start_unlisted
        else None
    )
    requested = RequestReply(
        response_id=response_id, model="m", parameters=b"{}", input=(given,), shown=shown, start=begin
    )
    await events.append(request(conversation_id, requested))
    output = [NewItem(item_id=mint("msg"), item=b"{}") for _ in hashes]
    complete = CompleteReply(
        response_id=response_id,
        model="m",
        author="m",
        input=(given,),
        output=tuple(output),
        usage=Usage(),
        finish_reason="stop",
        timing=Timing(first_ms=1, total_ms=1),
        prefixes=tuple(
            prefix(item.item_id, hashed, response_id=response_id, messages=3, exact=b"exact")
            for item, hashed in zip(output, hashes, strict=True)
        ),
    )
    await events.append(request(conversation_id, complete))
    return complete


def hashes_in(log: Log) -> list[str]:
    return [hashed.decode() for (hashed,) in log.rows("SELECT hash FROM transcript_prefixes ORDER BY hash")]


def path_to(log: Log, hashed: str) -> tuple[PathBranch, ...]:
    [(version, depth, branch, left, depths)] = log.rows(
        "SELECT version, depth, branch, leaf_branches, leaf_depths FROM transcript_prefixes WHERE hash = %s",
        hashed.encode(),
    )
    leaves = [
        PathBranch(left_branch, left_depth, version)
        for left_branch, left_depth in zip(left or (), depths or (), strict=True)
    ]
    return (*leaves, PathBranch(branch, depth, version))


async def test_prefixes_read_before_a_retraction_are_not_written(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    first = append_texts("secret")
    await events.append(request(conversation_id, first))  # version 2
    await events.append(request(conversation_id, RetractItem(item_id=first.items[0].item_id)))  # version 3
    for read_version, hashed in ((2, "before"), (3, "after"), (None, "unread")):
        new = append(hashed)
        prefixes = (replace(new.prefixes[0], read_version=read_version),)
        await events.append(request(conversation_id, replace(new, prefixes=prefixes)))

    assert hashes_in(log) == ["after", "unread"]


@pytest.fixture
def log(settings: Settings) -> Log:
    log = Log(settings.postgres_url)
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute("TRUNCATE transcript_prefixes")
    return log


async def found(reader: EventReader, *hashes: str, principal: Principal = ANN) -> list[tuple[str, str]]:
    prefixes = await reader.of(principal).prefixes_with([hashed.encode() for hashed in hashes])
    return [(hashes[one.number], one.item_id) for one in prefixes]


async def test_an_append_writes_its_prefixes_and_a_look_up_finds_them(
    events: EventLog, reader: EventReader, log: Log
) -> None:
    conversation_id = await start(events)
    appended = append("a", "b")
    await events.append(request(conversation_id, appended))
    completed = await reply(events, conversation_id, "c")

    a, b, c = await reader.of(ANN).prefixes_with([b"a", b"?", b"b", b"c"])

    assert [(one.number, one.item_id, one.version, one.depth) for one in (a, b, c)] == [
        (0, appended.items[0].item_id, 2, 1),
        (2, appended.items[1].item_id, 3, 2),
        (3, completed.output[0].item_id, 6, 4),
    ]
    assert all(one.conversation_id == conversation_id and one.answered for one in (a, b, c))
    assert (a.response_id, a.messages, a.exact) == (None, 0, b"")
    assert (c.response_id, c.messages, c.exact) == (completed.response_id, 3, b"exact")
    assert await reader.of(ANN).are_followed([a, b, c]) == [True, True, False]
    assert await reader.of(ANN).hashes_of(a) == [a.hash] == [b"a"]
    assert {one.read_version for one in (a, b, c)} == {len(log.versions(conversation_id))}


async def test_hashes_of_several_round_trips_are_found_in_order(
    events: EventLog, reader: EventReader, log: Log
) -> None:
    hashes = [str(number) for number in range(2 * MAX_HASHES + 1)]
    stored = {hashes[0]: 0, hashes[MAX_HASHES]: 1, hashes[-1]: 2}
    conversations = [await start(events) for _ in stored]
    for hashed, number in stored.items():
        await events.append(request(conversations[number], append(hashed)))

    found = await reader.of(ANN).prefixes_with([hashed.encode() for hashed in hashes])

    assert [(hashes[one.number], one.conversation_id) for one in found] == list(zip(stored, conversations, strict=True))
    assert [one.read_version for one in found] == [2, 2, 2]


async def test_a_name_leads_to_the_conversation_that_was_named_last(
    events: EventLog, reader: EventReader, log: Log
) -> None:
    older, newer = await start(events), await start(events)
    for conversation_id in (newer, older):
        await events.append(request(conversation_id, append("name")))

    assert await reader.of(ANN).conversation_named(b"name") == older
    await events.append(request(older, DeleteConversation()))
    assert await reader.of(ANN).conversation_named(b"name") == newer
    assert await reader.of(BOB).conversation_named(b"name") is None
    assert await reader.of(ANN).conversation_named(b"other") is None


async def test_a_prefix_of_a_deleted_response_has_no_response_id(
    events: EventLog, reader: EventReader, log: Log
) -> None:
    conversation_id = await start(events)
    completed = await reply(events, conversation_id, "a")
    await events.append(request(conversation_id, DeleteReply(response_id=completed.response_id)))

    [one] = await reader.of(ANN).prefixes_with([b"a"])

    assert one.response_id is None


async def test_a_command_writes_prefixes_only_of_items_that_it_appends(events: EventLog, log: Log) -> None:
    conversation_id = await start(events)
    completed = await reply(events, conversation_id, "a")
    with pytest.raises(Exception, match=completed.response_id):
        await events.append(request(conversation_id, completed))
    unknown = AppendItems(items=append_texts("x").items, author="ann", prefixes=(prefix("msg_other", "b"),))
    await events.append(request(conversation_id, unknown))

    assert hashes_in(log) == ["a"]


async def test_no_row_of_a_deleted_conversation_is_left(events: EventLog, log: Log) -> None:
    kept, deleted = await start(events), await start(events)
    await events.append(request(kept, append("kept")))
    await events.append(request(deleted, append("a", "b")))
    await reply(events, deleted, "c")

    await events.append(request(deleted, DeleteConversation()))

    assert hashes_in(log) == ["kept"]


async def test_retracting_an_item_removes_the_prefixes_that_contain_it(events: EventLog, log: Log) -> None:
    other, conversation_id = await start(events), await start(events)
    await events.append(request(other, append("other", "other 2")))
    await events.append(request(conversation_id, append("a")))
    without_prefix = append_texts("x")
    await events.append(request(conversation_id, without_prefix))
    await events.append(request(conversation_id, append("c")))

    await events.append(request(conversation_id, RetractItem(item_id=without_prefix.items[0].item_id)))

    assert hashes_in(log) == ["a", "other", "other 2"]


async def test_prefixes_of_paths_without_the_retracted_item_stay(
    events: EventLog, log: Log, settings: Settings
) -> None:
    conversation_id = await start(events)
    by_hash: dict[str, str] = {}

    async def add(*hashes: str) -> None:
        command = append(*hashes)
        by_hash.update({hashed: item.item_id for hashed, item in zip(hashes, command.items, strict=True)})
        await events.append(request(conversation_id, command))

    async def go_to(hashed: str) -> None:
        await events.append(request(conversation_id, MoveHead(item_id=by_hash[hashed], path=path_to(log, hashed))))

    async def retract(hashed: str) -> None:
        await events.append(request(conversation_id, RetractItem(item_id=by_hash[hashed])))

    await add("a1", "a2", "a3")
    await go_to("a1")
    await add("b2", "b3")
    await add("b4")
    await go_to("b2")
    await add("c3")
    await go_to("a3")
    await add("d4", "d5")
    branches = [branch for (branch,) in log.rows("SELECT branch FROM transcript_prefixes ORDER BY hash")]
    assert [len([b for b in branches if b == branch]) for branch in sorted(set(branches))] == [3, 3, 1, 2]

    await retract("d5")
    assert hashes_in(log) == ["a1", "a2", "a3", "b2", "b3", "b4", "c3", "d4"]
    await retract("a2")
    assert hashes_in(log) == ["a1", "b2", "b3", "b4", "c3"]
    await retract("b3")
    assert hashes_in(log) == ["a1", "b2", "c3"]
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:  # as rows from before migration 0025
        connection.execute("UPDATE transcript_prefixes SET branch = NULL WHERE hash = 'c3'")
    await retract("b4")
    assert hashes_in(log) == ["a1", "b2"], "the path to c3 may contain b4"
    await events.append(request(conversation_id, RestoreItem(item_id=by_hash["b3"])))
    assert hashes_in(log) == ["a1", "b2"]
    await retract("a1")
    assert hashes_in(log) == []


@pytest.mark.parametrize("number", [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32])
async def test_the_function_number_in_state_reads_numbers_of_uncompressed_events(
    events: EventLog, log: Log, number: int
) -> None:
    event = ItemRetracted(item_id=mint("msg"), branch=number, depth=number // 2, inherited=True)
    state = encode(event)
    compressed = b"\x11" + state[1:]

    [read] = log.rows(
        "SELECT number_in_state(s, 'branch'), number_in_state(s, 'depth'), number_in_state(s, 'other'), number_in_state(c, 'depth')"
        " FROM (SELECT %s::bytea AS s, %s::bytea AS c) AS states",
        state,
        compressed,
    )

    assert read == (number, number // 2, None, None)


async def test_deleting_a_reply_of_an_unlisted_conversation_removes_its_prefixes(events: EventLog, log: Log) -> None:
    conversation_id = mint("conv")
    await reply(events, conversation_id, "a", start_unlisted=True)
    second = await reply(events, conversation_id, "b")

    ids = (second.input[0].item_id, second.output[0].item_id)
    await events.append(request(conversation_id, DeleteReply(response_id=second.response_id, item_ids=ids)))

    assert hashes_in(log) == ["a"]


async def test_an_append_and_a_deletion_in_one_transaction_leave_no_row(events: EventLog, log: Log) -> None:
    conversations = [await start(events) for _ in range(5)]
    requests = [
        request(conversation_id, command)
        for conversation_id in conversations
        for command in (append("a"), DeleteConversation())
    ]
    before = log.count()

    await asyncio.gather(*map(events.append, requests))

    assert log.count() == before + 10
    assert hashes_in(log) == []


async def test_only_principals_who_may_write_in_a_conversation_find_its_prefixes(
    events: EventLog, reader: EventReader, log: Log
) -> None:
    conversation_id = await start(events)
    appended = append("a")
    await events.append(request(conversation_id, appended))
    own = [("a", appended.items[0].item_id)]
    assert [one.is_private for one in await reader.of(ANN).prefixes_with([b"a"])] == [True]
    for role, subject in (("writer", "bob"), ("reader", "ada")):
        share = ShareConversation(share=Share(role=role, subject=subject))  # type: ignore[arg-type] # one of the two
        await events.append(request(conversation_id, share))

    seen = {
        name: await found(reader, "a", principal=principal)
        for name, principal in {
            "owner": ANN,
            "writer": BOB,
            "reader": ADA,
            "nobody": Principal("acme", "eve", BOB.scopes),
            "other tenant": Principal("other", "ann", SCOPES),
        }.items()
    }

    assert seen == {"owner": own, "writer": own, "reader": [], "nobody": [], "other tenant": []}
    for principal in (ANN, BOB, Principal("acme", "root", SCOPES)):
        assert [one.is_private for one in await reader.of(principal).prefixes_with([b"a"])] == [False]


async def test_a_row_whose_item_was_deleted_or_lost_is_not_found(
    events: EventLog, reader: EventReader, log: Log, settings: Settings
) -> None:
    """Such rows are left if rows of the log were removed by hand, or if triggers were off."""
    deleted, retracted, lost, moved = [await start(events) for _ in range(4)]
    commands = {
        deleted: append("deleted"),
        retracted: append("retracted"),
        lost: append("lost"),
        moved: append("moved"),
    }
    for conversation_id, command in commands.items():
        await events.append(request(conversation_id, command))
    assert len(await found(reader, *hashes_in(log))) == 4
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE events DISABLE TRIGGER remove_transcript_prefixes")
        await events.append(request(deleted, DeleteConversation()))
        await events.append(request(retracted, RetractItem(item_id=commands[retracted].items[0].item_id)))
        connection.execute("ALTER TABLE events ENABLE TRIGGER remove_transcript_prefixes")
        connection.execute("DELETE FROM events WHERE originator_id = %s", [uuid_of(lost)])
        connection.execute("UPDATE transcript_prefixes SET version = 1 WHERE hash = 'moved'")

    assert len(hashes_in(log)) == 4
    assert await found(reader, *hashes_in(log)) == []


async def test_the_newest_of_many_prefixes_with_one_hash_are_found(
    events: EventLog, reader: EventReader, log: Log
) -> None:
    appended = [append("a") for _ in range(MAX_PREFIXES + 2)]
    for command in appended:
        await events.append(request(await start(events), command))

    items = [item_id for _, item_id in await found(reader, "a")]

    assert items == [command.items[0].item_id for command in reversed(appended)][:MAX_PREFIXES]


async def test_the_migration_removes_rows_of_lost_events(events: EventLog, log: Log, settings: Settings) -> None:
    kept, lost = await start(events), await start(events)
    await events.append(request(kept, append("kept")))
    await events.append(request(lost, append("lost")))
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        connection.execute("DELETE FROM events WHERE originator_id = %s", [uuid_of(lost)])
        connection.execute("DELETE FROM migrations WHERE name >= '0020'")

    assert "0020_transcript_prefixes.sql" in migrate(settings.postgres_url)

    assert hashes_in(log) == ["kept"]
    await events.append(request(kept, DeleteConversation()))
    assert hashes_in(log) == []
