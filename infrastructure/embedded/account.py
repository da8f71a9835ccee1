"""The user that Postgres runs as when the supervisor runs as root: Postgres refuses to run as root."""

import os
import pwd
import stat
import sys
from pathlib import Path

from infrastructure.embedded.service import Account

USER = "nobody"
# From capabilities(7). With either of these two, a process can pass through directories that are closed to its user.
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
# With this one, a process can set which of its capabilities its children inherit.
CAP_SETPCAP = 8


class UnreachableError(RuntimeError):
    """The user that Postgres must run as cannot pass through a directory."""


def account_for(*paths: Path) -> Account | None:
    """The user `nobody`, with access to all of `paths`.

    None if this process is not root: then the child keeps its user. If a parent directory is closed to `nobody` (as
    below /root), the account keeps the capability to pass through it. Raises UnreachableError if this process does not
    have that capability itself, or cannot pass it on.
    """
    if os.geteuid() != 0:
        return None
    user = pwd.getpwnam(USER)
    closed = [parent for path in paths for parent in path.resolve().parents if not _open_to(parent, user)]
    if not closed:
        return Account(user.pw_uid, user.pw_gid)
    capability = _capability()
    if capability is None:
        raise UnreachableError(
            f"Postgres refuses to run as root, and user {USER!r} cannot pass through {closed[0]}. "
            f"Allow it (chmod o+x {closed[0]}), use other directories, or run this program as an ordinary user"
        )
    return Account(user.pw_uid, user.pw_gid, capability)


def _open_to(directory: Path, user: pwd.struct_passwd) -> bool:
    if not directory.exists():
        return True
    status = directory.stat()
    if status.st_uid == user.pw_uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.pw_gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _capability() -> int | None:
    """The capability that lets a child pass through closed directories.

    None if this process does not have it, or cannot pass it on.
    """
    if sys.platform != "linux":
        return None
    status = Path("/proc/self/status").read_text()
    permitted = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:"))
    permitted_bits = {bit for bit in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE, CAP_SETPCAP) if permitted >> bit & 1}
    if CAP_SETPCAP not in permitted_bits:
        return None
    return next((bit for bit in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if bit in permitted_bits), None)
