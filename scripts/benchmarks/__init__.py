"""The benchmarks that `scripts.bench` runs.

Each benchmark has a file: `append`, `read`, `context`, `stream` (with `chat_client`), `rebuild`, `memory`, `search`,
`lists`, `branches`, `neighbour` (with `neighbour_client` and `worst_client`). They share the other files: `benchmark`
(the base class, and how two sides, such as two stores, are measured in turns), `bench_store` (a store of a checkout), `load_client` and `requests`
(HTTP), `visibility_probe` (when an append is visible), `floor_app`, `provider` and `relay` (servers to compare with),
`floor_server` (starts these three), `figures` (results).
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout that these benchmarks are part of."""
