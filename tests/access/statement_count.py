"""Counts the statements that clients send to Postgres through a Proxy. Formats: PostgreSQL documentation, "Message Formats"."""

from collections.abc import Callable

_ENCRYPTION_REQUESTS = (80877103, 80877104)


class StatementCount:
    """Collects the statements. `statements`: the SQL of simple queries, and the names of bound prepared statements."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def watch(self) -> Callable[[bytes], None]:
        """Returns a function for the bytes that one connection sends."""
        buffer = bytearray()
        is_started = False

        def sent(data: bytes) -> None:
            nonlocal is_started
            buffer.extend(data)
            while len(buffer) >= 8 - 3 * is_started:
                # Encryption requests and the startup message come first, without a type byte.
                size = int.from_bytes(buffer[is_started : is_started + 4]) + is_started
                if len(buffer) < size:
                    return
                message = bytes(buffer[:size])
                del buffer[:size]
                if is_started:
                    self._take(message[:1], message[5:])
                else:
                    is_started = int.from_bytes(message[4:8]) not in _ENCRYPTION_REQUESTS

        return sent

    def _take(self, kind: bytes, body: bytes) -> None:
        if kind == b"Q":
            self.statements.append(body.rstrip(b"\0").decode())
        elif kind == b"B":
            self.statements.append(body.split(b"\0")[1].decode())
