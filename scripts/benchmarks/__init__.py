"""The benchmarks that `scripts.bench` runs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
