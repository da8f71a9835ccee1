"""The running store that a script works on: what `scripts/up` wrote to DIR/run/env, the real environment going first."""

import os
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from infrastructure.settings import Settings


class NotRunning(Exception):
    """No store is known: neither DIR/run/env nor the environment names it. The message says what to do."""


def environment(data: Path) -> dict[str, str]:
    """The variables of the store in `data`, overridden by those of this process. Empty strings count as absent."""
    written = dotenv_values(data / "run" / "env")
    return {name: value for name, value in ({**written, **os.environ}).items() if value}


def base_url(data: Path) -> str:
    """Where clients find it. Raises NotRunning."""
    url = environment(data).get("BASE_URL")
    if url is None:
        raise NotRunning(
            f"{data / 'run' / 'env'} names no BASE_URL: start the store with scripts/up, or say --base-url"
        )
    return url.rstrip("/")


def settings(data: Path) -> Settings:
    """Its settings, the URLs of its stores among them. Raises NotRunning."""
    if "POSTGRES_URL" not in environment(data):
        raise NotRunning(f"{data / 'run' / 'env'} names no POSTGRES_URL: start the store with scripts/up, or set it")
    try:
        return Settings(_env_file=data / "run" / "env")
    except ValidationError as error:
        raise NotRunning(f"the store's settings are not valid: {error}") from error
