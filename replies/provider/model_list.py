"""The models that the provider lists, kept for a while."""

import asyncio
import time
from typing import Any

import openai
from openai import AsyncOpenAI

from domain.errors import ModelFailed
from replies.provider.client_errors import as_failure

KEPT_SECONDS = 30.0
REFRESHED_SECONDS = 3.0
"""How often it is asked again at most: for a model that is not in the list, and after it could not be asked."""


class Listing:
    """One list for a process; concurrent askers share one request."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client.with_options(timeout=5.0, max_retries=1)
        self._models: list[dict[str, Any]] = []
        self._asked_at = float("-inf")
        self._failure: ModelFailed | None = None
        self._asking = asyncio.Lock()

    async def models(self, newer_than: float = KEPT_SECONDS) -> list[dict[str, Any]]:
        """{id, object, created, owned_by} of each, not older than this many seconds. Raises ModelFailed."""
        async with self._asking:
            age = time.monotonic() - self._asked_at
            if age > (newer_than if self._failure is None else REFRESHED_SECONDS):
                try:
                    self._models, self._failure = await self._ask(), None
                except ModelFailed as failure:
                    self._failure = failure
                self._asked_at = time.monotonic()
            if self._failure is not None:
                raise self._failure
            return self._models

    async def has(self, name: str) -> bool:
        """Whether the provider lists the model, or listed it last; true where it lists nothing at all, or can not be asked."""
        if _is_in(name, self._models):  # nobody waits for a list that another asks for
            return True
        try:
            models = await self.models()
            if models and not _is_in(name, models):
                models = await self.models(REFRESHED_SECONDS)
        except ModelFailed:
            return True
        return not models or _is_in(name, models)

    async def _ask(self) -> list[dict[str, Any]]:
        try:
            page = await self._client.models.list()
            return [
                {"id": m.id, "object": "model", "created": m.created or 0, "owned_by": m.owned_by or "unknown"}
                for m in page.data
                if isinstance(m.id, str)
            ]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:
            raise as_failure(error) from error


def _is_in(name: str, models: list[dict[str, Any]]) -> bool:
    """Some list a model under a path that they do not ask for: `models/gemini-2.5-pro`."""
    return any(each["id"] == name or each["id"].endswith(f"/{name}") for each in models)
