"""The floor of a context: the same framework, server settings and connection pools, one Redis GET and one look-up by primary key.

`python -m scripts.benchmarks.floor_context FD` serves on a listening socket that it inherits, on the stores of its environment. It
answers with what it got from `FLOOR_KEY`, where somebody put as much as the snapshot has.
"""

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from infrastructure.event_log.reader import EventReader
from infrastructure.http.serve import serve
from infrastructure.settings import Settings
from infrastructure.stores import redis
from infrastructure.stores.postgres import make_pool

FLOOR_KEY = "bench:{conversation_id}"


def create_app(settings: Settings) -> FastAPI:
    """The app; its lifespan opens and closes the pools."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool, kept = make_pool(settings.postgres_url), redis.connect(settings)
        await pool.open(wait=False)
        app.state.reader, app.state.kept = EventReader(pool), kept
        yield
        await pool.close()
        await kept.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/v1/conversations/{conversation_id}/context")
    async def least(conversation_id: str, request: Request) -> Response:
        head = await request.app.state.reader.head(conversation_id)
        held = await request.app.state.kept.get(FLOOR_KEY.format(conversation_id=conversation_id))
        if head is None or held is None:
            return Response(status_code=404)
        return Response(held, media_type="application/json", headers={"etag": f'"{head.version}"'})

    return app


if __name__ == "__main__":
    settings = Settings()
    serve(create_app(settings), settings, [socket.socket(fileno=int(sys.argv[1]))])
