"""Chooses which servers to start. A server whose URL the environment sets is not started."""

from collections.abc import Collection, Mapping

from infrastructure.embedded.directory import DataDirectory
from infrastructure.embedded.model import model
from infrastructure.embedded.mongod import mongod
from infrastructure.embedded.postgres import postgres
from infrastructure.embedded.service import Service
from infrastructure.embedded.valkey import valkey

SERVERS = {"POSTGRES_URL": postgres, "MONGODB_URL": mongod, "REDIS_URL": valkey, "OPENAI_BASE_URL": model}
STORES = frozenset({"POSTGRES_URL", "MONGODB_URL", "REDIS_URL"})
MODEL = frozenset({"OPENAI_BASE_URL"})


def choose(
    directory: DataDirectory, environment: Mapping[str, str], variables: Collection[str]
) -> tuple[list[Service], dict[str, str]]:
    """The services to start, and the URLs by variable."""
    services: list[Service] = []
    urls: dict[str, str] = {}
    for variable, server in SERVERS.items():
        if environment.get(variable):
            urls[variable] = environment[variable]
        elif variable in variables:
            service, urls[variable] = server(directory)
            services.append(service)
    return services, urls
