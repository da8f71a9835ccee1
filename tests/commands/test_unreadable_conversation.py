"""Appends to a conversation with an unreadable event are a 503."""

from threading import Event

import httpx
import psycopg

from commands.main import create_app
from infrastructure.ids import uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.api_client import create_conversation, message
from tests.commands.test_bad_input import assert_openai_error


async def test_an_append_to_an_unreadable_conversation_is_a_503(api: httpx.AsyncClient, settings: Settings) -> None:
    unreadable, readable = await create_conversation(api), await create_conversation(api)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        await connection.execute(
            "UPDATE events SET state = '\\x0f'::bytea WHERE originator_id = %s", (uuid_of(unreadable),)
        )
    app = create_app(settings, Metrics(), Event())  # does not have the state in memory
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as fresh_api,
    ):
        answer = await fresh_api.post(f"/v1/conversations/{unreadable}/items", json={"items": [message("hi")]})
        assert_openai_error(answer, 503)
        assert answer.json()["error"]["code"] == "conversation_unreadable"
        assert answer.headers["x-should-retry"] == "false"
        assert (
            await fresh_api.post(f"/v1/conversations/{readable}/items", json={"items": [message("hi")]})
        ).status_code == 200
