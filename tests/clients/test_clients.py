"""Client libraries that use Responses: each recipe of docs/clients.md runs twice.

Between the two runs the whole store is killed and started again. A recipe has three turns: an answer, a stream with
reasoning, and a call of a tool. The last line that it prints is the id of the conversation or of its last response.
The second run continues from this id. Afterwards the store must have each message once and in order.
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
def test_a_client_continues_after_a_restart_and_each_message_is_stored_once_and_in_order(
    name: str, store: System, runs: Runs
) -> None:
    assert (runs.first[:-1], runs.second[:-1]) == (FIRST, SECOND)
    with httpx.Client(base_url=store.base_url, headers={"authorization": f"Bearer {key(name)}"}) as http:
        conversation_id = _conversation_of(http, runs.second[-1])
        assert stored(http, conversation_id) == [*turns(FIRST), *turns(SECOND)]


def _conversation_of(http: httpx.Client, last_id: str) -> str:
    """The id of the conversation. `last_id`: this id, or the id of the conversation's last response."""
    if last_id.startswith("conv_"):
        return last_id
    return str(http.get(f"/v1/responses/{_our_id(last_id)}").json()["conversation"]["id"])


def _our_id(response_id: str) -> str:
    """The store's id of a response.

    LiteLLM gives its users a base64 text that holds this id and the names of provider and model.
    """
    if re.fullmatch(r"resp_[0-9a-f]{32}", response_id):
        return response_id
    [our_id] = re.findall(r"resp_[0-9a-f]{32}", base64.b64decode(response_id.removeprefix("resp_")).decode())
    return str(our_id)
