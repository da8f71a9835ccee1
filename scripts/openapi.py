"""Writes one OpenAPI document for both APIs (`commands/` and `queries/`) to the file that nginx serves."""

import json
import threading
from pathlib import Path

from commands import main as commands
from infrastructure.http.openapi import combined
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from queries import main as queries

FILE = Path(__file__).resolve().parent.parent / "infrastructure" / "deploy" / "openapi.json"


def rendered() -> str:
    """The text of the file. Making it needs no stores."""
    settings = Settings()
    apps = [side.create_app(settings, Metrics(), threading.Event()) for side in (commands, queries)]
    document = combined(*(app.state.openapi() for app in apps))
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(rendered())
    print(f"{FILE.name} written")
