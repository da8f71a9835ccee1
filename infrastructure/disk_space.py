"""The error of a full disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, EFBIG, ENOSPC


class NoSpace(Exception):
    """There is no space for a file on the disk of this process."""

    def __init__(self) -> None:
        super().__init__("There is no space for the file.")


@contextmanager
def no_space() -> Iterator[None]:
    """Raises NoSpace if the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT, EFBIG):
            raise NoSpace from error
        raise
