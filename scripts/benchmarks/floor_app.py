"""The floors of HTTP: the same framework and servers as the store, and only the work that cannot be left out.

    POST /v1/conversations/{id}/items   reads and validates the body
    PUT  /floor/{key}                   keeps the body, an answer of the store, for the two below
    GET  /floor/{key}/page              one Postgres look-up by key and one MongoDB find of the answer's items
    GET  /floor/{key}/context           one Postgres look-up by key and one Redis GET of the whole answer

`python -m scripts.benchmarks.floor_app FD` serves on a listening socket that it inherits, on the stores of its environment.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from scripts.benchmarks.floor_server import serve


class AddItems(BaseModel):
    """The body of an append."""

    items: list[dict[str, Any]]


class Floor:
    """One row of each store for each key."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._pool = AsyncConnectionPool(environment["POSTGRES_URL"], open=False, kwargs={"autocommit": True})
        mongo = AsyncMongoClient[dict[str, Any]](environment["MONGODB_URL"])
        self._items = mongo.get_default_database()["bench_floor"]
        self._redis = Redis.from_url(environment["REDIS_URL"])

    async def open(self) -> None:
        await self._pool.open()
        async with self._pool.connection() as connection:
            await connection.execute("CREATE TABLE IF NOT EXISTS bench_floor (key text PRIMARY KEY, version bigint)")
        await self._items.create_index([("key", 1), ("number", 1)])

    async def keep(self, key: str, answer: bytes) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("INSERT INTO bench_floor VALUES (%s, 1) ON CONFLICT DO NOTHING", (key,))
        await self._redis.set(key, answer)
        items = msgspec.json.decode(answer).get("data", [])
        await self._items.delete_many({"key": key})
        if items:
            documents = [{"key": key, "number": n, "item": msgspec.json.encode(item)} for n, item in enumerate(items)]
            await self._items.insert_many(documents)

    async def page(self, key: str) -> bytes:
        await self._look_up(key)
        items = [document["item"] async for document in self._items.find({"key": key}).sort("number", 1)]
        return b'{"data":[' + b",".join(items) + b"]}"

    async def context(self, key: str) -> str | bytes | None:
        await self._look_up(key)
        return await self._redis.get(key)

    async def _look_up(self, key: str) -> None:
        async with self._pool.connection() as connection:
            await (await connection.execute("SELECT version FROM bench_floor WHERE key = %s", (key,))).fetchone()


def create_app(floor: Floor) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await floor.open()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/conversations/{conversation_id}/items")
    async def append(conversation_id: str, body: AddItems) -> Response:  # noqa: ARG001 - they are read and validated
        return Response(b"{}", media_type="application/json")

    @app.put("/floor/{key}")
    async def keep(key: str, request: Request) -> Response:
        await floor.keep(key, await request.body())
        return Response(b"{}", media_type="application/json")

    @app.get("/floor/{key}/page")
    async def page(key: str) -> Response:
        return Response(await floor.page(key), media_type="application/json")

    @app.get("/floor/{key}/context")
    async def context(key: str) -> Response:
        return Response(await floor.context(key), media_type="application/json")

    return app


if __name__ == "__main__":
    serve(create_app(Floor(dict(os.environ))), int(sys.argv[1]))
