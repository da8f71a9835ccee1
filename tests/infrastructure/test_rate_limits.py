"""The setting RATE_LIMITS: which values are accepted."""

import json

import pytest
from pydantic import ValidationError

from infrastructure.rate_limits import RECOMMENDED, Limits, RateLimits
from infrastructure.settings import Settings


def read(text: str, monkeypatch: pytest.MonkeyPatch) -> RateLimits:
    monkeypatch.setenv("RATE_LIMITS", text)
    return Settings().rate_limits


def error(text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(ValidationError) as raised:
        read(text, monkeypatch)
    return str(raised.value)


@pytest.mark.parametrize("text", ["", "  ", "{}", '{"overrides": {}}', '{"tenant": {}}'])
def test_an_empty_setting_limits_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(text, monkeypatch) == RateLimits()


def test_without_the_variable_nothing_is_limited() -> None:
    assert Settings().rate_limits == RateLimits()


@pytest.mark.parametrize("text", ["recommended", " recommended\n"])
def test_the_word_recommended_stands_for_the_recommended_limits(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(text, monkeypatch) == RECOMMENDED
    assert RECOMMENDED.tenant.requests
    assert RECOMMENDED.key.requests_a_second
    assert RECOMMENDED.subject.followers


def test_tenant_subject_and_key_have_limits_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = read('{"tenant": {"requests": 10, "tokens_a_month": 0}, "key": {"replies": 2}}', monkeypatch).of("any")

    assert limits["tenant"] == Limits(requests=10, tokens_a_month=0)
    assert limits["subject"] == Limits()
    assert limits["key"] == Limits(replies=2)


def test_an_override_replaces_the_limits_that_it_names_for_its_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    general = {"tenant": {"requests": 10, "replies": 5}, "subject": {"followers": 3}}
    overrides = {
        "acme": {"requests": 99},
        "b.c-d_e": {"tenant": {"replies": None}, "subject": {"requests": 1}},
    }
    rules = read(json.dumps({**general, "overrides": overrides}), monkeypatch)

    assert rules.of("acme")["tenant"] == Limits(requests=99, replies=5)
    assert rules.of("acme")["subject"] == Limits(followers=3)
    assert rules.of("b.c-d_e")["tenant"] == Limits(requests=10, replies=None)
    assert rules.of("b.c-d_e")["subject"] == Limits(requests=1, followers=3)
    assert rules.of("another")["tenant"] == Limits(requests=10, replies=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"tenant": {"request": 1}}', "tenant.request"),
        ('{"user": {"requests": 1}}', "user"),
        ('{"requests": 1}', "requests"),
        ('{"tenant": {"requests": -1}}', "greater than or equal to 0"),
        ('{"tenant": {"requests": 1.5}}', "valid integer"),
        ('{"tenant": {"requests": 60.0}}', "valid integer"),
        ('{"tenant": {"requests": "60"}}', "valid integer"),
        ('{"tenant": {"requests": true}}', "valid integer"),
        ('{"tenant": {"requests": 1000000000001}}', "less than or equal to 1000000000000"),
        (f'{{"tenant": {{"requests": 1{"0" * 400}}}}}', "less than or equal to"),
        (f'{{"tenant": {{"requests": 1{"0" * 5000}}}}}', "integer"),
        ('{"tenant": {"requests": NaN}}', "valid integer"),
        ('{"tenant": 5}', "tenant"),
        ('{"overrides": {"a b": {"requests": 1}}}', "a tenant's name has 1 to 64"),
        ('{"overrides": {"": {"requests": 1}}}', "a tenant's name has 1 to 64"),
        (f'{{"overrides": {{"{"a" * 65}": {{"requests": 1}}}}}}', "a tenant's name has 1 to 64"),
        ('{"overrides": {"acme": {"request": 1}}}', "overrides.acme.request"),
        ('{"overrides": {"acme": {"overrides": {}}}}', "overrides.acme.overrides"),
        ("null", "valid dictionary"),
        ("[]", "valid dictionary"),
        ("recommend", "neither JSON nor the word `recommended`"),
        ('{"tenant": ', "neither JSON nor the word `recommended`"),
        ("[" * 100_000, "nested too deeply"),
        ('{"tenant":' * 100_000, "nested too deeply"),
    ],
)
def test_an_invalid_value_is_refused_when_the_settings_are_read(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message in error(text, monkeypatch)
