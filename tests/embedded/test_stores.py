"""The embedded servers and the local model."""

from typing import Any

import psycopg
import pytest
from openai import OpenAI
from pymongo import MongoClient
from redis import Redis

from infrastructure.settings import Settings


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
def test_postgres_is_durable(server_urls: dict[str, str], name: str) -> None:
    with psycopg.connect(server_urls["POSTGRES_URL"]) as connection:
        assert connection.execute(f"SHOW {name}").fetchone() == ("on",)


def test_wal_segments_are_small(
    server_urls: dict[str, str],
) -> None:
    with psycopg.connect(server_urls["POSTGRES_URL"]) as connection:
        assert connection.execute("SHOW wal_segment_size").fetchone() == ("1MB",)


@pytest.mark.parametrize(("name", "value"), [("wal_buffers", "8MB"), ("min_wal_size", "80MB")])
def test_wal_settings_have_their_usual_values_despite_small_segments(
    server_urls: dict[str, str], name: str, value: str
) -> None:
    with psycopg.connect(server_urls["POSTGRES_URL"]) as connection:
        assert connection.execute(f"SHOW {name}").fetchone() == (value,)


def test_postgres_uses_utf_8_with_a_built_in_locale(server_urls: dict[str, str]) -> None:
    with psycopg.connect(server_urls["POSTGRES_URL"]) as connection:
        row = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datlocprovider, datlocale FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert row == ("UTF8", "b", "C.UTF-8")


def test_mongod_is_a_journaled_replica_set_on_loopback(server_urls: dict[str, str]) -> None:
    client: MongoClient[dict[str, Any]] = MongoClient(server_urls["MONGODB_URL"])
    with client:
        options = client.admin.command("getCmdLineOpts")["parsed"]
        log = client.admin.command("serverStatus")["wiredTiger"]["log"]
    assert options["net"]["bindIp"] == "127.0.0.1"
    assert options["replication"]["replSet"] == "rs0"
    assert options["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"] == 1
    assert options["storage"].get("journal", {}).get("enabled", True)
    assert log["maximum log file size"] > 0


def test_valkey_writes_nothing_to_disk_and_evicts_at_a_memory_limit(server_urls: dict[str, str]) -> None:
    with Redis.from_url(server_urls["REDIS_URL"], decode_responses=True) as client:
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("maxmemory") == {"maxmemory": str(512 * 1024 * 1024)}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_postgres_refuses_a_wrong_password(server_urls: dict[str, str]) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server_urls["POSTGRES_URL"], password="wrong")


def test_a_test_finds_its_stores_empty(settings: Settings) -> None:
    _fill_and_count(settings)


def test_a_test_finds_its_stores_empty_after_another_test(settings: Settings) -> None:
    _fill_and_count(settings)


def _fill_and_count(settings: Settings) -> None:
    with psycopg.connect(settings.postgres_url) as connection:
        row = "INSERT INTO events (originator_id, originator_version, topic, state) VALUES (gen_random_uuid(), 1, 't', '') "
        assert connection.execute(f"{row} RETURNING notification_id").fetchone() == (1,)
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongodb_url)
    with client:
        items = client[settings.mongodb_database]["items"]
        items.insert_one({"a": 1})
        assert items.count_documents({}) == 1
    with Redis.from_url(settings.redis_url) as cache:
        cache.incr("n")
        assert cache.keys() == [b"n"]


def test_the_local_model_answers_and_counts_its_tokens(model_url: str) -> None:
    with OpenAI(base_url=model_url, api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["smollm2-135m"]
        answer = client.chat.completions.create(
            model="smollm2-135m", messages=[{"role": "user", "content": "Say hello."}], max_completion_tokens=8
        )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_local_model_streams_and_counts_its_tokens(model_url: str) -> None:
    with OpenAI(base_url=model_url, api_key="none") as client:
        chunks = list(
            client.chat.completions.create(
                model="smollm2-135m",
                messages=[{"role": "user", "content": "Count to three."}],
                max_completion_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert sum(1 for chunk in chunks if chunk.choices and chunk.choices[0].delta.content) > 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
