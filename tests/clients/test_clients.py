"""Client libraries: each recipe of docs/clients.md runs twice.

Between the two runs the whole store is killed and started again. A recipe has three turns: an answer, a stream with
reasoning, and a call of a tool. The last line that it prints is the id of the conversation or of its last response.
The second run continues from this id. Afterwards the store must have each message once and in order.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from tests.clients.recipe import CannotInstall, Environment, Recipe, names
from tests.clients.scripted_assistant import assistant
from tests.scripted_provider import scripted_provider
from tests.system import System

pytestmark = pytest.mark.clients

Result = TypeVar("Result")
MODEL = "smollm2-135m"
AT_ONCE = 2
FIRST = ["You have not told me.", "I was shown 3 messages.", "The tool says: sunny in Paris."]
SECOND = ["Your name is Ada.", "I was shown 9 messages.", "The tool says: sunny in Paris."]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A store whose provider is the scripted assistant."""
    for provider in scripted_provider():
        provider.script = assistant
        provider.models = [MODEL]
        environment = {"OPENAI_BASE_URL": provider.url, "MODELS": json.dumps({MODEL: {"window": 100_000}})}
        system = System(tmp_path_factory.mktemp("clients") / "data", "--no-model", environment=environment)
        yield system.start()
        system.stop()


@pytest.fixture(scope="module")
def printed(store: System, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]] | Exception]:
    """For each recipe the lines that both runs printed, or the error if it could not be installed or a run failed."""
    folders = {name: name.split("/")[0] for name in names()}
    environments = {folder: Environment(folder, tmp_path_factory.mktemp(folder)) for folder in folders.values()}
    recipes = {name: Recipe(name, environments[folder], store.base_url) for name, folder in folders.items()}
    installed = _for_each(lambda folder: environments[folder].install(), environments)

    def first_run(name: str) -> list[str]:
        _raise_error(installed[folders[name]])
        return recipes[name].run()

    def second_run(name: str) -> list[list[str]]:
        lines = _raise_error(first[name])
        return [lines, recipes[name].run(lines[-1])]

    first = _for_each(first_run, names())
    for process in store.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    store.wait()
    store.wait_gone()
    store.start().wait_ready()
    return _for_each(second_run, names())


@pytest.mark.parametrize("name", names())
def test_a_client_continues_after_a_restart_and_each_message_is_stored_once_and_in_order(
    name: str, store: System, printed: dict[str, list[list[str]] | Exception]
) -> None:
    match printed[name]:
        case CannotInstall() as reason:
            pytest.skip(str(reason))
        case Exception() as error:
            raise error
        case [[*first, _], [*second, last_id]]:
            assert (first, second) == (FIRST, SECOND)
    with httpx.Client(base_url=store.base_url) as http:
        assert stored(http, last_id) == [*turns(FIRST), *turns(SECOND)]


def turns(answers: list[str]) -> list[tuple[str, Any]]:
    """The items that one run adds to the conversation if the assistant gives these answers."""
    return [
        ("user", "What is my name?"),
        ("assistant", answers[0]),
        ("user", "Think! My name is Ada."),
        ("reasoning", "I have been asked to think. So I think."),
        ("assistant", answers[1]),
        ("user", "How is the weather in Paris?"),
        ("function_call", {"city": "Paris"}),
        ("function_call_output", "sunny in Paris"),
        ("assistant", answers[2]),
    ]


def stored(http: httpx.Client, last_id: str) -> list[tuple[str, Any]]:
    """The items of a conversation, in order. `last_id` is the id of the conversation or of its last response."""
    if not last_id.startswith("conv_"):
        last_id = http.get(f"/v1/responses/{_our_id(last_id)}").json()["conversation"]["id"]
    items = http.get(f"/v1/conversations/{last_id}/items", params={"order": "asc", "limit": 100}).json()
    assert not items["has_more"]
    return [_kind_and_content(item) for item in items["data"]]


def _our_id(response_id: str) -> str:
    """The store's id of a response.

    LiteLLM gives its users a base64 text that holds this id and the names of provider and model.
    """
    if re.fullmatch(r"resp_[0-9a-f]{32}", response_id):
        return response_id
    [our_id] = re.findall(r"resp_[0-9a-f]{32}", base64.b64decode(response_id.removeprefix("resp_")).decode())
    return str(our_id)


def _kind_and_content(item: dict[str, Any]) -> tuple[str, Any]:
    match item["type"]:
        case "message":
            return item["role"], "".join(part["text"] for part in item["content"])
        case "reasoning":
            return "reasoning", "".join(part["text"] for part in item["content"])
        case "function_call":
            return "function_call", json.loads(item["arguments"])
        case kind:
            return kind, item["output"]


def _for_each(function: Callable[[str], Result], names: Iterable[str]) -> dict[str, Result | Exception]:
    """Calls the function with each name, AT_ONCE calls at a time. Returns the result or the error of each call."""

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
