"""Random histories in which operators restore dumps, fail over and remove rows, also while processes run.

    scripts/test tests/end_to_end/test_restores.py                                       a few histories, as in CI
    scripts/test tests/end_to_end/test_restores.py -m endless                            two hundred longer histories
    HISTORIES=20 HISTORY_SEED=7 scripts/test tests/end_to_end/test_restores.py -m endless     twenty of these, from seed 7 on

The same seed gives the same steps, with other timing. After each step except a dump:

- The log has no gap and no broken chain.
- Each acknowledged request that the log has not lost is stored once.
- Every read is a 503, is marked as unverified, or equals a fold of the present log.
- No answer is a 500.
"""

import itertools
import logging
import os
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from infrastructure.event_log.migrate import migrate
from tests.end_to_end.history import History
from tests.end_to_end.history_requests import answer_by_number
from tests.end_to_end.log_moves import LogMoves
from tests.end_to_end.store_processes import StoreProcesses
from tests.scripted_provider import ScriptedProvider

SEED = int(os.environ.get("HISTORY_SEED", "1"))
FEW, STEPS = (5, 11), 6  # the two seeds together have each kind of move
MANY, MANY_STEPS = int(os.environ.get("HISTORIES", "200")), 12

WEIGHTS: Mapping[Callable[[History], Awaitable[None]], int] = {
    History.requests: 4,
    History.dump: 2,
    History.restore: 5,
    History.remove_rows: 3,
    History.fail_over: 2,
    History.restart: 2,
    History.restart_postgres: 1,
    History.stop_some: 1,
    History.start_all: 1,
    History.flush_redis: 1,
}
"""The steps that are drawn at random, with their weights."""

MOVES = (History.restore, History.restore, History.remove_rows, History.fail_over)

Step = Callable[[History], Awaitable[None]]

logger = logging.getLogger(__name__)


class Stores:
    """Processes that the histories share. A failed history discards these processes."""

    def __init__(self, path: Path, provider_url: str) -> None:
        self._path = path
        self._provider_url = provider_url
        self._numbers = itertools.count()
        self._store: StoreProcesses | None = None
        self._moves: LogMoves | None = None

    def open(self) -> tuple[StoreProcesses, LogMoves]:
        if self._store is None or self._moves is None:
            path = self._path / str(next(self._numbers))
            path.mkdir()
            self._store = StoreProcesses(path, self._provider_url)
            migrate(self._store.settings.postgres_url)
            self._moves = LogMoves(self._store.postgres, path)
        else:
            self._moves.start_over()
        self._store.start()
        return self._store, self._moves

    def discard(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._moves = None


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, provider: ScriptedProvider) -> Iterator[Stores]:
    provider.script = answer_by_number(itertools.count().__next__)
    stores = Stores(tmp_path_factory.mktemp("restores"), provider.url)
    yield stores
    stores.discard()


@pytest.mark.parametrize(
    ("seed", "steps"),
    [
        *(pytest.param(seed, STEPS, id=f"seed={seed}") for seed in FEW),
        *(
            pytest.param(seed, MANY_STEPS, id=f"seed={seed}, {MANY_STEPS} steps", marks=pytest.mark.endless)
            for seed in range(SEED, SEED + MANY)
        ),
    ],
)
async def test_after_the_log_moves_back_no_read_shows_lost_data_and_the_store_works(
    stores: Stores, seed: int, steps: int
) -> None:
    rng = random.Random(seed)
    store, moves = stores.open()
    async with httpx.AsyncClient(timeout=30) as http:
        history = History(store, moves, http, f"{seed}")
        try:
            for step in plan_steps(steps, rng):
                await history.run(step, rng.random())
        except BaseException as error:
            error.add_note(f"Seed {seed}, after: {'; '.join(history.steps)}\n{store.logs()}")
            stores.discard()
            raise
    logger.info("%d: %s; %d deadlocks", seed, "; ".join(history.steps), moves.deadlocks)


def plan_steps(count: int, rng: random.Random) -> list[Step]:
    """Plans random steps, with at least one move of the log."""
    steps = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count - 4)
    steps.insert(rng.randint(0, len(steps)), rng.choice(MOVES))
    return [History.requests, History.dump, *steps, History.finish]
