"""Settings refuse a configuration that would let anyone in."""

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
