"""Finds the running store: by environment variables, or by DIR/run/env."""

import os
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from infrastructure.settings import Settings


class StoreNotFound(Exception):
    """No store is named, or its settings are not valid."""


def base_url(data: Path) -> str:
    """Raises StoreNotFound."""
    return _variable(data, "BASE_URL").rstrip("/")


def settings(data: Path) -> Settings:
    """Raises StoreNotFound."""
    _variable(data, "POSTGRES_URL")
    return _settings(data)


def credential(data: Path) -> dict[str, str]:
    """The header with the API key. Empty without STORE_API_KEY. Raises StoreNotFound if the settings are not valid."""
    key = _settings(data).store_api_key.get_secret_value()
    return {"authorization": f"Bearer {key}"} if key else {}


def _settings(data: Path) -> Settings:
    try:
        return Settings(_env_file=data / "run" / "env")
    except ValidationError as error:
        raise StoreNotFound(f"The store's settings are not valid: {error}") from error


def _variable(data: Path, name: str) -> str:
    file = data / "run" / "env"
    value = os.environ.get(name) or dotenv_values(file).get(name)
    if not value:
        raise StoreNotFound(
            f"No store found: neither the environment nor {file} sets {name}. Start the store with scripts/up, or set {name}."
        )
    return value
