"""`Settings`: which configurations are refused. Secrets stay hidden."""

from typing import Any

import pytest
from pydantic import ValidationError

from infrastructure.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_without_authentication_a_process_may_listen_on_loopback(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_without_authentication_an_address_other_than_loopback_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="AUTH_MODE=none"):
        Settings(host=host)


def test_without_authentication_a_trusted_network_allows_other_addresses() -> None:
    assert Settings(host="0.0.0.0", trusted_network=True).trusted_network


def test_keys_and_passwords_are_not_printed() -> None:
    settings = Settings(
        openai_api_key="hunter2",
        postgres_url="postgresql://me:hunter2@db/x",
        mongodb_url="mongodb://me:hunter2@db/x",
        redis_url="redis://:hunter2@db/0",
        openai_base_url="https://me:hunter2@models/v1",
    )
    assert "hunter2" not in repr(settings)


SECRET = "hunter2-" * 4


@pytest.mark.parametrize(
    ("mode", "meant"),
    [("none", "none"), ("jwt", "jwt"), ("keys", "keys"), ("jwt,keys", "jwt,keys"), (" keys , jwt", "jwt,keys")],
)
def test_the_modes_of_authentication_are_a_list(mode: str, meant: str) -> None:
    assert Settings(auth_mode=mode, auth_secret=SECRET).auth_mode == meant


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"auth_mode": "none,keys"}, "`none` stands alone"),
        ({"auth_mode": "basic"}, "Input should be 'none', 'jwt', 'keys' or 'jwt,keys'"),
        ({"auth_mode": ""}, "Input should be 'none', 'jwt', 'keys' or 'jwt,keys'"),
        ({"auth_mode": "keys,"}, "Input should be 'none', 'jwt', 'keys' or 'jwt,keys'"),
        ({"auth_mode": "jwt"}, "AUTH_MODE=jwt needs either AUTH_SECRET or AUTH_JWKS_URL, and not both"),
        (
            {"auth_mode": "jwt,keys", "auth_secret": SECRET, "auth_jwks_url": "https://users.example/jwks"},
            "AUTH_MODE=jwt,keys needs either AUTH_SECRET or AUTH_JWKS_URL, and not both",
        ),
        ({"auth_mode": "jwt", "auth_secret": SECRET[:31]}, "AUTH_SECRET must have at least 32 bytes"),
        ({"auth_mode": "jwt", "auth_jwks_url": "file:///etc/jwks"}, "AUTH_JWKS_URL must be an http or https URL"),
        ({"auth_mode": "jwt", "auth_jwks_url": "users.example/jwks"}, "AUTH_JWKS_URL must be an http or https URL"),
        ({"auth_mode": "jwt", "auth_jwks_url": "http://["}, "AUTH_JWKS_URL must be an http or https URL"),
        ({"auth_tenant_claim": ""}, "auth_tenant_claim"),
        ({"auth_clock_skew": -1}, "auth_clock_skew"),
    ],
)
def test_settings_of_an_authentication_that_cannot_work_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**changed)
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_with_a_login_a_process_may_listen_on_any_address() -> None:
    assert Settings(auth_mode="keys", host="0.0.0.0").host == "0.0.0.0"
    assert "hunter2" not in repr(Settings(auth_mode="jwt", auth_secret=SECRET))


def test_the_secrets_are_the_keys_and_the_passwords_in_urls() -> None:
    settings = Settings(
        postgres_url="postgresql://me:one%2F1@first,second:5432/x",
        mongodb_url="mongodb://me:two2@db/x?tlsCertificateKeyFilePassword=three3&replicaSet=rs0",
        redis_url="redis://:four4@cache/0",
        openai_api_key="five5",
    )
    assert {"one/1", "two2", "three3", "four4", "five5"} <= settings.secrets
    assert {"me", "db", "rs0"}.isdisjoint(settings.secrets)
    assert "six 6" in Settings(postgres_url="host=db password='six 6' user=me").secrets


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("postgres_url", "postgresql://me:hun/ter2@db/x"),
        ("mongodb_url", "mongodb://me:hun?ter2@db/x"),
        ("redis_url", "redis://:hun#ter2@cache/0"),
    ],
)
def test_a_url_with_an_unescaped_password_is_refused(name: str, url: str) -> None:
    with pytest.raises(ValidationError, match="%2F") as refused:
        Settings.model_validate({name: url})
    assert "ter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:pw@first:5432,second:5433/x?target_session_attrs=primary",
        "postgresql://[::1]:5432/x",
        "postgresql:///x",
        "postgresql://%2Frun%2Fpostgresql/x",
        "host=db password=p",
    ],
)
def test_several_forms_of_a_postgres_url_are_accepted(url: str) -> None:
    assert Settings(postgres_url=url).postgres_url == url
