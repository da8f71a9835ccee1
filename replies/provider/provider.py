"""The provider at OPENAI_BASE_URL, asked through the official client, whichever of the two APIs it speaks."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol, cast

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream

from domain.errors import ModelFailed
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from replies.provider.breaker import Breaker, State
from replies.provider.chat import ChatAnswer
from replies.provider.client_errors import as_failure
from replies.provider.model_list import Listing
from replies.provider.responses import ResponsesAnswer
from replies.provider.server_sent_events import events
from replies.provider.stream_parts import AnswerText, Finished, ItemDelta, ItemStarted, Piece

RETRIES = 2
CONNECT_SECONDS = 5.0


class Answer(Protocol):
    """A streamed answer of one of the two APIs."""

    def take(self, data: bytes) -> list[Piece]: ...

    @property
    def whole(self) -> bool: ...

    def end(self) -> list[Piece]: ...


class ModelProvider:
    """The provider at OPENAI_BASE_URL. One for a process; `close` it at the end."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self._speaks_responses = settings.model_api == "responses"
        self._client: AsyncOpenAI | None = None
        self._listing: Listing | None = None
        if settings.openai_base_url:
            url = httpx2.URL(settings.openai_base_url)
            # aiohttp refuses a name and a password in a URL beside the header with the key, which they stand in for.
            named = httpx2.BasicAuth(url.username, url.password) if url.userinfo else None
            self._client = AsyncOpenAI(
                base_url=str(url.copy_with(userinfo=b"")),
                api_key=settings.openai_api_key.get_secret_value(),
                timeout=openai.Timeout(settings.model_timeout, connect=CONNECT_SECONDS),
                max_retries=RETRIES,
                # A stream over it takes half of what it takes over the default.
                http_client=openai.DefaultAioHttpClient(auth=named),
            )
            self._listing = Listing(self._client)

        def tell(state: State) -> None:
            if metrics is not None:
                metrics.model_unavailable.set(state != "closed")

        self._breaker = Breaker(tell)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def configured(self) -> bool:
        return self._client is not None

    async def default_model(self, tenant: str) -> str:
        """The model of a tenant's reply that names none. Raises ModelFailed when the provider can not say."""
        if named := self._settings.default_models.get(tenant) or self._settings.default_model:
            return named
        models = await self.list_models()
        if not models:
            raise ModelFailed("model_error", "The model provider lists no model.")
        return str(models[0]["id"])

    async def known(self, model: str) -> bool:
        """Whether there is such a model, as far as anyone can say: the provider lists it, or a setting names it."""
        settings = self._settings
        if model in (*settings.models, settings.default_model, *settings.default_models.values()):
            return True
        return self._listing is None or await self._listing.has(model)

    async def list_models(self) -> list[dict[str, Any]]:
        """The provider's models: {id, object, created, owned_by}. Raises ModelFailed."""
        if self._listing is None:
            raise _not_configured()
        return await self._listing.models()

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Piece]:
        """The answer to a body that `Models.renderer` rendered. Retried by the client before the first piece, never after.

        Raises ModelFailed alone. Closing it, or cancelling who reads it, closes the provider's connection.
        """
        if self._client is None:
            raise _not_configured()
        answer: Answer = ResponsesAnswer() if self._speaks_responses else ChatAnswer()
        attempt = self._breaker.enter()
        response: httpx2.Response | None = None
        try:
            response = await self._ask(self._client, body)
            async with aclosing(events(response, self._settings.model_timeout, lambda: answer.whole)) as read:
                async for data in read:
                    attempt.answered()
                    for piece in answer.take(data):
                        yield piece
            for piece in answer.end():
                yield piece
        except Exception as error:
            failure = as_failure(error)
            if failure.unreachable:
                attempt.failed()
            else:
                attempt.answered()
            if failure is error:
                raise
            raise failure from error
        finally:
            attempt.gave_up()
            if response is not None:
                await response.aclose()

    async def _ask(self, client: AsyncOpenAI, body: Mapping[str, Any]) -> httpx2.Response:
        """The response once its headers are there. It is read raw: the client's own reading takes four times as long."""
        path = "/responses" if self._speaks_responses else "/chat/completions"
        answer = await client.post(
            path, body=dict(body), cast_to=httpx2.Response, stream=True, stream_cls=AsyncStream[object]
        )
        return cast("httpx2.Response", answer)  # the client's types do not say that `cast_to` goes before `stream_cls`

    async def say(self, body: Mapping[str, Any]) -> AnswerText:
        """The text of an answer's messages, once it is whole; none of one that a content filter cut off. Raises ModelFailed."""
        text: list[str] = []
        speaks = False
        finished = Finished("stop")
        async for piece in self.stream(body):
            match piece:
                case ItemStarted():
                    speaks = piece.item["type"] == "message"
                case ItemDelta() if speaks:
                    text.append(piece.text)
                case Finished():
                    finished = piece
                case _:
                    pass
        if finished.finish_reason == "content_filter":
            text.clear()
        return AnswerText("".join(text), finished.usage, finished.model)


def _not_configured() -> ModelFailed:
    return ModelFailed("model_error", "No model provider is configured: set OPENAI_BASE_URL.")
