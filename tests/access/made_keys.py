"""API keys for tests. They are made as the store makes keys, and are stored in one statement."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from infrastructure.access.api_key import CreatedApiKey, from_seconds, new_key, secret_hash
from infrastructure.ids import uuid_of


def new_test_key(**fields: Any) -> CreatedApiKey:
    """A key that is not stored yet."""
    defaults = {
        "tenant": "acme",
        "subject": "ada",
        "scopes": ["read", "write", "reply"],
        "name": None,
        "expires_at": None,
    }
    return new_key(**{**defaults, **fields, "now": datetime.now(UTC)})


def store_keys(postgres_url: str, keys: Sequence[CreatedApiKey]) -> None:
    columns = "id, secret_sha256, tenant_id, subject, scopes, name, expires_at"
    with (
        psycopg.connect(postgres_url) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"COPY api_keys ({columns}) FROM STDIN".encode()) as copy,
    ):
        for key in keys:
            secret, expires_at = secret_hash(key.secret.rpartition("_")[2]), from_seconds(key.expires_at)
            copy.write_row((uuid_of(key.id), secret, key.tenant, key.subject, key.scopes, key.name, expires_at))


def store_new_key(postgres_url: str, **fields: Any) -> CreatedApiKey:
    key = new_test_key(**fields)
    store_keys(postgres_url, [key])
    return key


def execute(postgres_url: str, statement: str, *values: Any) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute(statement.encode(), values)
