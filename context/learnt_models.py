"""Facts about models that the store learns from a provider's refusals.

Every process reads the table `learnt_models` every few seconds. A fact is forgotten after a week, because the
provider may have changed the model. If the model is unchanged, one request is refused, and the fact is learnt again.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

import psycopg
import structlog
from msgspec import Struct
from msgspec.structs import replace
from psycopg import sql
from psycopg_pool import PoolTimeout

from infrastructure.stores.postgres import Pool

log = structlog.get_logger(__name__)

MAX_LOGGED_NAME: Final = 256

WINDOW: Final = "window"
MISSING: Final = "missing:"

_LEARN = sql.SQL("""
    INSERT INTO learnt_models AS learnt (provider, model, fact, tokens)
    VALUES (%(provider)s, %(model)s, %(fact)s, %(tokens)s)
    ON CONFLICT (provider, model, fact) DO UPDATE SET learnt_at = now(), tokens = CASE
        WHEN learnt.learnt_at < now() - interval '7 days' THEN excluded.tokens ELSE least(learnt.tokens, excluded.tokens) END
""")
_READ = sql.SQL("""
    SELECT model, fact, tokens FROM learnt_models
    WHERE provider = %(provider)s AND learnt_at >= now() - interval '7 days' ORDER BY model, fact LIMIT 10000
""")


class LearntModel(Struct, frozen=True, kw_only=True):
    window: int | None = None
    missing: frozenset[str] = frozenset()


class LearntModels:
    """The facts learnt about one provider's models.

    `on_change` is called with all facts. If Postgres is unavailable, only this process knows a new fact, until this
    process reads the table again.
    """

    def __init__(self, pool: Pool, base_url: str, on_change: Callable[[Mapping[str, LearntModel]], None]) -> None:
        self._pool = pool
        self._provider = _without_credentials(base_url)
        self._on_change = on_change
        self._models: dict[str, LearntModel] = {}
        self._writing = self._writes = 0
        """How many calls are writing facts now, and how many have finished."""

    async def refresh(self) -> None:
        """Raises psycopg.Error."""
        writes = self._writes
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(_READ, {"provider": self._provider})).fetchall()
        if self._writing or writes != self._writes:
            return  # these rows may lack a fact that this process has just learnt
        models: dict[str, LearntModel] = {}
        for row in rows:
            model, fact, tokens = str(row[0]), str(row[1]), row[2]
            models[model] = _with_fact(models.get(model, LearntModel()), fact, tokens)
        self._models = models
        self._on_change(models)

    async def learn_window(self, model: str, tokens: int) -> None:
        await self._learn(model, {WINDOW: tokens})

    async def learn_missing(self, model: str, abilities: Collection[str]) -> None:
        await self._learn(model, {f"{MISSING}{ability}": None for ability in abilities})

    async def _learn(self, model: str, facts: Mapping[str, int | None]) -> None:
        log.warning("model_facts_learnt", model=model[:MAX_LOGGED_NAME], facts=dict(facts))
        learnt = self._models.get(model, LearntModel())
        for fact, tokens in facts.items():
            learnt = _with_fact(learnt, fact, tokens)
        self._models[model] = learnt
        self._on_change(self._models)
        self._writing += 1
        try:
            async with self._pool.connection() as connection:
                for fact, tokens in facts.items():
                    parameters = {"provider": self._provider, "model": model, "fact": fact, "tokens": tokens}
                    await connection.execute(_LEARN, parameters)
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("learnt_facts_not_stored", error_type=type(error).__name__)
        finally:
            self._writing -= 1
            self._writes += 1


def _with_fact(learnt: LearntModel, fact: str, tokens: object) -> LearntModel:
    if fact == WINDOW and isinstance(tokens, int):
        return replace(learnt, window=min(tokens, learnt.window or tokens))
    if fact.startswith(MISSING):
        return replace(learnt, missing=learnt.missing | {fact.removeprefix(MISSING)})
    return learnt


def _without_credentials(url: str) -> str:
    """The URL without the scheme, the user name, the password and the parameters after `?`."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
