"""The `eventsourcing` library's connection pool, opened from a URL."""

from eventsourcing.postgres import PostgresDatastore
from psycopg.conninfo import conninfo_to_dict

from infrastructure.stores.postgres import DEAD_SERVER_DETECTION, RECONNECT_TIMEOUT_SECONDS

LOCK_TIMEOUT_SECONDS = 10
STATEMENT_TIMEOUT_SECONDS = 30
IDLE_TIMEOUT_SECONDS = 10
POOL_TIMEOUT_SECONDS = 0.5
"""After this time the append is retried, which makes the pool connect again."""


class Datastore(PostgresDatastore):
    """The connections for appends. Their time limits keep any process from holding the append lock for long."""

    def __init__(self, postgres_url: str) -> None:
        arguments = conninfo_to_dict(postgres_url)
        super().__init__(
            dbname=str(arguments.pop("dbname", "")),
            host=str(arguments.pop("host", "")),
            port=str(arguments.pop("port", "")),
            user=str(arguments.pop("user", "")),
            password=str(arguments.pop("password", "")),
            connect_timeout=POOL_TIMEOUT_SECONDS,  # the pool's timeout, not a connection's
            pool_size=1,
            max_overflow=3,
            originator_id_type="uuid",
            # If a process hangs, Postgres ends its transaction and releases the append lock.
            idle_in_transaction_session_timeout=IDLE_TIMEOUT_SECONDS,
        )
        self.pool.reconnect_timeout = RECONNECT_TIMEOUT_SECONDS
        limits = f"-c lock_timeout={LOCK_TIMEOUT_SECONDS}s -c statement_timeout={STATEMENT_TIMEOUT_SECONDS}s"
        options = f"{arguments.pop('options', '')} {limits}".strip()
        assert isinstance(self.pool.kwargs, dict)
        kwargs = {name: value for name, value in self.pool.kwargs.items() if value != ""}
        fixed = {"options": options, "client_encoding": "UTF8"}
        self.pool.kwargs = {"connect_timeout": 5, **DEAD_SERVER_DETECTION, **kwargs, **arguments, **fixed}

    def register_type_adapters(self) -> None:
        """Registers nothing, so that a recorder can be made while Postgres is down."""
