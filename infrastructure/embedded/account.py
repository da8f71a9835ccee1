"""The user that Postgres runs as when the supervisor is root, because Postgres refuses to run as root."""

import os
import pwd
import stat
import sys
from pathlib import Path

from infrastructure.embedded.service import Account

USER = "nobody"
# From capabilities(7). Either capability lets a process pass through directories that are closed to its user.
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
# Lets a process set which of its capabilities its children inherit.
CAP_SETPCAP = 8


class UnreachableError(RuntimeError):
    pass


def account_for(*paths: Path) -> Account | None:
    """The user `nobody`, who can reach all of `paths`. None if this process is not root.

    If a parent directory is closed (as below /root), the account keeps a capability. Raises UnreachableError if this
    process cannot pass a capability on.
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
    """None if this process cannot pass a capability on."""
    if sys.platform != "linux":
        return None
    status = Path("/proc/self/status").read_text()
    permitted = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:"))
    permitted_bits = {bit for bit in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE, CAP_SETPCAP) if permitted >> bit & 1}
    if CAP_SETPCAP not in permitted_bits:
        return None
    return next((bit for bit in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if bit in permitted_bits), None)
