"""`X-Subject`: who may name an end user, and what that user may do."""

import pytest
from starlette.datastructures import Headers

from infrastructure.access.act_as import acting_as
from infrastructure.access.principal import ANONYMOUS, Principal, Scope
from infrastructure.access.refusals import InvalidSubject, NotPermitted


def principal(*scopes: Scope) -> Principal:
    return Principal("acme", "backend", frozenset(scopes), "key_1")


def named(*values: bytes) -> Headers:
    return Headers(raw=[(b"x-subject", value) for value in values])


def test_the_scope_act_as_lets_a_credential_act_for_the_named_user() -> None:
    backend = principal("read", "write", "reply", "act_as")
    assert acting_as(backend, named("Zoë@example.org".encode())) == Principal(
        "acme", "Zoë@example.org", frozenset({"read", "write", "reply"}), "key_1"
    )


@pytest.mark.parametrize(
    ("scopes", "left"),
    [
        (("act_as", "read"), {"read"}),
        (("act_as", "admin", "audit"), {"read", "write", "reply"}),
        (("act_as",), set()),
    ],
)
def test_a_named_user_gets_at_most_read_write_and_reply(scopes: tuple[Scope, ...], left: set[Scope]) -> None:
    assert acting_as(principal(*scopes), named(b"ada")).scopes == left


def test_a_credential_without_the_header_acts_for_itself() -> None:
    backend = principal("read", "admin", "act_as")
    assert acting_as(backend, Headers()) is backend


def test_no_user_can_be_named_without_the_scope_act_as() -> None:
    for name in (b"ada", b"backend", b""):
        with pytest.raises(NotPermitted, match="act_as"):
            acting_as(principal("read", "write", "reply", "audit", "admin"), named(name))


def test_an_anonymous_sender_can_name_a_user() -> None:
    assert acting_as(ANONYMOUS, named(b"ada")).subject == "ada"


@pytest.mark.parametrize(
    "values", [(b"",), (b"a\tb",), (b"a\x7fb",), (b"\xff",), ("é".encode() * 128,), (b"a" * 256,), (b"ada", b"ada")]
)
def test_a_malformed_value_is_refused_and_not_shown_in_the_message(values: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidSubject) as refused:
        acting_as(principal("read", "act_as"), named(*values))
    assert "ada" not in str(refused.value)
    assert len(str(refused.value)) < 100
