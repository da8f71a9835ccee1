"""A server that only passes chat completions on, with the store's HTTP client. It parses and stores nothing.

`python -m scripts.benchmarks.relay FD` serves on the inherited listening socket FD. OPENAI_BASE_URL is the provider's
URL.
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import httpx2
import openai
from openai import AsyncOpenAI, AsyncStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from scripts.benchmarks.floor_server import serve


def create_app(provider_url: str) -> Starlette:
    client = AsyncOpenAI(base_url=provider_url, api_key="none", http_client=openai.DefaultAioHttpClient())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    async def relay(request: Request) -> StreamingResponse:
        answer = await client.post(
            "/chat/completions",
            content=await request.body(),
            cast_to=httpx2.Response,
            stream=True,
            stream_cls=AsyncStream[object],
        )
        response = cast("httpx2.Response", answer)  # by its type, `post` does not return what `cast_to` names
        return StreamingResponse(response.aiter_raw(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", relay, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    serve(create_app(os.environ["OPENAI_BASE_URL"]), int(sys.argv[1]))
