"""`scripts/run keys` makes, lists and revokes API keys."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, OpenAI
from typer.testing import CliRunner, Result

from infrastructure.settings import Settings
from scripts.keys import app
from tests.access.made_keys import new_test_key
from tests.log import Log
from tests.servers import wait_until
from tests.system import System

CREATE = ("create", "--tenant", "acme", "--subject", "ada", "--scopes", "read,write,reply")


def keys(*arguments: str, postgres_url: str = "", data: Path | None = None) -> Result:
    """Runs the tool in this process."""
    where = () if data is None else ("--data", str(data))
    return CliRunner().invoke(app, [*arguments, *where], env={"POSTGRES_URL": postgres_url or None})


def test_keys_are_made_listed_and_revoked(settings: Settings) -> None:
    def run(*arguments: str) -> Any:
        done = keys(*arguments, "--json", postgres_url=settings.postgres_url)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    created = run(*CREATE, "--name", "The chat", "--expires", "30d")
    secret = created.pop("secret")
    assert secret.startswith("cs_")
    assert created["expires_at"] == pytest.approx(time.time() + 30 * 86_400, abs=60)
    assert (created["tenant"], created["subject"], created["name"]) == ("acme", "ada", "The chat")
    assert created["scopes"] == ["read", "reply", "write"]

    plain = keys(*CREATE, postgres_url=settings.postgres_url)
    assert plain.stdout.startswith("cs_")
    assert len(plain.stdout.split()) == 1
    assert plain.stdout.strip() not in plain.stderr

    assert run("list")["data"][0] == created
    assert len(run("list", "--tenant", "acme")["data"]) == 2
    assert run("list", "--tenant", "other")["data"] == []
    lines = keys("list", postgres_url=settings.postgres_url).stdout
    assert "acme/ada" in lines
    assert secret.rpartition("_")[2] not in lines

    revoked = run("revoke", created["id"])
    assert revoked == {**created, "revoked_at": revoked["revoked_at"]}
    assert run("revoke", created["id"]) == revoked


def test_a_wrong_command_gets_a_message_and_nothing_is_stored(settings: Settings) -> None:
    a_key = new_test_key()
    wrong: list[tuple[tuple[str, ...], int, str]] = [
        ((*CREATE[:-1], "read,root"), 2, "--scopes: A key has one or more of these scopes"),
        ((*CREATE[:-1], ","), 2, "--scopes"),
        (("create", "--tenant", "a b", *CREATE[3:]), 2, "--tenant: A tenant is"),
        ((*CREATE, "--subject", "a\nb"), 2, "--subject: A subject is"),
        ((*CREATE, "--name", "x" * 10_000), 2, "--name: A name is"),
        ((*CREATE, "--expires", "0d"), 2, "--expires: It must be a number and one of m, h, d and w"),
        ((*CREATE, "--expires", "-1d"), 2, "--expires"),
        ((*CREATE, "--expires", "999999w"), 2, "--expires: `expires_at` must be in the future"),
        (("revoke", a_key.id), 1, f"There is no key {a_key.id}."),
        (("revoke", a_key.secret), 2, "This is not the id of a key."),
    ]
    for arguments, status, message in wrong:
        done = keys(*arguments, postgres_url=settings.postgres_url)
        assert (done.exit_code, done.stdout) == (status, ""), arguments
        assert message in done.stderr
        assert a_key.secret not in done.stderr
        assert isinstance(done.exception, SystemExit)
    assert Log(settings.postgres_url).rows("SELECT FROM api_keys") == []


def test_an_error_for_a_missing_or_unreachable_store_shows_no_password(tmp_path: Path) -> None:
    done = keys("list", data=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "No store found" in done.stderr
    done = keys("list", postgres_url="postgresql://u:hunter2@127.0.0.1:9/x")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "hunter2" not in done.stderr


def test_a_key_lets_the_official_client_in_until_it_is_revoked(
    system: Callable[..., System], empty_stores: dict[str, str]
) -> None:
    running = system("--no-model", environment={**empty_stores, "AUTH_MODE": "keys"})
    done = keys(*CREATE, data=running.data)
    assert done.exit_code == 0, done.stderr
    url = f"{running.base_url}/v1"
    with OpenAI(base_url=url, api_key=done.stdout.strip(), max_retries=0) as client:
        conversation = client.conversations.create(metadata={"topic": "keys"})
        items = client.conversations.items.create(
            conversation.id, items=[{"type": "message", "role": "user", "content": "hi"}]
        )
        assert len(items.data) == 1
        assert client.conversations.retrieve(conversation.id).metadata == {"topic": "keys"}
        listed = json.loads(keys("list", "--json", data=running.data).stdout)["data"]
        assert keys("revoke", listed[0]["id"], data=running.data).exit_code == 0

        def is_refused() -> bool:
            try:
                client.conversations.retrieve(conversation.id)
            except AuthenticationError as refusal:
                return "was revoked" in refusal.message
            return False

        wait_until(is_refused, 5, "the revoked key to be refused")
    with OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        with pytest.raises(AuthenticationError) as refused:
            client.conversations.retrieve(conversation.id)
        assert refused.value.code == "invalid_api_key"
