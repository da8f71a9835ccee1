"""The MongoDB client: one per process, with durable writes and short timeouts."""

from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from infrastructure.settings import Settings

Document = dict[str, Any]
Client = AsyncMongoClient[Document]
Database = AsyncDatabase[Document]


def connect(settings: Settings, *, answer_seconds: float = 10.0) -> Client:
    """A client that connects at its first use. Close it with `await client.close()`.

    Writes are acknowledged when a majority of the servers have them in their journals. If no server can be reached, an operation fails after
    2 s with pymongo.errors.ServerSelectionTimeoutError. If the server does not answer, the operation fails after `answer_seconds`.
    """
    return AsyncMongoClient(
        settings.mongodb_url,
        appname="conversation-store",
        w="majority",
        journal=True,
        serverSelectionTimeoutMS=2000,
        connectTimeoutMS=2000,
        socketTimeoutMS=round(answer_seconds * 1000),
        tz_aware=True,
    )


def database(client: Client, settings: Settings) -> Database:
    """The database that the settings name."""
    return client[settings.mongodb_database]
