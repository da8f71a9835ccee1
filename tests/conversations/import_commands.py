"""Random imports."""

import json
from typing import Any

from tests.conversations.conversation_commands import random_metadata
from tests.conversations.conversation_model import ModelConversation
from tests.conversations.draws import SUBJECTS, Command, Draws
from tests.conversations.model_parts import ModelItem

MARK = "import"
"""The key in the metadata of an imported conversation. The answer of an import does not name the conversations."""


def import_conversations(draws: Draws) -> Command:
    owner = draws.random.choice(SUBJECTS)
    lines = {draws.text().split()[0]: _line(draws) for _ in range(draws.random.randint(1, 3))}

    def apply(found: Any) -> None:
        assert found["conversations"] == len(lines)
        for mark, line in lines.items():
            [document, items, events] = found["found"][mark]
            imported = ModelConversation(
                id=document["id"],
                owner=owner,
                title=line["title"],
                metadata={**line["metadata"], MARK: mark},
                position=events[-1]["position"],
            )
            texts = [(item["id"], item["content"][0]["text"], item["role"]) for item in items]
            assert [text for _, text, _ in texts] == [item["content"] for item in line["items"]]
            imported.append(
                *(ModelItem(id=item_id, text=text, role=role, author=owner) for item_id, text, role in texts)
            )
            imported.note_state(events[-1]["version"])
            draws.model.conversations.append(imported)

    entries = [{**line, "metadata": {**line["metadata"], MARK: mark}} for mark, line in lines.items()]
    content = "\n".join(map(json.dumps, entries)).encode()
    return Command(name="import", subject=owner, path="/v1/import", content=content, body=[*lines], apply=apply)


def _line(draws: Draws) -> Any:
    roles = [draws.random.choice(("user", "assistant")) for _ in range(draws.random.randint(1, 4))]
    items = [{"role": role, "content": draws.text()} for role in roles]
    return {"title": draws.text(), "metadata": random_metadata(draws), "items": items}
