"""App-keys over REST: agents may not read, make or remove each other's keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from fastapi import APIRouter

from golemp2p.api.app import make_app
from golemp2p.api.auth import AppKey, AppKeys
from golemp2p.api.node import CLI_KEY_NAME, NodeContext, _key_routes
from golemp2p.identity import NodeKey
from golemp2p.storage import open_storage

AT = "/golemp2p/v1/app-keys"
CLI = {"authorization": "Bearer secret-cli"}
AGENT = {"authorization": "Bearer secret-agent"}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    keys = AppKeys([AppKey(CLI_KEY_NAME, "secret-cli"), AppKey("agent", "secret-agent")])
    signer = NodeKey.generate()
    async with open_storage(None) as storage:
        router = APIRouter()
        _key_routes(router, cast(NodeContext, SimpleNamespace(keys=keys, storage=storage, signer=signer)))
        app = make_app([router], keys=keys, address=signer.address)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as client:
            yield client


async def test_secrets_are_shown_to_the_nodes_own_commands_only(http: httpx.AsyncClient) -> None:
    assert [k["key"] for k in (await http.get(AT, headers=CLI)).json()] == ["secret-cli", "secret-agent"]
    seen = await http.get(AT, headers=AGENT)
    assert [k["name"] for k in seen.json()] == [CLI_KEY_NAME, "agent"]
    assert "secret" not in seen.text


async def test_an_agent_neither_makes_nor_removes_keys(http: httpx.AsyncClient) -> None:
    made = await http.post(AT, json={"name": "mine"}, headers=AGENT)
    gone = await http.delete(f"{AT}/cli", headers=AGENT)
    assert (made.status_code, gone.status_code) == (403, 403)
    assert len((await http.get(AT, headers=CLI)).json()) == 2


async def test_the_commands_make_and_remove_keys(http: httpx.AsyncClient) -> None:
    made = (await http.post(AT, json={"name": "my app"}, headers=CLI)).json()
    assert (await http.get(AT, headers={"authorization": f"Bearer {made['key']}"})).status_code == 200
    again = await http.post(AT, json={"name": "my app"}, headers=CLI)
    assert "golemp2p app-key drop my app" in again.text
    assert (await http.delete(f"{AT}/my app", headers=CLI)).status_code == 204
    assert (await http.get(AT, headers={"authorization": f"Bearer {made['key']}"})).status_code == 401


@pytest.mark.parametrize("name", ["a/b", "/", ".."])
async def test_a_name_that_could_never_be_removed_is_refused(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.post(AT, json={"name": name}, headers=CLI)).status_code == 400
