"""A user service for tests. It signs tokens, and publishes a JWK Set."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET: Final = "the secret that the user service and the store share: 64 bytes.."
"""Long enough for HS512."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def claims(**changed: Any) -> dict[str, Any]:
    """The claims of a token, usually valid for an hour. A value of None leaves the claim out."""
    usual = {"tenant": "acme", "sub": "ann", "scope": "read write reply", "exp": time.time() + 3600}
    return {name: value for name, value in {**usual, **changed}.items() if value is not None}


def token(secret: str = SECRET, algorithm: str = "HS256", **changed: Any) -> str:
    return jwt.encode(claims(**changed), secret, algorithm)


class SigningKey:
    def __init__(self, key_id: str | None, algorithm: str) -> None:
        self.key_id = key_id
        self.algorithm = algorithm
        self.private = _new_key(algorithm)

    def token(self, *, header: dict[str, Any] | None = None, **changed: Any) -> str:
        """`header`: fields to add or to replace."""
        own = {} if self.key_id is None else {"kid": self.key_id}
        return jwt.encode(claims(**changed), self.private, self.algorithm, headers={**own, **(header or {})})

    def jwk(self, **changed: Any) -> dict[str, Any]:
        public: Any = self.private.public_key()
        formats: dict[str, Callable[[Any], str]] = {
            "RS256": RSAAlgorithm.to_jwk,
            "ES256": ECAlgorithm.to_jwk,
            "EdDSA": OKPAlgorithm.to_jwk,
        }
        named = {} if self.key_id is None else {"kid": self.key_id}
        return {**json.loads(formats[self.algorithm](public)), **named, "use": "sig", "alg": self.algorithm, **changed}


def _new_key(algorithm: str) -> PrivateKey:
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


class UserService:
    """Answers each GET with the (status, body) of `answer()`.

    If `seconds_per_byte` is set, the server sends the body byte by byte.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests = 0
        self.seconds_per_byte = 0.0
        self.answer: Callable[[], tuple[int, bytes]] = lambda: (200, b"{}")
        handler = type("Bound", (_Exchange,), {"service": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/jwks"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, *keys: SigningKey) -> None:
        jwks = json.dumps({"keys": [key.jwk() for key in keys]}).encode()
        self.answer = lambda: (200, jwks)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Exchange(BaseHTTPRequestHandler):
    service: UserService

    def do_GET(self) -> None:
        self.service.requests += 1
        status, body = self.service.answer()
        try:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("location", f"{self.service.url}/moved")
            self.end_headers()
            for part in [body] if not self.service.seconds_per_byte else [body[at : at + 1] for at in range(len(body))]:
                self.wfile.write(part)
                time.sleep(self.service.seconds_per_byte)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the parent class
        """Logs nothing."""


@contextmanager
def user_service(*keys: SigningKey, port: int = 0) -> Iterator[UserService]:
    service = UserService(port)
    service.publish(*keys)
    try:
        yield service
    finally:
        service.stop()
