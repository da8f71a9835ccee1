"""Keeps the provider's list and the learnt facts about models up to date."""

import asyncio
from collections.abc import Iterable

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from context.learnt_models import LearntModels
from context.models import Models
from domain.errors import ModelFailed
from infrastructure.cancellation import raise_if_cancelled
from replies.provider.provider import ModelProvider

log = structlog.get_logger(__name__)

LEARNT_SECONDS = 5.0

LIST_EVERY = 12
"""The list is read with every 12th read of the learnt facts; until the first success, with every read."""

MAX_LOGGED_MODELS = 20
MAX_LOGGED_NAME = 256


class ModelWatch:
    """Reads the list and the facts again and again.

    After the first list, logs the models whose window or price is not known.
    """

    def __init__(self, provider: ModelProvider, models: Models, learnt: LearntModels) -> None:
        self._provider = provider
        self._models = models
        self._learnt = learnt
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        if self._provider.configured:
            await asyncio.to_thread(self._models.load_prices)
        turn, has_reported = 0, False
        while True:
            await self._read_learnt()
            if turn % LIST_EVERY == 0 or not has_reported:
                has_reported = await self._read_list(report=not has_reported) or has_reported
            turn += 1
            raise_if_cancelled()
            await asyncio.sleep(LEARNT_SECONDS)

    async def _read_learnt(self) -> None:
        try:
            await self._learnt.refresh()
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            log.debug("learnt_facts_not_read", error_type=type(error).__name__)
        except Exception:
            log.exception("learnt_facts_crashed")

    async def _read_list(self, *, report: bool) -> bool:
        """Returns False if the list could not be read."""
        if not self._provider.configured:
            return True
        try:
            listed = await self._provider.list_models()
        except ModelFailed:
            return False
        if report:
            self._report_unknown({*self._provider.configured_models, *(str(model["id"]) for model in listed)})
        return True

    def _report_unknown(self, names: Iterable[str]) -> None:
        for field in ("window", "price"):
            unknown = sorted(name for name in names if field in self._models.unknown(name))
            if unknown:
                some = [name[:MAX_LOGGED_NAME] for name in unknown[:MAX_LOGGED_MODELS]]
                log.warning("unknown_models", unknown=field, models=some, count=len(unknown))
