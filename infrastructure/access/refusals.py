"""The errors of a request whose credential is refused, does not allow the request, or cannot be checked.

`infrastructure/http/errors.py` says which answer the client gets.
No message contains the credential or a part of it.
"""


class InvalidCredential(Exception):
    """There is no credential, or it is not valid: 401. `code` is for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotPermitted(Exception):
    """The credential is valid, but does not allow what the request asks for: 403. `param`: the header that asks for it; None if no header does."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class InvalidSubject(Exception):
    """`X-Subject` does not name a user: 400."""


class CannotCheckCredential(Exception):
    """The credential cannot be checked now, because a server does not answer, or its answer cannot be used: 503."""
