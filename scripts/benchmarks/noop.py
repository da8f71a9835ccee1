"""The floor of HTTP: the same framework, server settings and body model as an append, and nothing behind them.

`python -m scripts.benchmarks.noop FD` serves on a listening socket that it inherits.
"""

import socket
import sys

from fastapi import FastAPI, Response

from commands.items import AddItems
from infrastructure.http.serve import serve
from infrastructure.settings import Settings

app = FastAPI()


@app.post("/v1/conversations/{conversation_id}/items")
async def nothing(conversation_id: str, body: AddItems) -> Response:  # noqa: ARG001 - read and validated is all they are
    return Response(b"{}", media_type="application/json")


if __name__ == "__main__":
    serve(app, Settings(), [socket.socket(fileno=int(sys.argv[1]))])
