"""Does what people do with conversations. After a restart, the reads show the same."""

from collections.abc import Callable
from typing import Any, Self

import httpx
from openai import OpenAI

from replies.title_writer import PROMPT as TITLE_PROMPT
from tests.end_to_end.reply_streams import endless_answer
from tests.scripted_provider import Exchange, ScriptedProvider
from tests.servers import wait_until
from tests.system import System


def answer_in_turn(exchange: Exchange) -> None:
    """Numbers the answers. A request for a title gets a title."""
    number = len(exchange.provider.requests)
    exchange.stream_text("Rainy days" if is_for_title(exchange.body) else f"It rains in Oslo, answer {number}.")


def answer_without_titles(exchange: Exchange) -> None:
    endless_answer(exchange) if is_for_title(exchange.body) else answer_in_turn(exchange)


def is_for_title(request: Any) -> bool:
    return TITLE_PROMPT in str(request)


class Session:
    """Sends requests to a running system. Each request must succeed."""

    def __init__(self, system: System) -> None:
        self.sdk = OpenAI(base_url=f"{system.base_url}/v1", api_key="any", max_retries=0)
        self._http = httpx.Client(base_url=f"{system.base_url}/v1", timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sdk.close()
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Any:
        return self._json(self._http.get(path, params=parameters or None))

    def post(self, path: str, body: Any = None) -> Any:
        return self._json(self._http.post(path, json=body))

    def delete(self, path: str) -> Any:
        return self._json(self._http.delete(path))

    def texts(self, path: str, **parameters: str) -> list[str]:
        """The texts of the items, oldest first."""
        return [item["content"][0]["text"] for item in self.get(path, order="asc", **parameters)["data"]]

    @staticmethod
    def _json(answer: httpx.Response) -> Any:
        assert answer.status_code == 200, (answer.request.url, answer.text)
        return answer.json()


def test_reads_of_conversations_are_the_same_after_a_restart(
    system: Callable[..., System], provider: ScriptedProvider
) -> None:
    provider.script = answer_in_turn
    environment = {"OPENAI_BASE_URL": provider.url, "DEFAULT_MODEL": "scripted", "TITLES": "auto"}
    first = system(environment=environment)
    with Session(first) as session:
        reads = do_everything(session)
        before = {read: session.get(read) for read in reads}
    first.stop()
    second = system(data=first.data, environment=environment)
    with Session(second) as session:
        assert {read: session.get(read) for read in reads} == before
        check_killed_title(second, session, provider)


def check_killed_title(system: System, session: Session, provider: ScriptedProvider) -> None:
    """The api is killed while it asks for a title. After the next reply, the conversation gets its title."""
    provider.script = answer_without_titles
    chat = session.sdk.conversations.create().id
    session.sdk.responses.create(input="Will it snow?", conversation=chat)
    wait_until(lambda: is_for_title(provider.requests[-1]), 10, "the request for a title")
    system.wait_restarted("api", system.kill("api"))
    system.wait_ready()
    provider.script = answer_in_turn
    assert session.get(f"/conversations/{chat}")["title"] is None
    session.sdk.responses.create(input="And tomorrow?", conversation=chat)
    wait_until(lambda: session.get(f"/conversations/{chat}")["title"] is not None, 10, "the title")
    assert [text for text in session.texts(f"/conversations/{chat}/items") if text.endswith("?")] == [
        "Will it snow?",
        "And tomorrow?",
    ]
    usage = {row["conversation"]: row for row in session.get("/usage", group_by="conversation")["data"]}
    assert (usage[chat]["replies"], usage[chat]["titles"]) == (2, 1)


def do_everything(session: Session) -> list[str]:
    """Returns the reads that show what was done."""
    chat = session.sdk.conversations.create(metadata={"team": "weather"}).id
    path = f"/conversations/{chat}"
    first = session.sdk.responses.create(input="How is the weather in Bergen?", conversation=chat)
    wait_until(lambda: session.get(path)["title"] is not None, 10, "the title")
    assert (session.get(path)["title"], session.get(path)["title_by"]) == ("Rainy days", "model")
    [question, answer] = [str(item.id) for item in session.sdk.conversations.items.list(chat, order="asc")]
    bergen = ["How is the weather in Bergen?", first.output_text]

    # Edits the question, asks again, regenerates the answer, and moves the head back to the first answer.
    edited = session.post(f"{path}/items/{question}", {"item": {"role": "user", "content": "How is it in Oslo?"}})["id"]
    second = session.sdk.responses.create(input="Briefly, please.", conversation=chat)
    third = session.sdk.responses.create(extra_body={"regenerate": second.id})
    leaf = str(third.output[0].id)
    oslo = ["How is it in Oslo?", "Briefly, please.", third.output_text]
    assert session.texts(f"{path}/items") == oslo
    assert session.get(f"{path}/items/{edited}")["siblings"] == {"index": 1, "count": 2}
    assert session.get(f"{path}/items/{leaf}")["siblings"] == {"index": 1, "count": 2}
    session.post(f"{path}/head", {"item": answer})
    assert session.texts(f"{path}/items") == bergen
    assert session.texts(f"{path}/items", leaf=leaf) == oslo
    tree = session.get(f"{path}/tree")
    assert [(node["depth"], node["preview"]) for node in tree["data"]] == [
        (1, bergen[0]),
        (1, oslo[0]),
        (2, bergen[1]),
        (2, oslo[1]),
        (3, second.output_text),
        (3, third.output_text),
    ]
    assert tree["active_leaf"] == answer

    # Continues a response that is not on the active path, and moves the head back.
    fourth = session.sdk.responses.create(input="And tomorrow?", previous_response_id=second.id)
    assert session.texts(f"{path}/items") == [*oslo[:2], second.output_text, "And tomorrow?", fourth.output_text]
    session.post(f"{path}/head", {"item": answer})

    # Forks the conversation. An inherited item is deleted and restored.
    fork = session.post(f"{path}/fork", {"item": answer, "title": "Only Bergen"})["id"]
    session.post(f"/conversations/{fork}/items", {"items": [{"role": "user", "content": "And in winter?"}]})
    session.sdk.conversations.items.delete(question, conversation_id=chat)
    assert shown_to_models(session, fork) == [first.output_text, "And in winter?"]
    session.post(f"{path}/items/{question}/restore")
    assert shown_to_models(session, fork) == [*bergen, "And in winter?"]

    rated = session.post(
        f"{path}/items/{answer}/feedback", {"rating": -1, "labels": ["wrong"], "comment": "It was sunny"}
    )
    assert (rated["item"], rated["rating"], rated["labels"]) == (answer, -1, ["wrong"])
    session.post(f"{path}/items/{answer}/feedback", {"rating": 1, "labels": ["helpful"]})
    session.post(f"/responses/{second.id}/feedback", {"rating": -1})
    session.post(f"{path}/items/{question}/feedback", {"rating": 1})
    session.delete(f"{path}/items/{question}/feedback")
    assert session.get("/feedback")["counts"] == {"positive": 1, "negative": 1, "labels": {"helpful": 1}}
    session.post(path, {"title": "Rain"})
    assert session.post(f"/conversations/{fork}/archive")["archived"]
    assert [entry["id"] for entry in session.get("/conversations", order_by="activity")["data"]] == [fork, chat]
    assert [entry["id"] for entry in session.get("/conversations", archived="true")["data"]] == [fork]
    [listed] = session.get("/conversations", **{"title": "rain", "metadata[team]": "weather"})["data"]
    assert listed["title_by"] == "person"
    assert (listed["id"], listed["item_count"], listed["first_text"]) == (chat, 8, bergen[0])
    check_search(session, chat, question, answer)
    [usage] = session.get("/usage", group_by="conversation")["data"]
    assert (usage["conversation"], usage["replies"], usage["titles"], usage["input_tokens"]) == (chat, 4, 1, 35)
    transcripts = edit_transcript(session)
    return [
        path,
        f"{path}/items",
        f"{path}/items?leaf={leaf}",
        f"{path}/tree",
        f"{path}/context",
        f"{path}/feedback",
        f"/conversations/{fork}",
        f"/conversations/{fork}/items",
        f"/conversations/{fork}/tree",
        f"/conversations/{fork}/context",
        f"/conversations/{transcripts}/items",
        f"/conversations/{transcripts}/tree",
        "/conversations?order_by=activity",
        "/feedback",
        "/search?q=Oslo",
        "/usage?group_by=conversation",
    ]


def edit_transcript(session: Session) -> str:
    """Continues and edits a transcript over Chat Completions. Returns its conversation."""
    messages: list[Any] = []
    for edited, question in ((0, "Is it windy?"), (2, "And at night?"), (2, "And at noon?")):
        messages = [*messages[:edited], {"role": "user", "content": question}]
        answer = session.sdk.chat.completions.with_raw_response.create(model="scripted", messages=messages)
        chat = answer.headers["x-conversation-id"]
        messages.append({"role": "assistant", "content": answer.parse().choices[0].message.content})
    assert session.texts(f"/conversations/{chat}/items") == [message["content"] for message in messages]
    tree = session.get(f"/conversations/{chat}/tree")
    assert [node["depth"] for node in tree["data"]] == [1, 2, 3, 3, 4, 4]
    wait_until(lambda: session.get(f"/conversations/{chat}")["title"] is not None, 10, "the title")
    wait_until(lambda: session.get("/search", q="noon")["data"], 10, "the search")
    return chat


def check_search(session: Session, conversation_id: str, question: str, answer: str) -> None:
    wait_until(lambda: session.get("/search", q="bergen")["data"], 10, "the search")
    [hit] = session.get("/search", q="bergen")["data"]
    assert (hit["conversation"], hit["item"], hit["leaf"]) == (conversation_id, question, answer)
    [[start, end]] = hit["highlights"]
    assert hit["snippet"][start:end] == "Bergen"


def shown_to_models(session: Session, conversation_id: str) -> list[str]:
    context = session.get(f"/conversations/{conversation_id}/context")
    return [entry["item"]["content"][0]["text"] for entry in context["items"]]
