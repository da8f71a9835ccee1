"""What web pages may do with the store: `Host`, `Origin`, CORS, and headers for browsers.

Without a login (AUTH_MODE=none), any web page in a user's browser could use the store. Then these rules hold:

- the `Host` must be a loopback name or in ALLOWED_HOSTS, except for health checks. This stops DNS rebinding, in
  which the name of a page points to the store's address
- the `Origin`, if there is one, must be the store's own or in CORS_ORIGINS
- `Sec-Fetch-Site`, if it is sent, must be `same-origin` or `none`. It is not checked if the `Origin` is in
  CORS_ORIGINS, or if the user follows a link to one of the store's pages

With a login, a page of another site has no credential, because the store uses no cookies. Then only WebSockets are
checked.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Self

from starlette.responses import Response
from starlette.types import Scope

from infrastructure.hosts import is_loopback, parse_host, parse_host_name, parse_origin
from infrastructure.http.errors import ApiError
from infrastructure.http.operations import HEADERS
from infrastructure.http.served_paths import allowed_methods
from infrastructure.settings import Settings

RawHeaders = list[tuple[bytes, bytes]]

_HEALTH: Final = ("/health/live", "/health/ready")
_DOCS: Final = "/docs"
_PAGES: Final = (_DOCS, "/console")
"""A link on another site may open these pages."""

_OWN_SITES: Final = (b"same-origin", b"none")
_HEADER_NAMES: Final = re.compile(rb"[\w!#$%&'*+.^`|~-]+(?: *, *[\w!#$%&'*+.^`|~-]+)*")
_PREFLIGHT_SECONDS: Final = "600"
"""How long a browser may keep the answer to a preflight."""

_DOCS_HEADERS: Final[Mapping[str, str]] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""`docs_page.py` adds a content security policy."""

_API_HEADERS: Final[Mapping[str, str]] = {
    **_DOCS_HEADERS,
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    # Deleted content must not stay in a browser's cache.
    "cache-control": "no-store",
}
_EXPOSED: Final = ", ".join((*HEADERS, "WWW-Authenticate"))
"""A page of another origin may read these headers of answers."""

HEADER_NAMES: Final = frozenset({*_API_HEADERS, "access-control-allow-origin", "access-control-expose-headers"})
"""Headers for browsers that any answer may have, besides `Vary`."""


class WebPages:
    def __init__(self, *, has_login: bool, allowed_hosts: Iterable[str] = (), cors_origins: Iterable[str] = ()) -> None:
        self._has_login = has_login
        self._allowed_hosts = frozenset(parse_host_name(name) for name in allowed_hosts)
        self._cors_origins = frozenset(parse_origin(origin) for origin in cors_origins) - {None}
        vary = {"vary": "Origin"} if self._cors_origins else {}
        self._api_headers = _raw({**_API_HEADERS, **vary})
        self._docs_headers = _raw({**_DOCS_HEADERS, **vary})

    @classmethod
    def of(cls, settings: Settings) -> Self:
        has_login = settings.auth_mode != "none"
        return cls(has_login=has_login, allowed_hosts=settings.allowed_hosts, cors_origins=settings.cors_origins)

    def check(self, scope: Scope) -> None:
        """Raises ApiError (400, 403)."""
        if self._has_login and scope["type"] == "http":
            return
        headers: RawHeaders = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if not self._has_login and scope["path"] not in _HEALTH:
            self._check_host(hosts)
        if self._cors_origin(headers) is not None:
            return
        for name, value in headers:
            if name == b"origin" and not _is_own_origin(value, hosts):
                message = "A web page of another site may not use this store: the `Origin` is neither the store's address nor in `CORS_ORIGINS`."
                raise ApiError(403, message, code="origin_not_allowed", param="Origin")
            if name == b"sec-fetch-site" and value not in _OWN_SITES and not _opens_page(scope):
                message = "A web page of another site may not use this store, and the browser says that one sent this request."
                raise ApiError(403, message, code="origin_not_allowed", param="Sec-Fetch-Site")

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a preflight from an origin in CORS_ORIGINS; otherwise None. Call `check` first."""
        if scope["type"] != "http" or scope["method"] != "OPTIONS" or self._cors_origin(scope["headers"]) is None:
            return None
        requested = {name: value for name, value in scope["headers"] if name.startswith(b"access-control-request-")}
        if b"access-control-request-method" not in requested:
            return None
        answer = {"access-control-allow-methods": allowed_methods("*"), "access-control-max-age": _PREFLIGHT_SECONDS}
        # A client may have headers that this store does not know.
        names = requested.get(b"access-control-request-headers", b"")
        if _HEADER_NAMES.fullmatch(names):
            answer["access-control-allow-headers"] = names.decode()
        return Response(status_code=204, headers=answer)

    def answer_headers(self, scope: Scope) -> RawHeaders:
        """The headers for browsers, also of errors."""
        headers = self._docs_headers if scope["path"].startswith(_DOCS) else self._api_headers
        origin = self._cors_origin(scope["headers"])
        if origin is None:
            return headers
        cors = [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED.encode())]
        return [*headers, *cors]

    def _check_host(self, hosts: list[str]) -> None:
        if len(hosts) != 1:
            raise ApiError(400, "The request must have one `Host`.", code="invalid_header", param="Host")
        host = parse_host(hosts[0])
        if host is None or not (is_loopback(host.name) or host.name in self._allowed_hosts):
            message = "This store has no login, so its `Host` must be `localhost`, `127.0.0.1`, `[::1]`, or a name in the setting `ALLOWED_HOSTS`."
            raise ApiError(403, message, code="host_not_allowed", param="Host")

    def _cors_origin(self, headers: RawHeaders) -> bytes | None:
        """The request's `Origin` if it is in CORS_ORIGINS."""
        if not self._cors_origins:
            return None
        origins = [value for name, value in headers if name == b"origin"]
        return (
            origins[0]
            if len(origins) == 1 and parse_origin(origins[0].decode("latin-1")) in self._cors_origins
            else None
        )


def _is_own_origin(sent: bytes, hosts: list[str]) -> bool:
    origin = parse_origin(sent.decode("latin-1"))
    host = parse_host(hosts[0]) if len(hosts) == 1 else None
    return origin is not None and host is not None and origin.is_of(host)


def _opens_page(scope: Scope) -> bool:
    """Whether the user opens one of the store's pages, for example with a link."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or scope["path"] not in _PAGES:
        return False
    headers = dict(scope["headers"])
    return headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"


def _raw(headers: Mapping[str, str]) -> RawHeaders:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
