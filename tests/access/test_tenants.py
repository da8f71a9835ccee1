"""No tenant reaches the data of another tenant, even if our own code asks for this data."""

import ast
import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from eventsourcing.persistence import IntegrityError
from msgspec.structs import replace

from domain.commands import DeleteConversation, DeleteReply, MoveHead, Prefix
from domain.errors import ConversationNotFound
from domain.events import PathBranch
from infrastructure.access.principal import SCOPES, Principal
from infrastructure.event_log.append_request import IdempotencyKey
from infrastructure.event_log.datastore import Datastore
from infrastructure.event_log.reader import EventReader
from infrastructure.event_log.recorder import ConversationRecorder
from infrastructure.event_log.rows import Row, chained_row
from infrastructure.event_log.write import Write
from infrastructure.ids import mint, mint_uuid, uuid_of
from infrastructure.settings import Settings
from infrastructure.stores.postgres import make_pool
from tests.access.made_keys import execute
from tests.access.tenant_sql import NAMES_TENANT, TENANT_TABLE
from tests.event_log.appending import append_texts, open_log, request, with_key
from tests.log import Log
from tests.queries.conftest import write
from tests.queries.writer import Writer
from tests.source_code import syntax_trees

__all__ = ["write"]

OTHER = Principal("other", "someone", SCOPES)
OWN = Principal("default", "someone", SCOPES)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[EventReader]:
    pool = make_pool(settings.postgres_url)
    await pool.open()
    yield EventReader(pool)
    await pool.close()


async def test_a_reader_of_another_tenant_finds_nothing(settings: Settings, write: Writer, reader: EventReader) -> None:
    conversation_id = await write.start(instructions="Be brief.")
    item_id, retracted_id = await write.append(conversation_id, "secret", "wrong")
    await write.retract(conversation_id, retracted_id)
    deleted_id, _ = await write.request_reply(conversation_id, "?")
    await write.fail_reply(conversation_id, deleted_id)
    await write.execute(conversation_id, DeleteReply(response_id=deleted_id))
    response_id, _ = await write.request_reply(conversation_id, "?")
    await write.execute(conversation_id, MoveHead(item_id=item_id, path=(PathBranch(0, 1, 2),)))
    await write.compact(conversation_id, item_id, 1)
    async with open_log(settings.postgres_url) as events:
        await events.append(request(conversation_id, append_texts("x"), principal=OWN, **with_key("k")))
        command = append_texts("recognised", "later")
        prefix = Prefix(item_id=command.items[0].item_id, hash=b"hash", answered=True)
        await events.append(request(conversation_id, replace(command, prefixes=(prefix,)), principal=OWN))

    prefixes = await reader.of(OWN).prefixes_with([b"hash"])
    execute(settings.postgres_url, "INSERT INTO contents (tenant_id, sha256, size) VALUES ('default', 'hash', 2)")
    execute(
        settings.postgres_url,
        "INSERT INTO content_rows (tenant_id, sha256, number, bytes) VALUES ('default', 'hash', 0, 'hi')",
    )

    for principal, found in ((OWN, True), (OTHER, False)):
        own = reader.of(principal)
        for of_tenant in (own, reader.of_tenant(principal.tenant)):
            answers: list[Any] = [
                await of_tenant.head(conversation_id),
                (await of_tenant.head_of_each([conversation_id]))[0],
                await of_tenant.readable_head(conversation_id),
                await of_tenant.conversation(conversation_id, limit=10),
                await of_tenant.conversation_logged(conversation_id, limit=10),
                await of_tenant.conversation_backwards(conversation_id, until=9, limit=10),
                await of_tenant.starts([conversation_id]),
                await of_tenant.items(conversation_id, [item_id, response_id]),
                await of_tenant.settings_events(conversation_id, until=9),
                await of_tenant.head_moved(conversation_id, until=9),
                await of_tenant.summary_changes(conversation_id, until=99, limit=9),
                await of_tenant.deleted_items([retracted_id]),
                await of_tenant.deletions([conversation_id], after=0),
                await of_tenant.deleted_responses(conversation_id, [deleted_id]),
                await of_tenant.content_row(b"hash", 0),
            ]
            assert [bool(answer) for answer in answers] == [found] * len(answers)
        answers = [
            await own.conversation_of(response_id),
            await own.is_locked(conversation_id),
            await own.first_answer(IdempotencyKey("k", b"f"), EPOCH),
            await own.items_of_tenant([item_id], 10_000),
            await own.prefixes_with([b"hash"]),
            any(await own.are_followed(prefixes)),
            await own.hashes_of(prefixes[0]),
            await own.conversation_named(b"hash"),
        ]
        assert [bool(answer) for answer in answers] == [found] * len(answers)
    methods = {name for name in dir(reader.of(OWN)) if not name.startswith("_")}
    assert methods - set(TRIED) == set(), "call each new method above and add it to TRIED"


TRIED = [
    "principal",
    "tenant",
    "readable",
    "readable_head",
    "head",
    "head_of_each",
    "conversation",
    "conversation_logged",
    "conversation_backwards",
    "starts",
    "items",
    "settings_events",
    "head_moved",
    "summary_changes",
    "deleted_items",
    "deletions",
    "deleted_responses",
    "content_row",
    "given_content_row",
    "conversation_of",
    "is_locked",
    "first_answer",
    "items_of_tenant",
    "prefixes_with",
    "are_followed",
    "hashes_of",
    "conversation_named",
]


async def test_a_stream_takes_no_writes_of_another_tenant(settings: Settings, write: Writer) -> None:
    log = Log(settings.postgres_url)
    conversation_id = await write.start("a")
    response_id, _ = await write.request_reply(conversation_id, "?")
    before = _state(log)
    stream = uuid_of(conversation_id)
    [(version, chain_hash)] = log.rows(
        "SELECT originator_version, chain_hash FROM events WHERE originator_id = %s ORDER BY 1 DESC LIMIT 1", stream
    )
    foreign = _row(chain_hash, stream, version + 1, "other")
    own = _row(chain_hash, stream, version + 1, "default")
    new = uuid_of(mint("conv"))
    ends = {stream: (version, bytes(chain_hash))}
    datastore = Datastore(settings.postgres_url)
    datastore.pool.open()
    recorder = ConversationRecorder(datastore)
    for refused in (
        Write([foreign], ends),
        Write([foreign]),
        Write([own, _row(own.chain_hash, stream, version + 2, "other")], ends),
        Write([_row(b"", new, 1, "default"), _row(b"", new, 2, "other")], {new: (0, b"")}),
    ):
        with pytest.raises(IntegrityError), recorder.locked_transaction() as curs:
            recorder.insert(curs, refused)
    assert _state(log) == before

    with recorder.locked_transaction() as curs:
        recorder.insert(
            curs, Write([_row(b"", new, 1, "other")], deleted_streams=[stream], ended_replies=[(1, response_id)])
        )
        curs.execute("COMMIT")
    assert log.rows("SELECT running FROM responses WHERE response_id = %s", response_id) == [(True,)]
    datastore.close()


async def test_a_command_for_another_tenants_conversation_is_refused(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    before = _state(Log(settings.postgres_url))
    other = write.for_tenant("other")
    for command in (append_texts("x"), DeleteConversation()):
        with pytest.raises(Exception, match=f"There is no conversation {conversation_id}"):
            await other.execute(conversation_id, command)
    assert _state(Log(settings.postgres_url)) == before


async def test_of_two_tenants_in_one_batch_only_the_owner_appends(settings: Settings, write: Writer) -> None:
    conversation_id = await write.start("a")
    log = Log(settings.postgres_url)
    before = log.count()
    async with open_log(settings.postgres_url) as events:
        # At first the stream is not in the cache.
        for pair in ((OTHER, OWN), (OWN, OTHER)):
            results = await asyncio.gather(
                *(events.append(request(conversation_id, append_texts("x"), principal=user)) for user in pair),
                return_exceptions=True,
            )
            assert [isinstance(result, ConversationNotFound) for result in results] == [user is OTHER for user in pair]
    assert log.count() == before + 2
    tenants = log.rows("SELECT DISTINCT tenant_id FROM events WHERE originator_id = %s", uuid_of(conversation_id))
    assert tenants == [("default",)]


def _state(log: Log) -> tuple[object, ...]:
    return log.count(), log.rows("SELECT tenant_id, response_id, running FROM responses ORDER BY 1, 2")


def _row(previous: bytes, stream: object, version: int, tenant: str) -> Row:
    return chained_row(
        bytes(previous),
        originator_id=stream,  # type: ignore[arg-type] # a UUID
        version=version,
        topic="conversation.ended",
        state=b"",
        tenant=tenant,
        item_id=None,
        recorded_at=datetime.now(UTC),
        subject="eve",
        command_id=mint_uuid(),
        correlation_id="",
    )


SERVING = ("commands", "queries", "context", "replies", "infrastructure")

NOT_OF_ONE_REQUEST = {
    "commands/unfinished_histories.py _UNFINISHED": "finds histories of all tenants whose request was never recorded",
    "infrastructure/access/api_keys.py _CHANGES": "each process reads the keys of all tenants. A request uses a key only with its secret",
    "infrastructure/access/key_store.py _RECORD_USE": "records when keys of all tenants were last used",
    "infrastructure/contents/collection.py _EXPIRED": "deletes files of all tenants that have expired",
    "infrastructure/contents/collection.py _PAGE": "finds contents of all tenants that no event and no file names",
    "infrastructure/event_log/feed.py": "projectors read the whole log in commit order; queries use only its positions, hashes and times",
    "infrastructure/event_log/log_rows.py": "a template without a condition. The statements made from it are checked",
    "infrastructure/event_log/recorder.py delete_keys": "removes old idempotency keys of all tenants",
    "infrastructure/event_log/recorder.py date_future_keys": "mends the times of idempotency keys of all tenants",
    "replies/leases.py": "which process runs which reply",
}
"""Files, functions and variables whose statements belong to no single request, with the reason."""


def test_every_statement_that_serves_a_request_names_the_tenant() -> None:
    without = [
        f"{file} {name}: {' '.join(sql.split())[:120]}"
        for file, name, sql in _statements()
        if not re.search(NAMES_TENANT, sql) and NOT_OF_ONE_REQUEST.keys().isdisjoint((file, f"{file} {name}"))
    ]
    assert not without, "name the tenant in these:\n" + "\n".join(without)


def test_statements_are_found() -> None:
    found = [key for file, name, _ in _statements() for key in (file, f"{file} {name}")]
    assert found.count("infrastructure/event_log/reader.py") >= 5
    assert found.count("infrastructure/event_log/conversation_reader.py") >= 3
    assert found.count("infrastructure/event_log/recorder.py") >= 9
    assert found.count("infrastructure/access/key_store.py") >= 6
    assert found.count("infrastructure/limits/month.py") >= 2
    assert set(NOT_OF_ONE_REQUEST) <= set(found)


def _statements() -> Iterator[tuple[str, str, str]]:
    """(file, function or variable, SQL) of each Python statement on a table with tenants' data.

    The SQL is all string literals of the statement, joined.
    Of a compound statement, such as `with`, only the head is searched.
    """
    for file, tree in syntax_trees(*SERVING):
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for statement in ast.walk(tree):
            if not isinstance(statement, ast.stmt):
                continue
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue
            texts = [
                node.value
                for node in _nodes_without_body(statement)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            if re.search(rf"{TENANT_TABLE}|originator_id = ", text := " ".join(texts)):
                around = [f.name for f in functions if f.lineno <= statement.lineno <= (f.end_lineno or 0)]
                yield str(file), around[-1] if around else _assigned_name(statement), text


def _assigned_name(statement: ast.stmt) -> str:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case _:
            return ""


def _nodes_without_body(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            yield child
            yield from _nodes_without_body(child)


def test_queries_read_views_only_through_code_that_adds_the_tenant() -> None:
    """TenantViews adds the tenant. View positions hold nothing that people wrote."""
    methods = {"find", "find_one", "aggregate", "distinct", "count_documents", "watch"}
    allowed = {"queries/tenant_views.py", "queries/view_positions.py"}
    calls = {
        f"{file}:{node.lineno} {node.func.attr}"
        for file, tree in syntax_trees("queries")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods
        if str(file) not in allowed and not _is_bound(node.func.value)
    }
    assert not calls


def _is_bound(receiver: ast.expr) -> bool:
    """Whether the receiver adds the tenant, is the store of API keys, or is a text. Compares source text."""
    bound = {"context", "self", "self._context", "self.dependencies.views", "context.dependencies.views", "views"}
    return ast.unparse(receiver) in bound | {"context.dependencies.api_keys", "text", "searched"}
