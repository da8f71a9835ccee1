"""Each recipe of docs/clients.md runs twice. Between the runs the whole store is killed and started again."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TypeVar

import psutil
import pytest
from msgspec import Struct

from tests.clients.recipe import CannotInstall, Environment, Recipe, is_chat, names
from tests.clients.recording_proxy import RecordingProxy, recording_proxy
from tests.clients.scripted_assistant import assistant
from tests.scripted_provider import ScriptedProvider, scripted_provider
from tests.system import System
from tests.user_service import SECRET, token

Result = TypeVar("Result")
MODEL = "smollm2-135m"
MODEL_OF_OPENAI = "gpt-4.1-mini"
"""For clients that accept only model names that they know."""
AT_ONCE = 2


class Runs(Struct, frozen=True):
    """The lines that a recipe printed in its two runs."""

    first: list[str]
    second: list[str]


@pytest.fixture(scope="session")
def provider() -> Iterator[ScriptedProvider]:
    for provider in scripted_provider():
        provider.script = assistant
        provider.models = [MODEL, MODEL_OF_OPENAI]
        yield provider


@pytest.fixture(scope="session")
def store(provider: ScriptedProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A store with a login, in which each recipe is a user of its own."""
    environment = {
        "OPENAI_BASE_URL": provider.url,
        "MODELS": json.dumps({MODEL: {"window": 100_000}}),
        "AUTH_MODE": "jwt",
        "AUTH_SECRET": SECRET,
    }
    system = System(tmp_path_factory.mktemp("clients") / "data", "--no-model", environment=environment)
    yield system.start()
    system.stop()


def key(name: str) -> str:
    """The token of the recipe's user."""
    return token(sub=name)


@pytest.fixture(scope="session")
def selected(request: pytest.FixtureRequest) -> list[str]:
    """The recipes whose tests run."""
    parameters = [getattr(item, "callspec", None) for item in request.session.items]
    tested = {found.params.get("name") for found in parameters if found is not None}
    return [name for name in names() if name in tested]


@pytest.fixture(scope="session")
def proxies(selected: list[str], store: System) -> Iterator[dict[str, RecordingProxy]]:
    """The proxy of each recipe of Chat Completions."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(recording_proxy(store.port)) for name in selected if is_chat(name)}


@pytest.fixture(scope="session")
def outcomes(
    selected: list[str],
    store: System,
    proxies: dict[str, RecordingProxy],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Runs | Exception]:
    """The runs of each recipe, or its error."""
    folders = {name: name.split("/")[0] for name in selected}
    environments = {folder: Environment(folder, tmp_path_factory.mktemp(folder)) for folder in folders.values()}
    urls = {name: proxies[name].url if is_chat(name) else store.base_url for name in selected}
    recipes = {name: Recipe(name, environments[folder], urls[name], key(name)) for name, folder in folders.items()}
    installed = _for_each(lambda folder: environments[folder].install(), environments)

    def first_run(name: str) -> list[str]:
        _raise_error(installed[folders[name]])
        return recipes[name].run()

    def second_run(name: str) -> Runs:
        lines = _raise_error(first[name])
        return Runs(lines, recipes[name].run(lines[-1]))

    first = _for_each(first_run, selected)
    for process in store.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    store.wait()
    store.wait_gone()
    store.start().wait_ready()
    return _for_each(second_run, selected)


@pytest.fixture
def runs(name: str, outcomes: dict[str, Runs | Exception]) -> Runs:
    """The runs of one recipe. Skips the test if its packages cannot be installed."""
    match outcomes[name]:
        case CannotInstall() as reason:
            pytest.skip(str(reason))
        case Exception() as error:
            raise error
        case runs:
            return runs


def _for_each(function: Callable[[str], Result], names: Iterable[str]) -> dict[str, Result | Exception]:
    """AT_ONCE calls at a time. Returns each result or error."""

    def result(name: str) -> Result | Exception:
        try:
            return function(name)
        except Exception as error:  # noqa: BLE001 - the test of this name raises it
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(names, pool.map(result, names), strict=True))


def _raise_error(result: Result | Exception) -> Result:
    if isinstance(result, Exception):
        raise result
    return result
