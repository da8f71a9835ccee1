"""A conversation that this code can not read: said plainly, and the others are written to as ever."""

from threading import Event

import httpx
import psycopg

from commands.main import create_app
from infrastructure.ids import uuid_of
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.commands.test_bad_input import assert_openai_error
from tests.commands.test_conversations import create, message


async def test_a_conversation_that_can_not_be_read_is_a_503_of_its_own(
    api: httpx.AsyncClient, settings: Settings
) -> None:
    spoiled, sound = await create(api), await create(api)
    async with await psycopg.AsyncConnection.connect(settings.postgres_url) as connection:
        await connection.execute(
            "UPDATE events SET state = '\\x0f'::bytea WHERE originator_id = %s", (uuid_of(spoiled),)
        )
    app = create_app(settings, Metrics(), Event())  # one that does not hold it in memory
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as cold,
    ):
        answer = await cold.post(f"/v1/conversations/{spoiled}/items", json={"items": [message("hi")]})
        assert_openai_error(answer, 503)
        assert answer.json()["error"]["code"] == "conversation_unreadable"
        assert answer.headers["x-should-retry"] == "false"
        assert (await cold.post(f"/v1/conversations/{sound}/items", json={"items": [message("hi")]})).status_code == 200
