"""The hosts and origins that settings and requests name. Pure."""

import ipaddress
import re
from functools import lru_cache
from typing import Final

from msgspec import Struct

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}))(?::([0-9]{0,5}))?")
_ORIGIN: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,63})://(.+)")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class Host(Struct, frozen=True):
    """A host name or address, and its port if one was named. `name`: in lower case, without brackets or a dot at its end."""

    name: str
    port: str = ""


class Origin(Struct, frozen=True):
    """The origin of a web page. `host.port` is empty for the scheme's default port."""

    scheme: str
    host: Host

    def is_of(self, host: Host) -> bool:
        """Whether host and port are the same.

        A proxy may have received `https` and sent the request on as `http`, so schemes are not compared.
        """
        return _without_default_port(self.scheme, host) == self.host


@lru_cache(maxsize=1024)
def parse_host(text: str) -> Host | None:
    """An internationalized name must be in ASCII (`xn--…`)."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    name, port = match[1].lower(), match[2] or ""
    if name.startswith("["):
        try:
            name = ipaddress.IPv6Address(name[1:-1]).compressed
        except ValueError:
            return None
    return Host(name.removesuffix("."), port and str(int(port)))


def parse_host_name(text: str) -> str | None:
    """None if the text has a port. An IPv6 address may have brackets."""
    is_bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
    host = parse_host(f"[{text}]" if is_bare_ipv6 else text)
    return None if host is None or host.port or (text.endswith(":") and not is_bare_ipv6) else host.name


@lru_cache(maxsize=1024)
def parse_origin(text: str) -> Origin | None:
    """Returns None for `null`."""
    match = _ORIGIN.fullmatch(text)
    host = parse_host(match[2]) if match else None
    if match is None or host is None:
        return None
    scheme = match[1].lower()
    return Origin(scheme, _without_default_port(scheme, host))


@lru_cache(maxsize=1024)
def is_loopback(name: str) -> bool:
    """Whether the name always means this machine, whatever DNS answers."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _without_default_port(scheme: str, host: Host) -> Host:
    return Host(host.name) if host.port == _DEFAULT_PORTS.get(scheme) else host
