"""The model: any OpenAI-compatible provider, spoken to through the official client. Commands ask it, queries list it."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import openai
from msgspec import Struct
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from domain.events import Usage
from domain.rendering import CHAT
from infrastructure.model.pieces import Began, Finished, Grew, Piece, Said
from infrastructure.settings import Settings

MODELS_KEPT_SECONDS = 30.0
LONGEST_ANSWER = 1_000_000
"""Characters. A provider that sends more than this has lost its mind."""

WINDOWS = (
    ("gpt-5", 400_000),
    ("gpt-4.1", 1_047_576),
    ("gpt-4o", 128_000),
    ("gpt-4-turbo", 128_000),
    ("gpt-4", 8_192),
    ("gpt-3.5", 16_385),
    ("o1", 200_000),
    ("o3", 200_000),
    ("o4", 200_000),
    ("smollm2", 4_096),
)
"""Context windows in tokens, by how a model's name begins; the first that fits. The providers' own documentation."""

DEFAULT_WINDOW = 4_096


class ChatPiece(Struct, frozen=True, kw_only=True):
    """One piece of a streamed answer. `finish_reason` and `usage` come with the last ones."""

    text: str = ""
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    model: str | None = None


class ModelFailed(Exception):
    """The provider did not answer as it should: `code` says how, in words without content. `timed_out`: it was too slow."""

    def __init__(self, code: str, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.timed_out = timed_out


class Model:
    """The provider at OPENAI_BASE_URL. One for a process; `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: AsyncOpenAI | None = None
        if settings.openai_base_url:
            self._client = AsyncOpenAI(
                base_url=settings.openai_base_url,
                api_key=settings.openai_api_key.get_secret_value(),
                timeout=openai.Timeout(settings.model_timeout, connect=5.0),
                max_retries=2,
            )
        self._models: list[dict[str, Any]] = []
        self._models_at = float("-inf")
        self._listing = asyncio.Lock()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def configured(self) -> bool:
        return self._client is not None

    def window(self, model: str) -> int:
        """The model's context window in tokens."""
        if self._settings.model_window:
            return self._settings.model_window
        name = model.rsplit("/", 1)[-1].lower()
        return next((window for start, window in WINDOWS if name.startswith(start)), DEFAULT_WINDOW)

    def room(self, model: str) -> float:
        """The part of a budget that is filled: a model that is not OpenAI's counts with a vocabulary of its own."""
        name = model.rsplit("/", 1)[-1].lower()
        return 1.0 if name.startswith(("gpt-", "o1", "o3", "o4")) else 0.8

    def cost(self, model: str, usage: Usage) -> int | None:  # noqa: ARG002 - soon
        """What the tokens cost, in billionths of a US dollar; None where the model's price is not known."""
        return None

    async def default_model(self) -> str:
        """The model of a reply that names none. Raises ModelFailed when the provider can not say."""
        if self._settings.default_model:
            return self._settings.default_model
        models = await self.list_models()
        if not models:
            raise ModelFailed("model_error", "The model provider lists no model.")
        return str(models[0]["id"])

    async def list_models(self) -> list[dict[str, Any]]:
        """The provider's models: {id, object, created, owned_by}; asked for again after MODELS_KEPT_SECONDS."""
        async with self._listing:
            if time.monotonic() - self._models_at > MODELS_KEPT_SECONDS:
                client = self._need_client()
                try:
                    page = await client.with_options(timeout=5.0, max_retries=1).models.list()
                    self._models = [
                        {"id": m.id, "object": "model", "created": m.created or 0, "owned_by": m.owned_by or "unknown"}
                        for m in page.data
                    ]
                except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
                    raise as_failure(error) from error
                self._models_at = time.monotonic()
            return self._models

    async def stream_chat(self, body: Mapping[str, Any]) -> AsyncIterator[ChatPiece]:
        """The answer to a rendered body, piece by piece. Retried by the client before the first piece, never after.

        Raises ModelFailed: the provider is away, too slow, refuses, breaks off, or answers something else.
        """
        client = self._need_client()
        finished = False
        length = 0
        try:
            stream = await client.chat.completions.create(**dict(body))
            async with stream:
                async for chunk in stream:
                    piece = _piece(chunk)
                    finished = finished or piece.finish_reason is not None
                    length += len(piece.text)
                    if length > LONGEST_ANSWER:
                        raise ModelFailed("model_error", "The model provider's answer was too long.")
                    yield piece
        except ModelFailed:
            raise
        except Exception as error:
            raise as_failure(error) from error
        if not finished:
            raise ModelFailed("model_error", "The model provider's answer broke off.")

    @property
    def renderer(self) -> int:
        """The renderer of the bodies that the provider is sent."""
        return CHAT

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Piece]:
        """The answer to a body that `renderer` rendered. Retried by the client before the first piece, never after.

        Raises ModelFailed: the provider is away, too slow, refuses, breaks off, or answers something else.
        """
        began = False
        reason, usage, model = "stop", None, None
        async for piece in self.stream_chat(body):
            reason, usage, model = piece.finish_reason or reason, piece.usage or usage, piece.model or model
            if piece.text:
                if not began:
                    began = True
                    yield Began({"type": "message", "role": "assistant"})
                yield Grew(piece.text)
        counted = None
        if usage is not None:
            counted = Usage(
                input_tokens=count_in(usage, "prompt_tokens"),
                output_tokens=count_in(usage, "completion_tokens"),
                cached_tokens=count_in(usage, "prompt_tokens_details", "cached_tokens"),
                reasoning_tokens=count_in(usage, "completion_tokens_details", "reasoning_tokens"),
            )
        yield Finished(reason, counted, model)

    async def say(self, body: Mapping[str, Any]) -> Said:
        """The text of an answer, once it is whole. Raises ModelFailed."""
        text: list[str] = []
        finished = Finished("stop")
        async for piece in self.stream(body):
            match piece:
                case Grew():
                    text.append(piece.text)
                case Finished():
                    finished = piece
                case _:
                    pass
        return Said("".join(text), finished.usage, finished.model)

    def _need_client(self) -> AsyncOpenAI:
        if self._client is None:
            raise ModelFailed("model_error", "No model provider is configured: set OPENAI_BASE_URL.")
        return self._client


def as_failure(error: Exception) -> ModelFailed:
    """What went wrong with the provider, in our words: its own may hold what people wrote, or a key."""
    match error:
        case openai.APITimeoutError() | TimeoutError():
            return ModelFailed("model_timeout", "The model provider did not answer in time.", timed_out=True)
        case openai.RateLimitError():
            return ModelFailed("model_rate_limited", "The model provider is at its rate limit.")
        case openai.APIStatusError():
            return ModelFailed("model_error", f"The model provider answered with status {error.status_code}.")
        case openai.APIConnectionError():
            return ModelFailed("model_error", "The model provider could not be reached.")
        case _:
            return ModelFailed("model_error", "The model provider's answer could not be understood.")


def _piece(chunk: Any) -> ChatPiece:
    """One chunk of `/chat/completions`. Raises on anything that is not one: the client itself does not look."""
    if not isinstance(chunk, ChatCompletionChunk):
        raise TypeError(f"Not a chunk: {type(chunk).__name__}")
    model = _text(chunk.model)
    usage = chunk.usage.model_dump(warnings="none") if chunk.usage is not None else None
    if not chunk.choices:
        return ChatPiece(usage=usage, model=model)
    choice = chunk.choices[0]
    text = _text(choice.delta.content) or _text(choice.delta.refusal) or ""
    text.encode()  # raises where half a character is all there is
    text = text.replace("\0", "")  # nothing here could store it, and no client send it back
    return ChatPiece(text=text, finish_reason=_text(choice.finish_reason), usage=usage, model=model)


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"Not a text: {type(value).__name__}")
    return value


def count_in(usage: Any, *path: str) -> int:
    """A number of tokens out of a provider's usage; 0 where there is none that could be one."""
    for name in path:
        usage = usage.get(name) if isinstance(usage, dict) else None
    return usage if type(usage) is int and 0 <= usage < 2**53 else 0
