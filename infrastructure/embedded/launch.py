"""Changes the user, asks Linux for a signal when the parent dies, and executes another program.

  python -I -S launch.py PARENT_PID DEATH_SIGNAL UID:GID:CAPABILITY PROGRAM ARGUMENT…

An empty third argument keeps the user. Only the standard library is imported, so that a launch takes milliseconds.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 4
CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def main(arguments: list[str]) -> None:
    parent, death_signal, user, *command = arguments
    if user:
        uid, gid, capability = user.split(":")
        _become(int(uid), int(gid), int(capability) if capability else None)
    if sys.platform == "linux":
        # After the change of user, which clears this setting.
        _prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != int(parent):
            sys.exit("the supervisor ended before this child started")
    os.execv(command[0], command)  # noqa: S606 - this file exists to do that


def _become(uid: int, gid: int, capability: int | None) -> None:
    if capability is not None:
        # Without this bit, the change of user clears the capabilities. Postgres looks for its programs with access(2),
        # which ignores capabilities without this bit.
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if capability is not None:
        bit = 1 << capability
        header, sets = _Header(CAPABILITY_VERSION_3, 0), (_Sets * 2)(_Sets(bit, bit, bit))
        _check(_libc().capset(ctypes.byref(header), sets), "capset")
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc().prctl(option, *padded), "prctl")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, function: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{function}: {os.strerror(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])
