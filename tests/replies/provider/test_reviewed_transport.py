"""What lies between this process and a provider: the URL it has, the connections it is asked over."""

import base64

from infrastructure.settings import Settings
from replies.provider.provider import ModelProvider
from tests.provider import Exchange, Provider
from tests.replies.provider.conftest import joined, pieces_of
from tests.replies.provider.test_chat import MESSAGE


async def test_given_a_name_and_a_password_in_the_providers_url_then_it_is_asked_with_them(provider: Provider) -> None:
    sent: list[str | None] = []

    def script(exchange: Exchange) -> None:
        sent.append(exchange.headers["authorization"])
        exchange.say("Hello")

    provider.script = script
    url = provider.url.replace("://", "://us%40er:p%3Aw@")
    model = ModelProvider(Settings(openai_base_url=url, model_timeout=1))
    try:
        assert joined(await pieces_of(model)) == [(MESSAGE, "Hello")]
        assert [each["id"] for each in await model.list_models()] == ["scripted"]
    finally:
        await model.close()
    assert sent == ["Basic " + base64.b64encode(b"us@er:p:w").decode()]
