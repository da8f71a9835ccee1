"""A program that uses the client which openapi-python-client generates. It prints a few values of the store's answers.

`test_generated_clients.py` checks the types with `mypy --strict`, runs this program and compares the output.
"""

import sys
from io import BytesIO
from typing import TypeVar

from conversation_store_client import Client
from conversation_store_client.api.conversations import create_conversation, get_conversation, import_conversations
from conversation_store_client.api.items import add_items, list_items
from conversation_store_client.models import (
    AddItems,
    Conversation,
    CreateConversation,
    ErrorResponse,
    FailedImport,
    ImportReport,
    InputMessage,
    InputMessageRole,
    ItemList,
    ListItemsOrder,
    Message,
    TextPart,
)
from conversation_store_client.types import File

Answer = TypeVar("Answer")


def expect(answer: Answer | ErrorResponse | FailedImport | None) -> Answer:
    """Returns the answer. Fails if it is an error."""
    assert answer is not None
    assert not isinstance(answer, ErrorResponse | FailedImport), answer
    return answer


def text_of(items: ItemList) -> list[str]:
    messages = [item for item in items.data if isinstance(item, Message)]
    return [part.text for message in messages for part in message.content if isinstance(part, TextPart)]


client = Client(base_url=sys.argv[1])
conversation: Conversation = expect(create_conversation.sync(client=client, body=CreateConversation(title="Oslo")))
assert conversation.version == 1

message = InputMessage(role=InputMessageRole.USER, content="Hello!")
added: ItemList = expect(add_items.sync(conversation.id, client=client, body=AddItems(items=[message, message])))
assert len(added.data) == 2

page: ItemList = expect(list_items.sync(conversation.id, client=client, order=ListItemsOrder.ASC, limit=1))
assert (text_of(page), page.has_more) == (["Hello!"], True)

lines = File(payload=BytesIO(b'{"title": "Bergen", "items": [{"role": "user", "content": "Hello!"}]}\n'))
report: ImportReport = expect(import_conversations.sync(client=client, body=lines))
assert (report.conversations, report.items) == (1, 1)

error = get_conversation.sync("conv_" + "0" * 32, client=client)
assert isinstance(error, ErrorResponse)
print(conversation.title, len(added.data), error.error.code)
