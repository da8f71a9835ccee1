"""The deployment's files agree with the code and with each other."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from infrastructure.embedded.directory import free_port
from infrastructure.embedded.valkey import MAX_MEMORY, server_program
from infrastructure.observability.metrics import Metrics
from infrastructure.settings import Settings
from tests.infrastructure.metric_names import LABELS
from tests.servers import wait_until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "infrastructure" / "deploy"
OURS = ("command-api", "query-api", "projector")
PROMTOOL = shutil.which("promtool")
OBSERVABILITY = {"prometheus", "grafana", "filebeat", "elasticsearch", "kibana"}


class _StrictLoader(yaml.SafeLoader):
    """A duplicate key is an error, as in Docker Compose."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert sorted(names) == sorted(set(names)), f"a key occurs more than once: {names}"
        return super().construct_mapping(node, deep)


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), _StrictLoader)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = load(ROOT / "docker-compose.yml")
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    by_name: dict[str, Any] = compose["services"]
    return by_name


def exposed_names() -> set[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    return {metric.name + suffix for metric in Metrics().registry.collect() for suffix in suffixes.get(metric.type, [])}


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:conversation_store|process|python)_\w+", expression))


def test_the_compose_file_has_our_services_the_stores_and_observability(services: dict[str, Any]) -> None:
    assert set(services) == {*OURS, "gateway", "postgres", "mongo", "redis", *OBSERVABILITY}
    assert {name for name, service in services.items() if service.get("profiles") == ["observability"]} == OBSERVABILITY


def test_every_image_is_pinned_to_a_version(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.search(r":v?\d+(\.\d+)*(-alpine)?$", service["image"]), name
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert all(re.search(r":\d+\.\d+-slim$", base) for base in bases)


def test_only_gateway_grafana_and_kibana_publish_ports(
    services: dict[str, Any],
) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) - OBSERVABILITY == {"gateway"}
    assert set(published) & OBSERVABILITY == {"grafana", "kibana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_only_our_processes_share_the_internal_network_of_the_stores(compose: dict[str, Any]) -> None:
    assert compose["networks"]["stores"] == {"internal": True}
    attached = {name for name, service in compose["services"].items() if "stores" in service["networks"]}
    assert attached == {*OURS, "postgres", "mongo", "redis"}


def test_our_processes_run_their_main_modules_with_restart_and_health_check(
    services: dict[str, Any],
) -> None:
    mains = {name: services[name]["command"][-1] for name in OURS}
    assert mains == {"command-api": "commands.main", "query-api": "queries.main", "projector": "projections.main"}
    for name in OURS:
        service = services[name]
        assert (service["restart"], service["stop_grace_period"]) == ("unless-stopped", "30s")
        assert "/health/ready" in service["healthcheck"]["test"][-1]
        assert {on["condition"] for on in service["depends_on"].values()} == {"service_healthy"}


def test_our_containers_are_read_only_without_capabilities_and_with_a_process_limit(
    services: dict[str, Any],
) -> None:
    for name in (*OURS, "gateway"):
        service = services[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"}
        writable = [mount for mount in service.get("volumes", ()) if not mount.endswith(":ro")]
        assert writable == (["uploads:/tmp"] if name == "command-api" else []), name
        assert service["pids_limit"] == 512, name
    assert services["gateway"]["user"] == "101:101"  # our own services run as the user of their image


def test_no_container_can_gain_rights_or_take_all_memory(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert re.fullmatch(r"\d+m", service["mem_limit"]), name
    (cache,) = re.findall(
        r"(\d+)mb", services["redis"]["command"][services["redis"]["command"].index("--maxmemory") + 1]
    )
    assert int(services["redis"]["mem_limit"][:-1]) >= 1.5 * int(cache)


def test_every_environment_variable_of_our_processes_is_a_setting(services: dict[str, Any]) -> None:
    for name in OURS:
        unknown = set(services[name]["environment"]) - {f.upper() for f in Settings.model_fields}
        assert not unknown, name


def test_the_settings_of_each_process_are_valid(services: dict[str, Any]) -> None:
    for name in OURS:
        environment = {key: value for key, value in services[name]["environment"].items() if value is not None}
        fields = {
            key.lower(): re.sub(r"\$\{\w+(?::-([^}]*)|[^}]*)\}", lambda match: match[1] or "secret", value)
            for key, value in environment.items()
        }
        fields["log_level"] = "INFO"
        settings = Settings.model_validate(fields)
        assert (settings.host, settings.mongodb_database) == ("0.0.0.0", "conversations")
    assert [services[name]["environment"].get("PORT") for name in OURS] == ["8001", "8002", None]


def test_no_password_has_a_default_and_the_example_names_every_variable() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text()
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert {name for name in used if not re.search(rf"^#?{name}=", example, re.MULTILINE)} == set()
    for name in used:
        if name.endswith("_PASSWORD"):
            assert not re.search(rf"\$\{{{name}(?!:\?)", text), name
            assert re.search(rf"^{name}=$", example, re.MULTILINE), name


def test_postgres_is_durable(services: dict[str, Any]) -> None:
    command = services["postgres"]["command"]
    assert {"fsync=on", "full_page_writes=on", "synchronous_commit=on"} <= set(command)


def test_redis_has_the_memory_limit_and_eviction_policy_of_the_embedded_valkey(services: dict[str, Any]) -> None:
    command = services["redis"]["command"]
    assert command[command.index("--maxmemory") + 1] == MAX_MEMORY
    assert command[command.index("--maxmemory-policy") + 1] == "allkeys-lru"


def test_no_password_is_on_a_command_line(services: dict[str, Any]) -> None:
    for name, service in services.items():
        parts = (service.get("command"), service.get("entrypoint"), service.get("healthcheck", {}).get("test"))
        line = json.dumps([part for part in parts if part])
        assert not re.search(r"(?<!\$)\$\{?\w*(PASSWORD|SECRET|KEY|AUTH|URL)", line), name
        assert not re.search(r"(?:-p|-a|--pass\w*|--requirepass|-u)[ =]\\?[\"']?\$", line), name


def test_redis_reads_its_password_from_standard_input(services: dict[str, Any], tmp_path: Path) -> None:
    """Runs the entry point of the compose file with the tests' Valkey."""
    redis = services["redis"]
    port = free_port()
    stub = tmp_path / "docker-entrypoint.sh"
    stub.write_text(f'#!/bin/sh\nshift\nexec "{server_program()}" "$@" --port {port} --bind 127.0.0.1\n')
    stub.chmod(0o700)
    [*shell, script, name] = [part.replace("$$", "$") for part in redis["entrypoint"]]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VALKEYCLI_AUTH": "hunter2"}
    command = [*shell, script, name, *redis["command"]]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        try:
            with Redis(port=port, password="hunter2") as client:
                wait_until(lambda: _answers(client), 10, "Valkey")
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
            with Redis(port=port) as stranger, pytest.raises(AuthenticationError):
                stranger.ping()
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert b"valkey-server" in line
            assert b"hunter2" not in line
        finally:
            process.terminate()


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def test_mongo_is_a_replica_set_with_a_journal_and_a_volume(services: dict[str, Any]) -> None:
    mongo = services["mongo"]
    assert mongo["command"][:3] == ["mongod", "--replSet", "rs0"]
    assert not [argument for argument in mongo["command"] if "ournal" in argument]
    assert "mongo:/data/db" in mongo["volumes"]


def test_every_file_that_is_mounted_exists(services: dict[str, Any]) -> None:
    mounts = [mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])]
    ours = [mount for mount in mounts if mount.startswith("./")]
    assert len(ours) >= 7
    assert [mount for mount in ours if not (ROOT / mount).exists()] == []


def test_every_named_volume_and_network_is_declared(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service["networks"]) <= set(compose["networks"])
        named = {mount.split(":")[0] for mount in service.get("volumes", []) if not mount.startswith((".", "/"))}
        assert named <= set(compose["volumes"])


def test_the_image_and_its_build_context_have_every_package() -> None:
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(copied) == [
        "commands",
        "context",
        "domain",
        "infrastructure",
        "projections",
        "queries",
        "replies",
        "scripts",
    ]
    assert sorted(allowed) == sorted([*copied, "pyproject.toml", "requirements.lock"])


def test_the_image_is_built_with_hashes_and_does_not_run_as_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert text.count("--require-hashes") == 2
    assert "--constraint requirements.lock" in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]


def test_prometheus_scrapes_the_metrics_port_of_each_process(services: dict[str, Any]) -> None:
    jobs = load(DEPLOY / "prometheus.yml")["scrape_configs"]
    scraped = {job["job_name"]: job["dns_sd_configs"][0] for job in jobs}
    assert {name: target["names"] for name, target in scraped.items()} == {name: [name] for name in OURS}
    for name, target in scraped.items():
        environment = services[name]["environment"]
        assert (target["port"], environment["METRICS_HOST"]) == (int(environment["METRICS_PORT"]), "0.0.0.0")
        assert set(services[name]["networks"]) & set(services["prometheus"]["networks"])


def test_the_dashboard_and_alerts_use_each_of_our_metrics() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "conversation-store.json").read_text())
    rules = [rule for group in load(DEPLOY / "alerts.yml")["groups"] for rule in group["rules"]]
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])] + [
        r["expr"] for r in rules
    ]
    used = set().union(*map(names_in, expressions))
    assert used - exposed_names() == set()
    own = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used if name.startswith("conversation_store_")}
    metrics = {metric.name for metric in Metrics().registry.collect() if metric.name.startswith("conversation_store_")}
    assert own == metrics


def test_the_dashboard_uses_only_labels_of_the_metrics() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "conversation-store.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(",")}
            assert grouped <= LABELS | {"le"}, panel["title"]
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= LABELS | {"job", "instance"}


def test_the_panels_use_the_provisioned_datasource_and_do_not_overlap() -> None:
    datasource = load(DEPLOY / "grafana" / "datasources.yml")["datasources"][0]
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "conversation-store.json").read_text())
    assert datasource["url"] == "http://prometheus:9090"
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == datasource["uid"]
        at = panel["gridPos"]
        panel_cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not panel_cells & cells, panel["title"]
        cells |= panel_cells
    assert max(x for x, _ in cells) == 23


def test_filebeat_ships_the_json_lines_of_our_services(services: dict[str, Any]) -> None:
    config = load(DEPLOY / "filebeat.yml")
    (source,) = config["filebeat.inputs"]
    assert source["parsers"][1]["ndjson"]["target"] == ""
    kept = [condition["equals"]["service.name"] for condition in source["processors"][0]["drop_event"]["when.not.or"]]
    assert set(kept) == {*OURS, "gateway"}
    assert config["output.elasticsearch"]["hosts"] == ["http://elasticsearch:9200"]
    versions = {services[name]["image"].split(":")[1] for name in ("filebeat", "elasticsearch", "kibana")}
    assert len(versions) == 1


@pytest.mark.skipif(
    PROMTOOL is None, reason="no promtool on PATH (.ci/run takes it from a Debian package, if apt can download that)"
)
def test_promtool_accepts_the_configuration_and_the_tests_of_alerts() -> None:
    assert PROMTOOL is not None
    alerts = Path(__file__).parent / "alerts_test.yml"
    checks = ["check", "config", "--syntax-only", str(DEPLOY / "prometheus.yml")], ["test", "rules", str(alerts)]
    for arguments in checks:
        ran = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
