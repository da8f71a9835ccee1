"""`domain/content.py` says for each field of each event whether it holds content."""

from domain.content import CONTENT, NO_CONTENT
from domain.events import EVENTS


def test_each_field_of_each_event_is_listed_as_content_or_no_content() -> None:
    assert CONTENT.keys() | NO_CONTENT.keys() <= {*EVENTS}
    for event in EVENTS:
        content, other = CONTENT.get(event, {}).keys(), NO_CONTENT.get(event, frozenset())
        missing = f"{event.__name__}: say in domain/content.py what its fields hold"
        assert content | other == {*event.__struct_fields__}, missing
        assert not content & other
