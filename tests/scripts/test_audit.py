"""The audit of the locked packages reports known vulnerabilities."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from scripts.audit import LOCK, audit, packages
from tests.servers import port_to_keep

TWO = 'safe==1.0 \\\n    --hash=sha256:00\nbroken.thing==2.0.post1 ; sys_platform == "linux" \\\n    --hash=sha256:00\n    # via safe\n'


class Database(ThreadingHTTPServer):
    """Answers like the OSV database. Only `broken.thing` has a vulnerability."""

    answer: bytes | None = None
    received: Any = None


class _Handler(BaseHTTPRequestHandler):
    server: Database

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.received = (self.path, body)
        broken = {"vulns": [{"id": "GHSA-1", "modified": "2026-01-01"}]}
        results = [broken if query["package"]["name"] == "broken.thing" else {} for query in body["queries"]]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.answer or json.dumps({"results": results}).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the parent class
        pass


@pytest.fixture
def database() -> Iterator[Database]:
    server = Database(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(database: Database) -> str:
    return f"http://127.0.0.1:{database.server_address[1]}"


def test_every_package_of_the_lock_is_found_with_its_version() -> None:
    assert packages(TWO) == [("safe", "1.0"), ("broken.thing", "2.0.post1")]
    locked = LOCK.read_text()
    assert len(packages(locked)) == sum(line[:1].isalnum() for line in locked.splitlines()) > 80


def test_a_known_vulnerability_is_printed_and_the_status_is_1(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(TWO, url(database)) == 1
    assert "broken.thing 2.0.post1 has GHSA-1" in capsys.readouterr().out
    assert database.received[0] == "/v1/querybatch"
    assert database.received[1]["queries"][0] == {"package": {"name": "safe", "ecosystem": "PyPI"}, "version": "1.0"}


def test_without_a_known_vulnerability_the_status_is_0(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("safe==1.0\n", url(database)) == 0
    assert capsys.readouterr().out == "audit: 1 packages, 0 known vulnerabilities\n"


@pytest.mark.parametrize("answer", [None, b"<html>", b"{}", b'{"results": []}', b'{"results": [{"vulns": 1}, {}]}'])
def test_an_unusable_answer_of_the_database_skips_the_audit(
    database: Database, answer: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    database.answer = answer
    address = f"http://127.0.0.1:{port_to_keep()}" if answer is None else url(database)
    assert audit(TWO, address) == 0
    assert "skipped, the database of vulnerabilities gave no usable answer" in capsys.readouterr().out
