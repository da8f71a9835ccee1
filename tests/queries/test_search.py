"""GET /v1/search: what is found, in which order, and where in the text."""

from typing import Any

import httpx

from tests.queries.manual_projector import ManualProjector
from tests.queries.writer import Writer


async def found(api: httpx.AsyncClient, q: str, **parameters: Any) -> list[str]:
    """The snippets of the hits, best first, with the matches in brackets."""
    answer = await api.get("/v1/search", params={"q": q, **parameters})
    assert answer.status_code == 200, answer.text
    return [_marked(hit) for hit in answer.json()["data"]]


def _marked(hit: dict[str, Any]) -> str:
    text = hit["snippet"]
    for start, end in reversed(hit["highlights"]):
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return str(text)


async def test_words_phrases_prefixes_and_exclusions(
    api: httpx.AsyncClient, write: Writer, projector: ManualProjector
) -> None:
    await write.start("I drink green tea", "Tea that is green", "Greenland has no tea", "Green milk tea", "Don't!")
    await projector.catch_up()
    assert await found(api, "green TEA") == ["[Green] milk [tea]", "[Tea] that is [green]", "I drink [green] [tea]"]
    assert await found(api, '"green tea"') == ["I drink [green tea]"]
    assert await found(api, "green tea -milk -drink") == ["[Tea] that is [green]"]
    assert await found(api, 'tea -"green tea"') == ["Green milk [tea]", "Greenland has no [tea]", "[Tea] that is green"]
    assert sorted(await found(api, "gree* tea")) == sorted(
        ["[Gree]n milk [tea]", "[Tea] that is [gree]n", "[Gree]nland has no [tea]", "I drink [gree]n [tea]"]
    )
    assert await found(api, "don't") == ["[Don't]!"]
    assert await found(api, "coffee") == await found(api, "green coffee") == await found(api, "coff*") == []
