"""A completed reply records which API key asked for it."""

from collections.abc import Iterator

import pytest

from domain.events import ReplyCompleted
from infrastructure.settings import Settings
from tests.access.keyed_apis import open_apis
from tests.access.made_keys import new_test_key, store_keys
from tests.log import Log
from tests.scripted_provider import ScriptedProvider, scripted_provider


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


async def test_a_completed_reply_has_the_id_of_its_key(settings: Settings, provider: ScriptedProvider) -> None:
    key = new_test_key()
    store_keys(settings.postgres_url, [key])
    settings = settings.model_copy(update={"openai_base_url": provider.url, "default_model": "scripted"})
    async with open_apis(settings) as apis:
        answer = await apis.send(key, "POST", "/v1/responses", json={"input": "hi"})
    assert answer.status_code == 200, answer.text
    events = Log(settings.postgres_url).events(answer.json()["conversation"]["id"])
    assert [event.key_id for event in events if isinstance(event, ReplyCompleted)] == [key.id]
