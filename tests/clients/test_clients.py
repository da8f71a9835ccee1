"""Client libraries that use Responses.

The last line that a recipe prints is the id of the conversation or of its last response. The second run gets this id.
"""

import base64
import re

import httpx
import pytest

from tests.clients.conftest import Runs, key
from tests.clients.expected_items import FIRST, SECOND, stored, turns
from tests.clients.recipe import is_chat, names
from tests.system import System

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("name", [name for name in names() if not is_chat(name)])
def test_a_client_that_continues_stores_each_message_once(name: str, store: System, runs: Runs) -> None:
    assert (runs.first[:-1], runs.second[:-1]) == (FIRST, SECOND)
    with httpx.Client(base_url=store.base_url, headers={"authorization": f"Bearer {key(name)}"}) as http:
        conversation_id = _conversation_of(http, runs.second[-1])
        assert stored(http, conversation_id) == [*turns(FIRST), *turns(SECOND)]


def _conversation_of(http: httpx.Client, last_id: str) -> str:
    if last_id.startswith("conv_"):
        return last_id
    return str(http.get(f"/v1/responses/{_our_id(last_id)}").json()["conversation"]["id"])


def _our_id(response_id: str) -> str:
    """LiteLLM's ids are base64 texts that hold the store's id."""
    if re.fullmatch(r"resp_[0-9a-f]{32}", response_id):
        return response_id
    [our_id] = re.findall(r"resp_[0-9a-f]{32}", base64.b64decode(response_id.removeprefix("resp_")).decode())
    return str(our_id)
