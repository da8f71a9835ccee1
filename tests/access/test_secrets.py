"""No log, metric, answer or process list contains a planted secret. No log or metric contains planted content."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from websockets.sync.client import connect

from infrastructure.embedded.directory import free_port
from infrastructure.ids import uuid_of
from infrastructure.settings import Settings
from tests.access.made_keys import execute, new_test_key, store_keys
from tests.scripted_provider import Exchange, ScriptedProvider, scripted_provider
from tests.servers import ROOT, wait_until
from tests.system import System

CONTENT = "plantedword"
"""This word stands for what people write."""

PROVIDER_KEY, AUTH_SECRET = "sk-planted0provider0key0", "planted0auth0secret0of0thirty0two0bytes"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJwbGFudGVkIjoidG9rZW4ifQ.cGxhbnRlZHNpZ25hdHVyZQ"


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    yield from scripted_provider()


def test_no_log_metric_answer_or_process_list_contains_a_planted_secret(
    system: Callable[..., System], provider: ScriptedProvider
) -> None:
    environment = {
        "AUTH_MODE": "jwt,keys",
        "AUTH_SECRET": AUTH_SECRET,
        "OPENAI_BASE_URL": provider.url,
        "OPENAI_API_KEY": PROVIDER_KEY,
        "LOG_LEVEL": "DEBUG",
    }
    running = system(environment=environment)
    key, revoked, of_another_store = (new_test_key(scopes=["admin", "audit", "act_as"]) for _ in range(3))
    store_keys(running.env["POSTGRES_URL"], [key, revoked])
    execute(running.env["POSTGRES_URL"], "UPDATE api_keys SET revoked_at = now() WHERE id = %s", uuid_of(revoked.id))
    secrets = [
        *(planted.secret.rpartition("_")[2] for planted in (key, revoked, of_another_store)),
        (running.data / "secret").read_text().strip(),
        *(PROVIDER_KEY, AUTH_SECRET, TOKEN),
    ]
    answers: list[httpx.Response] = []
    with httpx.Client(base_url=running.base_url, timeout=30, event_hooks={"response": [answers.append]}) as client:
        use(client, provider, key.secret)
        refused = [revoked.secret, of_another_store.secret, TOKEN, f"{key.secret}0", PROVIDER_KEY, CONTENT]
        for text in refused:
            for method, path in (("GET", "/v1/conversations"), ("POST", "/v1/responses")):
                assert client.request(method, path, headers=bearer(text)).status_code == 401
            # A key in a logged request id must be masked.
            request_id = {} if text == CONTENT else {"x-request-id": text}
            client.get("/v1/models", headers={"authorization": f"Basic {text}", "cookie": text, **request_id})
            client.delete(f"/v1/keys/{text}", headers=bearer(key.secret))
            client.get(f"/v1/{text}", headers=bearer(key.secret), params={text: text})
        commands = command_lines()
        fail(running, client, key.secret)
        commands += command_lines()
        for name in ("postgres", "mongod", "valkey"):  # the database servers must not have this key
            assert "OPENAI_API_KEY" not in psutil.Process(running.pid(name)).environ()
        assert psutil.Process(running.pid("api")).environ()["OPENAI_API_KEY"] == PROVIDER_KEY
        metrics = [httpx.get(url).text for name, url in running.env.items() if name.endswith("_METRICS_URL")]
    running.stop()
    logs = {file.name: file.read_text() for file in [*(running.data / "run").glob("*.log*"), running.output_file]}
    assert {"api.log", "projector.log", "postgres.log", "mongod.log", "valkey.log"} <= set(logs)
    assert "reply_failed" in logs["api.log"]
    for secret in secrets:
        assert [name for name, text in logs.items() if secret in text] == [], secret[:12]
        assert not [line for line in commands if secret in line], secret[:12]
        assert not [text for text in metrics if secret in text]
        assert not [answer.request.url.path for answer in answers if secret in answer.text]
    assert {name: lines_with(CONTENT, text) for name, text in logs.items() if CONTENT in text.lower()} == {}
    assert not [text for text in metrics if CONTENT in text]
    assert open_to_others(running.data) == []


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def lines_with(word: str, text: str) -> list[str]:
    return [line for line in text.splitlines() if word in line.lower()][:5]


def use(client: httpx.Client, provider: ScriptedProvider, key: str) -> None:
    """Sends CONTENT in many fields. The provider's error messages quote the request."""
    headers = {**bearer(key), "idempotency-key": CONTENT}
    item = {"type": "message", "role": "user", "content": CONTENT}
    created = client.post(
        "/v1/conversations",
        headers=headers,
        json={"title": CONTENT, "instructions": CONTENT, "metadata": {CONTENT: CONTENT}, "items": [item]},
    )
    assert created.status_code == 200, created.text
    conversation = created.json()["id"]
    # Another body with the same idempotency key, invalid JSON, a wrong content type, a wrong field, and a filter.
    assert client.post("/v1/conversations", headers=headers, json={"title": f"{CONTENT} 2"}).status_code == 422
    as_json, as_text = ({**bearer(key), "content-type": sent} for sent in ("application/json", f"text/{CONTENT}"))
    assert client.post("/v1/conversations", headers=as_json, content=f'{{"{CONTENT}'.encode()).status_code == 400
    assert client.post("/v1/conversations", headers=as_text, content=b"{}").status_code == 415
    assert client.post("/v1/conversations", headers=bearer(key), json={CONTENT: CONTENT}).status_code == 400
    assert (
        client.get("/v1/conversations", headers=bearer(key), params={f"metadata[{CONTENT}]": CONTENT}).status_code
        == 200
    )

    def echo(exchange: Exchange, status: int) -> None:
        exchange.json(status, {"error": {"message": json.dumps(exchange.body), "code": CONTENT, "type": CONTENT}})

    def break_off(exchange: Exchange) -> None:
        exchange.begin_stream()
        exchange.text_chunk(CONTENT)
        exchange.wfile.write(f"data: {CONTENT}\n\n".encode())

    scripts: list[Callable[[Exchange], None]] = [
        lambda exchange: exchange.stream_text(CONTENT, " ", CONTENT),
        lambda exchange: echo(exchange, 400),
        lambda exchange: echo(exchange, 401),
        lambda exchange: echo(exchange, 429),
        lambda exchange: echo(exchange, 500),
        lambda exchange: exchange.raw(200, CONTENT.encode(), "text/html"),
        break_off,
    ]
    tool = {"type": "function", "name": CONTENT, "parameters": {"type": "object", "properties": {CONTENT: {}}}}
    for script in scripts:
        provider.script = script
        for body in ({"conversation": conversation}, {"stream": True}):
            reply = {"input": CONTENT, "instructions": CONTENT, "user": CONTENT, "tools": [tool], **body}
            answer = client.post(
                "/v1/responses",
                headers={**bearer(key), "x-subject": "ada"} if "stream" in body else bearer(key),
                json=reply,
            )
            assert PROVIDER_KEY not in answer.text
    provider.script = scripts[0]
    url = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    with connect(f"{url}/v1/responses", additional_headers=bearer(key)) as socket:
        socket.send(json.dumps({"type": "response.create", "input": CONTENT}))
        while json.loads(socket.recv(20))["type"] not in ("response.completed", "error"):
            pass
        socket.send(CONTENT)
        socket.recv(20)


def fail(running: System, client: httpx.Client, key: str) -> None:
    """Kills the stores, sends requests meanwhile, and stops the API. Waits for all restarts."""
    old = {name: running.kill(name) for name in ("postgres", "valkey", "mongod")}
    for _ in range(3):
        for method, path in (("POST", "/v1/conversations"), ("POST", "/v1/responses"), ("GET", "/v1/conversations")):
            with suppress(httpx.HTTPError):
                client.request(method, path, headers=bearer(key), json={"input": CONTENT, "title": CONTENT})
    for name, pid in old.items():
        running.wait_restarted(name, pid)
    running.wait_restarted("api", running.kill("api", signal.SIGTERM))
    running.wait_ready()


def command_lines() -> list[str]:
    """The command lines of all processes, which any user of the machine can read."""
    lines = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            lines.append("\n".join([process.name(), *process.cmdline()]))
    return lines


def open_to_others(directory: Path) -> list[str]:
    """The files that other users of the machine can read."""

    def can_enter(folder: Path) -> bool:
        return folder == directory.parent or (bool(folder.stat().st_mode & stat.S_IXOTH) and can_enter(folder.parent))

    return [
        str(file.relative_to(directory))
        for file in directory.rglob("*")
        if file.is_file() and file.stat().st_mode & stat.S_IROTH and can_enter(file.parent)
    ]


@pytest.mark.parametrize("module", ["scripts.api", "projections.main"])
def test_a_process_whose_stores_refuse_it_logs_no_password(settings: Settings, module: str, tmp_path: Path) -> None:
    def refused(url: str) -> str:
        parts = urlsplit(url)
        user = "" if url.startswith("redis") else "planted0user"
        return parts._replace(netloc=f"{user}:planted0password@{parts.netloc.rpartition('@')[2]}").geturl()

    port = free_port()
    environment = {
        "POSTGRES_URL": refused(settings.postgres_url),
        "MONGODB_URL": refused(settings.mongodb_url),
        "REDIS_URL": refused(settings.redis_url),
        "PORT": str(port),
        "METRICS_PORT": str(port) if module == "projections.main" else "0",
    }
    output = run_for_a_while(module, environment, f"http://127.0.0.1:{port}", tmp_path / "log")
    assert "planted0user" in output
    assert "planted0password" not in output


def run_for_a_while(module: str, environment: Mapping[str, str], url: str, log: Path) -> str:
    """Runs the module until a refused connection is logged. Returns the output."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=output,
            cwd=log.parent,
        )

    def has_failed() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.HTTPError):
            httpx.get(f"{url}/health/ready", timeout=1)
        return "planted0user" in log.read_text()

    try:
        wait_until(has_failed, 30, "a refused connection", log.read_text)
    finally:
        process.terminate()
        process.wait(30)
    return log.read_text()


def test_invalid_settings_are_named_but_their_values_are_not_printed() -> None:
    wrong = {
        "POSTGRES_URL": "postgresql://u:plan/ted0password@127.0.0.1:9/x",
        "MONGODB_URL": "mongodb://u:plan?ted0password@127.0.0.1:9/x",
        "REDIS_URL": "redis://:plan#ted0password@127.0.0.1:9/0",
        "MODELS": '{"a": {"window": "ted0password"}}',
        "MODEL_API": "ted0password",
    }
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "scripts.api"],
        env={**os.environ, **wrong, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert [name for name in wrong if name.lower() not in ended.stderr] == []
    assert [
        line for line in (ended.stderr + ended.stdout).splitlines() if "plan" in line or "ted0password" in line
    ] == []
