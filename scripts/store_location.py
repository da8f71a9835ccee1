"""Where the running store is: what `scripts/up` wrote to DIR/run/env, the real environment going first."""

import os
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from infrastructure.settings import Settings


class NotRunning(Exception):
    """No store is known: neither DIR/run/env nor the environment names it. The message says what to do."""


def base_url(data: Path) -> str:
    """Where clients find it. Raises NotRunning."""
    return _known(data, "BASE_URL").rstrip("/")


def settings(data: Path) -> Settings:
    """Its settings, the URLs of its stores among them. Raises NotRunning."""
    _known(data, "POSTGRES_URL")
    try:
        return Settings(_env_file=data / "run" / "env")
    except ValidationError as error:
        raise NotRunning(f"the store's settings are not valid: {error}") from error


def _known(data: Path, name: str) -> str:
    file = data / "run" / "env"
    value = os.environ.get(name) or dotenv_values(file).get(name)
    if not value:
        raise NotRunning(f"{file} names no {name}: start the store with scripts/up, or set {name}")
    return value
