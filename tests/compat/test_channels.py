"""Unmodified yapapi and golem-js on a network whose requestor pays through channels: they notice nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.compat.clients import JsClient, PythonClient
from tests.compat.conftest import open_compat_net
from tests.compat.support import agent_env, javascript, python, run
from tests.e2e.net import Net, NodeProcess, check_journal, wait_until
from tests.engine import Engine


@pytest.fixture(scope="module")
def channel_net(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with open_compat_net(docker_engine, tmp_path_factory, "channels", providers=1, payment_mode="channel") as found:
        yield found


def told(node: NodeProcess, path: str) -> list[dict[str, str]]:
    """What the node's REST API lists."""
    url, headers = f"{node.facts['rest_url']}{path}", {"Authorization": f"Bearer {node.app_key}"}
    found: list[dict[str, str]] = httpx.get(url, headers=headers, trust_env=False).raise_for_status().json()
    return found


def test_every_invoice_of_both_clients_settles_by_vouchers(
    channel_net: Net, yapapi: PythonClient, golem_js: JsClient, tmp_path: Path
) -> None:
    net = channel_net
    run(python(yapapi, "yapapi_tasks.py", "2", "1", "0.1"), agent_env(net), tmp_path / "py")
    run(javascript(golem_js, "stream.ts"), agent_env(net), tmp_path / "js")
    for node in (net.requestor, *net.providers):

        def all_settled(node: NodeProcess = node) -> bool:
            return {i["status"] for i in told(node, "/payment-api/v1/invoices")} == {"SETTLED"}

        wait_until(all_settled, what=f"all invoices of {node.name} to be settled", timeout_s=20)
    channels = told(net.requestor, "/golemp2p/v1/payment/channels")
    assert {c["payee"] for c in channels} == {p.address for p in net.providers}
    invoices = told(net.requestor, "/payment-api/v1/invoices")
    assert all(c["vouched"] == c["claimed"] != "0" for c in channels)
    assert len(invoices) >= 2
    direct = [line for line in net.transfers() if line[0] == net.requestor.address]
    assert {to for _, to, _ in direct} == {net.chain["channels"]}, "the account paid nobody but the channels"
    check_journal(net.requestor, tmp_path)
