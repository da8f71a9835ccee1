"""What `scripts.bench` is made of.

A file for each benchmark: `append`, `read`, `context`, `stream`, `rebuild`, `memory`. What they share: `benchmark` (what
a benchmark is, and running two sides by turns), `bench_store` (a store of a checkout), `load_client` and `requests` (HTTP),
`visibility_probe`, `floor_app` and `provider` (servers to compare with), `figures` (results).
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout that these benchmarks are part of."""
