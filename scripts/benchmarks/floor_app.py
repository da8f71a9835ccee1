"""The floors of the HTTP figures: a FastAPI app with only the database work that no store can avoid.

    POST /v1/conversations/{id}/items   reads and validates the body
    PUT  /floor/{key}                   saves the body (an answer of the store) for the two GETs
    GET  /floor/{key}/page              one Postgres look-up by key and one MongoDB find
    GET  /floor/{key}/context           one Postgres look-up by key and one Redis GET

`python -m scripts.benchmarks.floor_app FD` serves on the inherited listening socket FD.
"""

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import msgspec
from fastapi import FastAPI, Request, Response
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from scripts.benchmarks.floor_server import serve

JSON = "application/json"


class AddItems(BaseModel):
    items: list[dict[str, Any]]


def create_app(environment: Mapping[str, str]) -> FastAPI:
    pool = AsyncConnectionPool(environment["POSTGRES_URL"], open=False, kwargs={"autocommit": True})
    mongodb = AsyncMongoClient[dict[str, Any]](environment["MONGODB_URL"])
    documents = mongodb.get_default_database()["bench_floor"]
    redis = Redis.from_url(environment["REDIS_URL"])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool, mongodb, redis:
            await postgres("CREATE TABLE IF NOT EXISTS bench_floor (key text PRIMARY KEY, version bigint)")
            await documents.create_index([("key", 1), ("number", 1)])
            yield

    async def postgres(statement: LiteralString, *values: str) -> None:
        async with pool.connection() as connection:
            await connection.execute(statement, values)

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/conversations/{conversation_id}/items")
    async def append(conversation_id: str, body: AddItems) -> Response:  # noqa: ARG001 - FastAPI reads and validates them
        return Response(b"{}", media_type=JSON)

    @app.put("/floor/{key}")
    async def save(key: str, request: Request) -> Response:
        answer = await request.body()
        await postgres("INSERT INTO bench_floor VALUES (%s, 1) ON CONFLICT DO NOTHING", key)
        await redis.set(key, answer)
        await documents.delete_many({"key": key})
        for number, item in enumerate(msgspec.json.decode(answer).get("data", [])):
            await documents.insert_one({"key": key, "number": number, "item": msgspec.json.encode(item)})
        return Response(b"{}", media_type=JSON)

    @app.get("/floor/{key}/page")
    async def page(key: str) -> Response:
        await postgres("SELECT version FROM bench_floor WHERE key = %s", key)
        items = [document["item"] async for document in documents.find({"key": key}).sort("number", 1)]
        return Response(b'{"data":[' + b",".join(items) + b"]}", media_type=JSON)

    @app.get("/floor/{key}/context")
    async def context(key: str) -> Response:
        await postgres("SELECT version FROM bench_floor WHERE key = %s", key)
        return Response(await redis.get(key), media_type=JSON)

    return app


if __name__ == "__main__":
    serve(create_app(os.environ), int(sys.argv[1]))
