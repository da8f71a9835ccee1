"""Requests to the provider at OPENAI_BASE_URL, in the API that MODEL_API names."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, cast

import httpx2
import msgspec
import openai
from openai import AsyncOpenAI, AsyncStream

from context.inlined_contents import BodyWithContents, RequestBody
from domain.errors import ModelFailed
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from replies.provider.breaker import CircuitBreakers
from replies.provider.chat import ChatAnswer
from replies.provider.client_errors import as_failure
from replies.provider.content_upload import ContentNotRead, ContentUpload
from replies.provider.http_client import ProviderClient
from replies.provider.model_list import ModelList
from replies.provider.refusals import without_quoted_abilities
from replies.provider.responses import ResponsesAnswer
from replies.provider.server_sent_events import read_events
from replies.provider.stream_parts import AnswerText, Finished, ItemDelta, ItemStarted, PartStarted, StreamPart

MAX_RETRIES = 2
CONNECT_TIMEOUT_SECONDS = 5.0


class Answer(Protocol):
    """A streamed answer. `finish` is called after the last event."""

    def parse(self, data: bytes) -> list[StreamPart]: ...

    @property
    def progress(self) -> object:
        """A value that changes with each event that has content."""

    @property
    def is_complete(self) -> bool: ...

    def finish(self) -> list[StreamPart]: ...


class ModelProvider:
    """One for each app."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_list: Callable[[Sequence[Mapping[str, Any]]], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._uses_responses_api = settings.model_api == "responses"
        self._client: AsyncOpenAI | None = None
        self._list: ModelList | None = None
        if settings.openai_base_url:
            url = httpx2.URL(settings.openai_base_url)
            # aiohttp refuses a user name in the URL if the request has an Authorization header.
            basic_auth = httpx2.BasicAuth(url.username, url.password) if url.userinfo else None
            self._client = AsyncOpenAI(
                base_url=str(url.copy_with(userinfo=b"")),
                api_key=settings.openai_api_key.get_secret_value(),
                timeout=openai.Timeout(settings.model_timeout, connect=CONNECT_TIMEOUT_SECONDS),
                max_retries=MAX_RETRIES,
                http_client=ProviderClient(send_timeout=settings.model_timeout, auth=basic_auth),
            )
            self._list = ModelList(self._client, clock, on_list)

        def report_open(models: int) -> None:
            if metrics is not None:
                metrics.model_unavailable.set(models)

        self._breakers = CircuitBreakers(report_open, clock)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def configured(self) -> bool:
        return self._client is not None

    async def default_model(self, tenant: str) -> str:
        """The configured default, or the first model of the provider's list. Raises ModelFailed if there is neither."""
        settings = self._settings
        defaults = settings.tenant_defaults.get(tenant)
        if configured := (defaults.model if defaults else None) or settings.default_model:
            return configured
        models = await self.list_models()
        if not models:
            raise ModelFailed(
                "model_error", "The model provider lists no model: name one in the request, or set DEFAULT_MODEL."
            )
        return str(models[0]["id"])

    @property
    def configured_models(self) -> frozenset[str]:
        settings = self._settings
        of_tenants = (defaults.model for defaults in settings.tenant_defaults.values())
        return frozenset(name for name in (*settings.models, settings.default_model, *of_tenants) if name)

    async def has_model(self, model: str) -> bool:
        """True also if there is no list."""
        if model in self.configured_models:
            return True
        return self._list is None or await self._list.has(model)

    async def list_models(self) -> list[dict[str, Any]]:
        """Each model as {id, object, created, owned_by}. Raises ModelFailed."""
        if self._list is None:
            raise _not_configured()
        return await self._list.models()

    async def find_model(self, name: str) -> dict[str, Any] | None:
        """Raises ModelFailed."""
        return None if self._list is None else await self._list.find(name)

    async def stream(self, body: RequestBody) -> AsyncIterator[StreamPart]:
        """The parts of the answer to `body`. Raises only ModelFailed and ContentNotRead.

        Retries up to MAX_RETRIES times if the connection fails, if the provider does not read the request, if no
        response begins in time, or on status 408, 409, 429 or 5xx. Headers of the response may forbid a retry, or ask for one.
        """
        if self._client is None:
            raise _not_configured()
        answer: Answer = ResponsesAnswer() if self._uses_responses_api else ChatAnswer()
        fields = body.fields if isinstance(body, BodyWithContents) else body
        upload = ContentUpload(body) if isinstance(body, BodyWithContents) else None
        attempt = self._breakers.begin_attempt(str(fields.get("model")))
        nothing_yet = answer.progress
        response: httpx2.Response | None = None
        try:
            response = await self._post(self._client, upload or fields)
            events = read_events(
                response, self._settings.model_timeout, lambda: answer.is_complete, lambda: answer.progress
            )
            async with aclosing(events):
                async for data in events:
                    parts = answer.parse(data)
                    if answer.progress != nothing_yet:
                        attempt.answered()
                    for part in parts:
                        yield part
            for part in answer.finish():
                yield part
        except Exception as error:
            if upload is not None and upload.error is not None:
                raise ContentNotRead(upload.error) from error
            failure = as_failure(error)
            if failure.refused is not None:
                failure.refused = without_quoted_abilities(failure.refused, fields)
            if failure.unreachable:
                attempt.failed()
            else:
                attempt.answered()
            if failure is error:
                raise
            raise failure from error
        finally:
            attempt.abandoned()
            if response is not None:
                await response.aclose()

    async def _post(self, client: AsyncOpenAI, body: Mapping[str, Any] | ContentUpload) -> httpx2.Response:
        """Returns the raw response, because reading through the client takes four times as long."""
        path = "/responses" if self._uses_responses_api else "/chat/completions"
        if isinstance(body, ContentUpload):
            content: bytes | ContentUpload = body
            headers = {"content-length": str(body.size)}
        else:
            content, headers = msgspec.json.encode(body), {}  # the client's own encoder takes ten times as long
        response = await client.post(
            path,
            content=content,
            options={"headers": headers},
            cast_to=httpx2.Response,
            stream=True,
            stream_cls=AsyncStream[object],
        )
        return cast("httpx2.Response", response)  # the client's types do not say that `cast_to` wins over `stream_cls`

    async def complete_text(self, body: Mapping[str, Any]) -> AnswerText:
        """The messages of an answer as one text. Empty if the model refused, or a filter cut the answer off.

        Raises ModelFailed.
        """
        text: list[str] = []
        in_message = refused = False
        finished = Finished("stop")
        async for part in self.stream(body):
            match part:
                case ItemStarted():
                    in_message = part.item["type"] == "message"
                case PartStarted():
                    refused = refused or part.kind == "refusal"
                case ItemDelta() if in_message:
                    text.append(part.text)
                case Finished():
                    finished = part
                case _:
                    pass
        if refused or finished.finish_reason == "content_filter":
            text.clear()
        return AnswerText("".join(text), finished.usage)


def _not_configured() -> ModelFailed:
    return ModelFailed("model_error", "No model provider is configured: set OPENAI_BASE_URL.")
