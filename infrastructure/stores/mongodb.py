"""The MongoDB client, with durable writes."""

from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from infrastructure.settings import Settings

Document = dict[str, Any]
Client = AsyncMongoClient[Document]
Database = AsyncDatabase[Document]


def connect(settings: Settings, *, answer_seconds: float = 10.0) -> Client:
    """Connects at the first use. Without a server, operations fail after 2 s with pymongo.errors.ServerSelectionTimeoutError."""
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
    return client[settings.mongodb_database]
