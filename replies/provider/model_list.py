"""The models that the provider lists, cached for a short time."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import openai
from openai import AsyncOpenAI

from domain.errors import ModelFailed
from replies.provider.client_errors import as_failure
from replies.provider.json_text import clean, clean_value

LIST_TIMEOUT_SECONDS = 5.0
MAX_AGE_SECONDS = 30.0
REFRESH_SECONDS = 3.0
"""After this time the list is fetched again if a model is not in it, or if the last fetch failed."""


class ModelList:
    """Concurrent callers share one request. `on_list` gets each fetched list with all its fields."""

    def __init__(
        self,
        client: AsyncOpenAI,
        clock: Callable[[], float] = time.monotonic,
        on_list: Callable[[Sequence[Mapping[str, Any]]], None] = lambda _: None,
    ) -> None:
        self._on_list = on_list
        self._client = client.with_options(timeout=LIST_TIMEOUT_SECONDS, max_retries=1)
        self._clock = clock
        self._models: list[dict[str, Any]] = []
        self._fetched_at = float("-inf")
        self._failure: ModelFailed | None = None
        self._lock = asyncio.Lock()

    async def models(self, max_age: float = MAX_AGE_SECONDS) -> list[dict[str, Any]]:
        """Each model as {id, object, created, owned_by}. Raises ModelFailed."""
        async with self._lock:
            age = self._clock() - self._fetched_at
            if age > (max_age if self._failure is None else REFRESH_SECONDS):
                try:
                    self._models, self._failure = await self._fetch(), None
                except ModelFailed as failure:
                    self._failure = failure
                self._fetched_at = self._clock()
            if self._failure is not None:
                raise self._failure
            return self._models

    async def find(self, name: str) -> dict[str, Any] | None:
        """None if the list does not have the model. Before that, fetches the list again if it is older than
        REFRESH_SECONDS and not empty.

        Raises ModelFailed.
        """
        models = await self.models()
        found = _find(name, models)
        if found is None and models:
            found = _find(name, await self.models(REFRESH_SECONDS))
        return found

    async def has(self, name: str) -> bool:
        """True also if the list is empty or cannot be fetched."""
        if _find(name, self._models) is not None:  # without the lock: does not wait while another caller fetches
            return True
        try:
            return await self.find(name) is not None or not self._models
        except ModelFailed:
            return True

    async def _fetch(self) -> list[dict[str, Any]]:
        try:
            page = await self._client.models.list()
            self._on_list([{**(model.model_extra or {}), "id": model.id} for model in page.data])
            return [
                {
                    "id": clean(model.id),
                    "object": "model",
                    "created": model.created or 0,
                    "owned_by": clean_value(model.owned_by or "unknown"),
                }
                for model in page.data
                if isinstance(model.id, str)
            ]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise as_failure(error) from error


def _find(name: str, models: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Some providers list a path before the name (`models/gemini-2.5-pro`)."""
    named = (model for model in models if model["id"] == name)
    below_a_path = (model for model in models if model["id"].endswith(f"/{name}"))
    return next(named, None) or next(below_a_path, None)
