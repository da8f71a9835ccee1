"""How long a page of items with images takes, compared with a page of texts."""

import base64
import random
from collections.abc import Mapping

import msgspec
import uvloop

from scripts.benchmarks.bench_store import BenchStore
from scripts.benchmarks.benchmark import Benchmark, Sizes
from scripts.benchmarks.figures import Measurement
from scripts.benchmarks.floor_server import FloorServer
from scripts.benchmarks.requests import TEXT, request, start_conversations, timed_gets, wait_for_views
from scripts.http_connection import Connection

PAGE = 20
GIF = b"GIF89a"

WITH_IMAGES, WITH_TEXTS = f"page of {PAGE} items with images", f"page of {PAGE} items with texts"


class Files(Benchmark):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self._paths: dict[BenchStore, dict[str, str]] = {}
        self._texts = 0.0

    def prepare(self, store: BenchStore) -> None:
        self._paths[store] = uvloop.run(self._pages(store.base_url))

    async def _pages(self, base_url: str) -> dict[str, str]:
        """The paths of the two pages, by name."""
        rng = random.Random(PAGE)  # noqa: S311 - not for secrets
        connection = await Connection.open(base_url)
        with_images, with_texts = await start_conversations(base_url, 2)
        text = {"type": "input_text", "text": TEXT}
        for _ in range(PAGE):
            data = base64.b64encode(GIF + rng.randbytes(self.sizes.image_bytes)).decode()
            image = {"type": "input_image", "image_url": f"data:image/gif;base64,{data}"}
            for conversation, content in ((with_images, [text, image]), (with_texts, [text])):
                body = msgspec.json.encode({"items": [{"type": "message", "role": "user", "content": content}]})
                await request(connection, "POST", f"/v1/conversations/{conversation}/items", body)
        connection.close()
        await wait_for_views(base_url)
        return {
            name: f"/v1/conversations/{conversation}/items?limit={PAGE}"
            for name, conversation in ((WITH_IMAGES, with_images), (WITH_TEXTS, with_texts))
        }

    def measure(self, store: BenchStore) -> list[Measurement]:
        times = uvloop.run(timed_gets(store.base_url, self._paths[store], self.sizes.seconds / 2))
        self._texts = times[WITH_TEXTS]
        return [Measurement(WITH_IMAGES, times[WITH_IMAGES], "ms", (WITH_TEXTS,))]

    def floors(self, store: BenchStore, floor: FloorServer) -> Mapping[str, float]:  # noqa: ARG002 - measured in turns with the pages
        return {WITH_TEXTS: self._texts}
