"""The errors of a credential. No message contains the credential."""


class InvalidCredential(Exception):
    """401. `code` is for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotPermitted(Exception):
    """403. `param`: the header that asks for too much, if any."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class InvalidSubject(Exception):
    """`X-Subject` does not name a user: 400."""


class CannotCheckCredential(Exception):
    """503: a server does not answer, or its answer cannot be used."""
