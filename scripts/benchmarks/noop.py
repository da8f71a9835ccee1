"""The floor of HTTP: the same framework, server and body model as an append, and nothing behind them.

`python -m scripts.benchmarks.noop FD` serves on a listening socket that it inherits.
"""

import socket
import sys

import uvicorn
from fastapi import FastAPI, Response

from commands.add_items import AddItems
from scripts.api import BACKLOG, GRACEFUL_SECONDS, KEEP_ALIVE_SECONDS

app = FastAPI()


@app.post("/v1/conversations/{conversation_id}/items")
async def nothing(conversation_id: str, body: AddItems) -> Response:  # noqa: ARG001 - read and validated is all they are
    return Response(b"{}", media_type="application/json")


def main() -> None:
    """uvicorn as `scripts.api` sets it up, with its own plain protocol."""
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
