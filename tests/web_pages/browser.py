"""A headless Chromium, and a web site for it. A page sends its report as JSON in a POST to `/report`."""

import asyncio
import json
import os
import queue
import shutil
import signal
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

BROWSER = shutil.which("chromium")
NO_BROWSER = "chromium is not installed (.ci/run installs the Debian package, if apt can)"
REPORT_TIMEOUT_SECONDS = 90
SITES = ("evil.example", "friend.example", "rebound.example")
"""The browser resolves only these names and `localhost`, all to this machine."""

_RULES = [f"MAP {site} 127.0.0.1" for site in SITES]
_RULES += ["MAP * ~NOTFOUND", "EXCLUDE localhost", "EXCLUDE 127.0.0.1", "EXCLUDE 127.0.0.2", "EXCLUDE 0.0.0.0"]
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-popup-blocking",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    f"--host-resolver-rules={','.join(_RULES)}",
)
_TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json"}


class WebSite:
    """Serves `pages` (path -> content) and the files in `directory`. `/redirect?URL` redirects with status 307."""

    def __init__(self, pages: Mapping[str, str], directory: Path | None = None) -> None:
        self.pages = dict(pages)
        self.directory = directory
        self.reports: queue.Queue[Any] = queue.Queue()
        handler = type("Bound", (_Visit,), {"site": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def origin(self, name: str) -> str:
        return f"http://{name}:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def content(self, path: str) -> bytes | None:
        if path in self.pages:
            return self.pages[path].encode()
        file = self.directory and (self.directory / path.lstrip("/")).resolve()
        if not file or not self.directory or not file.is_relative_to(self.directory.resolve()) or not file.is_file():
            return None
        return file.read_bytes()

    async def visit(self, url: str) -> Any:
        """Returns the page's report. Raises TimeoutError if there is none."""
        assert BROWSER is not None
        with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
            output = Path(profile) / "output"
            with output.open("wb") as log:
                browser = await asyncio.create_subprocess_exec(
                    BROWSER,
                    *_OPTIONS,
                    f"--user-data-dir={profile}",
                    url,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            try:
                return await asyncio.to_thread(self.reports.get, timeout=REPORT_TIMEOUT_SECONDS)
            except queue.Empty as error:
                raise TimeoutError(output.read_text(errors="replace")[-3000:]) from error
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
                await browser.wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A browser may close a connection at any time."""


class _Visit(BaseHTTPRequestHandler):
    site: WebSite
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if path == "/redirect":
            self._answer(307, b"", location=query)
            return
        content = self.site.content(path)
        content_type = _TYPES.get(Path(path).suffix, "text/html")
        self._answer(404 if content is None else 200, content or b"", content_type=f"{content_type}; charset=utf-8")

    def do_POST(self) -> None:
        if self.path != "/report":
            self.do_GET()
            return
        self.site.reports.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self._answer(204, b"")

    def _answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the parent class
        """Logs nothing."""
