"""The indexes of the views in MongoDB. A new collection gets its indexes at once. A projector checks all indexes when
it starts.

The check runs in the background, because building an index on a large collection takes long.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import pymongo
import structlog
from pymongo import IndexModel
from pymongo.errors import PyMongoError

from infrastructure.cancellation import raise_if_cancelled
from infrastructure.stores.mongodb import Database
from projections.view_positions import ViewPositions
from projections.views.catalog import INDEXES, MONGO_VIEWS, PARTIAL_INDEXES

BUILD_TIMEOUT_SECONDS = 24 * 3600.0
"""With the client's usual timeout, each attempt to build a large index would be aborted."""

_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.1, 60.0
_PLAIN = frozenset({"key", "v"})
log = structlog.get_logger(__name__)


async def create_indexes(database: Database, view: str, collection: str) -> None:
    await database[collection].create_indexes(
        [IndexModel(list(keys), name=_name(keys), **_options(keys)) for keys in INDEXES[view]]
    )


async def check_indexes(database: Database) -> None:
    """Corrects the indexes of all views. After an error of MongoDB, tries again until the check succeeds."""
    positions = ViewPositions(database)
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            for view, collection in await _collections(positions):
                await correct_indexes(database, view, collection)
        except PyMongoError as error:
            log.warning("indexes_not_checked", error_type=type(error).__name__, retry_seconds=pause)
        else:
            return
        raise_if_cancelled()
        await asyncio.sleep(pause)
        pause = min(_MAX_PAUSE_SECONDS, pause * 2)


async def correct_indexes(database: Database, view: str, collection: str) -> None:
    """Creates missing indexes.

    First drops an index of the same name with other keys or options. Raises PyMongoError.
    """
    found = await database[collection].index_information()
    missing = [keys for keys in INDEXES[view] if not any(_is_index(index, keys) for index in found.values())]
    for keys in missing:
        replaces = _name(keys) in found
        log.warning("index_created", collection=collection, index=_name(keys), replaces_other=replaces)
        if replaces:
            await database[collection].drop_index(_name(keys))
    if missing:
        with pymongo.timeout(BUILD_TIMEOUT_SECONDS):
            await create_indexes(database, view, collection)


async def _collections(positions: ViewPositions) -> set[tuple[str, str]]:
    return {(position.view, position.collection) for position in await positions.load(MONGO_VIEWS)}


def _name(keys: tuple[tuple[str, int], ...]) -> str:
    return "_".join(f"{field}_{direction}" for field, direction in keys)


def _options(keys: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    return {"partialFilterExpression": PARTIAL_INDEXES[keys]} if keys in PARTIAL_INDEXES else {}


def _is_index(index: Mapping[str, Any], keys: tuple[tuple[str, int], ...]) -> bool:
    options = {name: value for name, value in index.items() if name not in _PLAIN}
    return options == _options(keys) and list(index["key"]) == list(keys)
