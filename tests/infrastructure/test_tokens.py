"""Which tokens of the user service are accepted, and which principal each names. The store checks the tokens with a shared secret."""

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest

from infrastructure.access.principal import Principal
from infrastructure.access.refusals import InvalidCredential
from infrastructure.access.tokens import TokenVerifier
from infrastructure.settings import Settings
from tests.user_service import SECRET, claims, token


def verifier(**settings: Any) -> TokenVerifier:
    return TokenVerifier(Settings(auth_mode="jwt", **{"auth_secret": SECRET, **settings}))


async def refusal(credential: str, **settings: Any) -> str:
    """Returns the message of the refusal, which must have no part of the token."""
    with pytest.raises(InvalidCredential) as refused:
        await verifier(**settings).principal_of(credential)
    assert refused.value.code == "invalid_token"
    message = str(refused.value)
    for part in credential.split("."):
        assert len(part) < 8 or part[:8] not in message
    return message


def unsigned(header: object, payload: object = None) -> str:
    parts = [header, claims() if payload is None else payload]
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), ""])


async def test_a_valid_token_names_tenant_subject_and_scopes() -> None:
    assert await verifier().principal_of(token()) == Principal("acme", "ann", frozenset({"read", "write", "reply"}))


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("openid read  profile", {"read"}),
        (["admin", "audit", 7, {"read": 1}], {"admin", "audit"}),
        (None, set()),
        (True, set()),
        ({"read": True}, set()),
        ("readwrite", set()),
    ],
)
async def test_scopes_are_words_or_a_list_and_unknown_scopes_are_ignored(scope: Any, scopes: set[str]) -> None:
    assert (await verifier().principal_of(token(scope=scope))).scopes == scopes


async def test_the_names_of_the_claims_can_be_configured() -> None:
    named = {"auth_tenant_claim": "https://a.example/org", "auth_subject_claim": "uid", "auth_scope_claim": "roles"}
    sent = token(sub=7, jti=7, uid="Ünal", roles=["read"], **{"https://a.example/org": "A.b_c-9"})
    assert await verifier(**named).principal_of(sent) == Principal("A.b_c-9", "Ünal", frozenset({"read"}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"exp": time.time() - 31}, "The token has expired."),
        ({"exp": None}, "The token has no claim `exp`."),
        ({"exp": "9999999999"}, "The token's claim `exp` is not a time."),
        ({"exp": 10**400}, "The token's claim `exp` is not a time."),
        ({"exp": float("inf")}, "The token is not valid."),
        ({"exp": True}, "The token has expired."),
        ({"nbf": time.time() + 86_400}, "The token is not valid yet."),
        ({"iat": time.time() + 86_400}, "The token is not valid yet."),
        ({"nbf": "soon"}, "The token is not valid."),
        ({"aud": "another"}, "The token is for another audience."),
        ({"iss": "another", "aud": "store"}, "The token is for another audience."),
        ({"tenant": None}, "The token's claim `tenant` must name a tenant"),
        ({"sub": None}, "The token's claim `sub` must name a user"),
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused(changed: dict[str, Any], message: str) -> None:
    assert (await refusal(token(**changed))).startswith(message)


async def test_times_may_differ_by_the_configured_clock_skew() -> None:
    assert await verifier().principal_of(token(exp=time.time() - 20, nbf=time.time() + 20, iat=time.time() + 20))
    assert await refusal(token(exp=time.time() - 20), auth_clock_skew=10) == "The token has expired."


async def test_the_audience_and_the_issuer_must_agree_with_the_settings() -> None:
    configured: dict[str, Any] = {"auth_audience": "store", "auth_issuer": "https://users.example"}
    good: dict[str, Any] = {"aud": ["other", "store"], "iss": "https://users.example"}
    assert await verifier(**configured).principal_of(token(**good))
    for changed, message in (
        ({"aud": "other"}, "The token is for another audience."),
        ({"aud": [["store"]]}, "The token is for another audience."),
        ({"aud": None}, "The token has no claim `aud`."),
        ({"iss": "https://users.example.evil"}, "The token is from another issuer."),
        ({"iss": None}, "The token has no claim `iss`."),
    ):
        assert await refusal(token(**{**good, **changed}), **configured) == message


@pytest.mark.parametrize("tenant", ["", "a b", "a/b", "a" * 65, "a\n", "ä", "a$b", "a\0", 7, ["acme"], None])
async def test_an_invalid_tenant_is_refused(tenant: Any) -> None:
    assert "1 to 64 letters, digits" in await refusal(token(tenant=tenant))


@pytest.mark.parametrize("subject", ["", "a\0b", "a\nb", "a\x7f", "a\x85", "a" * 256, "ä" * 128, "\ud800", 7, {}])
async def test_an_invalid_subject_is_refused(subject: Any) -> None:
    assert "1 to 255 bytes without control characters" in await refusal(token(sub=subject))


@pytest.mark.parametrize(
    "credential",
    [
        "x",
        "a.b.c",
        "a.b.c.d.e",
        "..",
        unsigned({"alg": "none"}),
        unsigned({"alg": "None", "typ": "JWT"}),
        unsigned({"alg": ""}),
        unsigned({"alg": ["HS256"]}),
        unsigned({"alg": {}}),
        unsigned({}),
        unsigned([]),
        unsigned({"alg": "HS256"}),
        unsigned({"alg": "HS256", "kid": 7}),
        unsigned({"alg": "HS256", "crit": ["exp"]}),
        unsigned({"alg": "HS256", "b64": False, "crit": ["b64"]}),
        unsigned({"alg": "RS256"}),
        token("another secret, which is as long as the right one: 64 bytes ...."),
        token()[:-3] + "AAA",
    ],
)
async def test_a_token_that_is_not_signed_with_the_secret_is_refused(credential: str) -> None:
    assert await refusal(credential)


async def test_a_token_longer_than_the_limit_is_refused() -> None:
    assert await verifier().principal_of(token(more="a" * 10_000))
    assert await refusal(token(more="a" * 13_000)) == "The token is longer than 16384 bytes."


async def test_a_payload_that_is_no_readable_object_is_refused() -> None:
    for payload in (
        b"[]",
        b"7",
        b"not json",
        b'{"exp": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"exp": 1' + b"0" * 5000,
    ):
        assert await refusal(jwt.api_jws.encode(payload, SECRET, "HS256")) == "The token is not valid."


async def test_an_algorithm_needs_a_secret_that_is_long_enough() -> None:
    for length, accepted in ((32, ["HS256"]), (48, ["HS256", "HS384"]), (64, ["HS256", "HS384", "HS512"])):
        secret = SECRET[:length]
        for algorithm in ("HS256", "HS384", "HS512"):
            # PyJWT warns about a short secret, so a refused token is signed with the long secret.
            if algorithm in accepted:
                assert await verifier(auth_secret=secret).principal_of(token(secret, algorithm))
            else:
                sent = token(SECRET, algorithm)
                assert "an algorithm that this store accepts" in await refusal(sent, auth_secret=secret)


async def test_an_accepted_token_is_refused_after_it_expires() -> None:
    checked = verifier(auth_clock_skew=0)
    ends_at = int(time.time()) + 2
    sent = token(exp=ends_at)
    assert await checked.principal_of(sent)
    assert await checked.principal_of(sent)
    await asyncio.sleep(ends_at - time.time())
    with pytest.raises(InvalidCredential, match="expired"):
        await checked.principal_of(sent)


async def test_a_remembered_token_is_not_verified_again() -> None:
    checked = TokenVerifier(Settings(auth_mode="jwt", auth_secret=SECRET), max_remembered=3)
    sent = [token(sub=f"user-{number}") for number in range(4)]
    assert await checked.principal_of(sent[0]) is await checked.principal_of(sent[0])
    first = await checked.principal_of(sent[0])
    for other in sent[1:]:
        await checked.principal_of(other)
    assert await checked.principal_of(sent[3]) is await checked.principal_of(sent[3])
    later = await checked.principal_of(sent[0])
    assert later == first
    assert later is not first
