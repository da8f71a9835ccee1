"""MongoDB: one client a process, durable writes, and an answer soon when it is away. Projections, queries and scripts use it."""

from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from infrastructure.settings import Settings

Document = dict[str, Any]
Client = AsyncMongoClient[Document]
Database = AsyncDatabase[Document]


def connect(settings: Settings, *, answer_seconds: float = 10.0) -> Client:
    """A client that connects at its first use; `await client.close()` ends it.

    Writes are acknowledged when a majority has them in its journal. Without a server, an operation ends after 2 s with
    pymongo.errors.ServerSelectionTimeoutError; with one that does not answer, after `answer_seconds`.
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
