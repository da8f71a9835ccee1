"""The OpenAPI of both sides as the file that nginx serves: `python -m scripts.openapi` writes it anew.

A test keeps `infrastructure/deploy/openapi.json` as the code has it.
"""

import json
from pathlib import Path

from commands import main as commands
from infrastructure.http.openapi import both_sides
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries import main as queries

FILE = Path(__file__).resolve().parent.parent / "infrastructure" / "deploy" / "openapi.json"


def rendered() -> str:
    """The document as the file holds it. No store is needed."""
    settings = Settings()
    document = both_sides(commands.create_app(settings, Metrics()), queries.create_app(settings, Metrics()))
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(rendered())
    print(f"{FILE.name} written")
