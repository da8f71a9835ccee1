"""Looks up every locked package in OSV, the public database of known vulnerabilities (https://osv.dev).

Exits with status 1 if a package has a known vulnerability. If the database gives no usable answer, the script says
so and exits with 0: a failed look-up must not stop CI.
"""

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
DATABASE = "https://api.osv.dev"
TIMEOUT_SECONDS = 20
_PACKAGE = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


class Vulnerability(Struct):
    id: str


class Result(Struct):
    vulns: list[Vulnerability] = []


class Results(Struct):
    """One result for each package, in the order of the queries."""

    results: list[Result]


def packages(lock: str) -> list[tuple[str, str]]:
    return _PACKAGE.findall(lock)


def look_up(names: Sequence[tuple[str, str]], database: str) -> Iterator[tuple[str, str, str]]:
    """(name, version, id) of each known vulnerability. Raises OSError, MsgspecError or ValueError."""
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in names]
    request = urllib.request.Request(  # noqa: S310 - https, or what the caller names
        f"{database}/v1/querybatch",
        msgspec.json.encode({"queries": queries}),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
        results = msgspec.json.decode(answer.read(), type=Results).results
    for (name, version), result in zip(names, results, strict=True):
        for vulnerability in result.vulns:
            yield name, version, vulnerability.id


def audit(lock: str, database: str) -> int:
    names = packages(lock)
    try:
        found = list(look_up(names, database))
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        print(
            f"audit: skipped, the database of vulnerabilities gave no usable answer ({type(error).__name__}: {error})"
        )
        return 0
    for name, version, vulnerability in found:
        print(f"audit: {name} {version} has {vulnerability}: https://osv.dev/{vulnerability}")
    print(f"audit: {len(names)} packages, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default=DATABASE, help=f"the URL of the database (default: {DATABASE})")
    sys.exit(audit(LOCK.read_text(), parser.parse_args().database))
