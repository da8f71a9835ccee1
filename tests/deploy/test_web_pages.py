"""Each app alone and both gateways allow web pages the same requests."""

from pathlib import Path

import httpx
import pytest

from infrastructure.settings import Settings
from tests.deploy.test_methods import client_of

SERVERS = ("commands", "queries", "gateway", "nginx")
CHAT = "https://chat.example.com"
SETTINGS = Settings(cors_origins=frozenset({CHAT}), allowed_hosts=frozenset({"store.example.com"}))
PATHS = ("/v1/nothing", "/docs/favicon.png", "/docs")
"""An app answers these paths without databases."""


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


@pytest.mark.parametrize("server", SERVERS)
async def test_foreign_hosts_and_origins_are_refused_and_own_ones_are_not(server: str, tmp_path: Path) -> None:
    async with client_of(server, tmp_path, SETTINGS) as client:
        for path in PATHS:
            for method in ("POST",) if server == "commands" else ("GET", "POST"):
                refused = await client.request(method, path, headers={"Host": "evil.example"})
                assert (refused.status_code, code(refused)) == (403, "host_not_allowed"), path
                refused = await client.request(method, path, headers={"Origin": "http://evil.example"})
                assert (refused.status_code, code(refused)) == (403, "origin_not_allowed"), path
                refused = await client.request(method, path, headers={"Sec-Fetch-Site": "same-site"})
                assert (refused.status_code, code(refused)) == (403, "origin_not_allowed"), path
                own = {"Host": "store.example.com", "Origin": "https://store.example.com"}
                assert (await client.request(method, path, headers=own)).status_code in (200, 404, 405), path


@pytest.mark.parametrize("server", SERVERS)
async def test_answers_for_a_listed_origin_have_each_header_once(server: str, tmp_path: Path) -> None:
    async with client_of(server, tmp_path, SETTINGS) as client:
        preflight = {"Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
        for path in PATHS:
            for method, headers in (("OPTIONS", preflight), ("POST", {})):
                answer = await client.request(method, path, headers={"Origin": CHAT, **headers})
                assert answer.headers.get_list("access-control-allow-origin") == [CHAT]
                assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
                assert len(answer.headers.get_list("x-request-id")) == 1
                if method == "OPTIONS":
                    assert answer.status_code == 204
                    assert answer.headers["access-control-allow-headers"] == "authorization"


async def test_answers_of_nginx_itself_have_nosniff(tmp_path: Path) -> None:
    async with client_of("nginx", tmp_path) as client:
        for path in ("/openapi.json", "/health/live", "/metrics"):
            assert (await client.get(path)).headers.get_list("x-content-type-options") == ["nosniff"], path
