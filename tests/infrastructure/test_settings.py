"""Settings refuse a configuration that would let anyone in."""

from typing import Any

import pytest
from pydantic import ValidationError

from infrastructure.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_without_authentication_a_process_listens_on_loopback(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_without_authentication_any_other_address_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="AUTH_MODE=none"):
        Settings(host=host)


def test_without_authentication_a_trusted_network_allows_other_addresses() -> None:
    assert Settings(host="0.0.0.0", trusted_network=True).trusted_network


def test_a_key_is_not_printed() -> None:
    assert "hunter2" not in repr(Settings(openai_api_key="hunter2"))


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
def test_an_authentication_that_cannot_work_is_refused_at_start_and_the_message_has_no_secret(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**changed)
    assert message in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_with_a_login_a_process_may_listen_on_any_address() -> None:
    assert Settings(auth_mode="keys", host="0.0.0.0").host == "0.0.0.0"
    assert "hunter2" not in repr(Settings(auth_mode="jwt", auth_secret=SECRET))
