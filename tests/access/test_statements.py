"""Each SQL statement on a table with tenants' data names the tenant, except the statements in OF_THE_PROCESS."""

import re
from collections.abc import Iterator

import pytest

from infrastructure.settings import Settings
from tests.access.apis_as import ADMIN, open_apis, projecting, user
from tests.access.statement_count import StatementCount
from tests.access.tenant_sql import NAMES_TENANT, TENANT_TABLE
from tests.queries.proxy import Proxy
from tests.scripted_provider import ScriptedProvider, scripted_provider

ANN, BOB, ROOT = user("ann"), user("bob"), user("root", scopes=ADMIN)
OF_THE_PROCESS = (
    r"FROM responses WHERE owner = |^SELECT id, beat FROM api_processes",  # leases
    r"^(DELETE FROM|UPDATE) idempotency_keys .* WHERE recorded_at [<>]|WHERE ctid = ANY",  # old keys
    r"FROM events ORDER BY notification_id DESC LIMIT 1\) AS newest ON true$",  # the log's end
    r"LEFT JOIN events ON notification_id = ANY\(\$1\)$",  # whether a restore moved the log back
    r"FROM events WHERE notification_id > ",  # the next events of the whole log, for projectors
    r"^SELECT id, version, topic, state, recorded_at, chain_hash, position FROM",  # the streams of a batch
    r"^SELECT i\.stream, i\.item, e\.topic, e\.state FROM",  # the items of a batch
)
"""Statements of the process itself, or of a batch with several tenants."""


class Statements(StatementCount):
    """The SQL of simple queries and of prepared statements."""

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind == b"Q":
            self.statements.append(body.rstrip(b"\0").decode())
        elif kind == b"P":
            self.statements.append(body.split(b"\0")[1].decode())


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


async def test_each_statement_sent_to_postgres_for_a_request_names_the_tenant(
    settings: Settings, provider: ScriptedProvider
) -> None:
    seen = Statements()
    proxy = Proxy(settings.postgres_url, seen.watch)
    await proxy.restore()
    changes = {"openai_base_url": provider.url, "default_model": "scripted"}
    settings = settings.model_copy(update=changes)
    async with (
        open_apis(settings.model_copy(update={"postgres_url": proxy.url})) as apis,
        projecting(apis.projector),
    ):
        conversation = await apis.create(ANN, "one", "two", instructions="Be brief.")
        path = f"/v1/conversations/{conversation}"
        share = {"with": {"tenant": True}, "role": "reader"}
        assert (await apis.post(ANN, f"{path}/shares", share)).status_code == 200
        reply = await apis.reply(ANN, "why?", conversation=conversation)
        item = reply["output"][0]["id"]
        await apis.reply(BOB, [{"type": "item_reference", "id": item}, {"role": "user", "content": "?"}])
        fork = await apis.reply(BOB, "and?", previous_response_id=reply["id"])
        forked = fork["conversation"]["id"]
        for key in ("k", "k"):
            await apis.post(ANN, f"{path}/end", headers={"Idempotency-Key": key})
        await apis.post(ANN, f"{path}/items/{item}/pin")
        await apis.request(ANN, "DELETE", f"{path}/items/{item}")
        await apis.post(ANN, "/v1/responses", {"input": "?", "background": True}, headers={"Idempotency-Key": "b"})
        for reader in (BOB, ROOT):
            for suffix in ("", "/items", "/context", "/events", "/responses", "/shares"):
                await apis.get(reader, f"/v1/conversations/{forked}{suffix}")
            for suffix in ("", "/input_items", "/context", "?stream=true"):
                await apis.get(reader, f"/v1/responses/{fork['id']}{suffix}")
            for other in ("/v1/conversations", "/v1/usage", "/v1/projections"):
                await apis.get(reader, other)
        sent = {"data": {"purpose": "user_data"}, "files": {"file": ("a.txt", b"hi")}}
        file = (await apis.request(ANN, "POST", "/v1/files", **sent)).json()["id"]
        for reader in (ANN, BOB, ROOT):
            for suffix in ("", f"/{file}", f"/{file}/content"):
                await apis.get(reader, f"/v1/files{suffix}")
        await apis.request(ANN, "DELETE", f"/v1/files/{file}")
        await apis.request(BOB, "DELETE", f"/v1/responses/{fork['id']}")
        await apis.post(BOB, f"/v1/responses/{reply['id']}/cancel")
    await proxy.cut()
    on_tables = {" ".join(sql.split()) for sql in seen.statements if re.search(TENANT_TABLE, sql)}
    assert len(on_tables) > 10
    without = [
        sql[:200]
        for sql in on_tables
        if not re.search(NAMES_TENANT, sql) and not any(re.search(pattern, sql) for pattern in OF_THE_PROCESS)
    ]
    assert not without, "\n".join(without)
