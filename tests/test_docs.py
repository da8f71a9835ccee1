"""The commands and the code in README and docs run. The files that the pages name exist.

```bash and ```python blocks run against a store with a scripted provider. Ports, paths and some commands are replaced.
"""

import gc
import io
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
from msgspec import Struct

from infrastructure.embedded.directory import free_port
from infrastructure.settings import Settings
from tests.clients.recipe import names
from tests.fixtures.postgres_tools import program
from tests.scripted_provider import Exchange, scripted_provider
from tests.servers import ROOT
from tests.system import System

PAGES = ("README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
POSTGRES_PROGRAMS = Path(program("pg_dump")).parent
BLOCK_TIMEOUT_SECONDS = 240.0


class Block(Struct, frozen=True):
    """A block of code in a page. `line`: where the block begins."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    all_blocks: list[Block] = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        all_blocks += [
            Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
            for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
            if match[1] in languages
        ]
    return all_blocks


def answer(exchange: Exchange) -> None:
    """The provider's script. A story takes 20 seconds, so that a client can stop the story."""
    if "story" not in exchange.body["messages"][-1]["content"]:
        exchange.stream_text("Hello, ", "Ada!")
        return
    exchange.begin_stream()
    for _ in range(1_000):
        exchange.text_chunk("and ")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with contextmanager(scripted_provider)() as provider:
        provider.script = answer
        system = System(
            tmp_path_factory.mktemp("docs") / ".data",
            environment={"OPENAI_BASE_URL": provider.url, "DEFAULT_MODEL": "scripted"},
        )
        yield system.start()
        system.stop()


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_the_python_of_the_docs_runs(block: Block, running: System) -> None:
    code = block.code.replace("http://127.0.0.1:8000", running.base_url)
    printed = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(printed):
        warnings.simplefilter("ignore")
        exec(compile(code, str(block), "exec"), {"__name__": "__main__"})
        gc.collect()  # the blocks do not close their clients
    assert printed.getvalue().strip()


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_the_commands_of_the_docs_run(block: Block, running: System) -> None:
    code = block.code.replace("127.0.0.1:8000", running.base_url.removeprefix("http://"))
    code = code.replace("8001", str(free_port()))
    if code.strip() == "scripts/up":
        return  # `running` was started with this command
    code = re.sub(r"^scripts/test$", "scripts/test tests/domain", code, flags=re.MULTILINE)
    code = re.sub(r"^scripts/test\b", "scripts/test --collect-only -q", code, flags=re.MULTILINE)
    code = code.replace("sleep 1; done", "sleep 0.1; done")
    code = re.sub(r"\bscripts/(?=(run|test|up)\b)", f"{ROOT}/scripts/", code)
    code = code.replace(".venv/bin/python", sys.executable)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env={**os.environ, "PATH": f"{POSTGRES_PROGRAMS}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        cwd=running.data.parent,
        capture_output=True,
        text=True,
        timeout=BLOCK_TIMEOUT_SECONDS,
        check=False,
    )
    logs = "".join(log.read_text()[-2_000:] for log in running.data.parent.glob("*.log")) if done.returncode else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    assert '"error": {' not in done.stdout, done.stdout


def test_clients_md_has_the_exact_code_or_the_path_of_every_client_program() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    shown = dict(re.findall(r"^```\w+ tests/clients/(\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    assert shown == {name: (ROOT / "tests" / "clients" / name).read_text() for name in shown}
    linked = re.findall(r"`tests/clients/(\w+/\S+)`", page)
    assert sorted([*shown, *linked]) == names()


def test_the_table_of_variables_has_every_setting_once() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    named = re.findall(r"^\| `([A-Z_]+)` \|", operations, re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


def test_every_alert_has_an_entry_in_the_runbook() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "infrastructure" / "deploy" / "alerts.yml").read_text())
    entries = re.findall(r"^### `(\w+)`", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert alerts == entries


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(
        r"`((?:docs|scripts|tests|domain|commands|queries|projections|context|replies|infrastructure)/[\w./]*)", text
    )
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [name for name in linked if not (ROOT / page).parent.joinpath(name).exists()]
    assert not missing
