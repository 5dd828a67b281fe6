"""`golemp2p payment …` on a real node on anvil: the commands as a person calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from golemp2p.cli.payment import STATUS_CHAIN_S
from golemp2p.client import connect
from golemp2p.config import Settings
from golemp2p.errors import ConflictError
from golemp2p.identity import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.locations import Locations
from golemp2p.net.memory import MemoryHub, open_memory_network
from golemp2p.node import Node, open_node
from golemp2p.payment.contracts import DEPLOYER, deterministic_address
from tests.faultproxy import FaultProxy, fault_proxy, silent

GLM = 10**18
YOU = "0x" + "99" * 20


@dataclass
class Bench:
    chain: LocalChain
    proxy: FaultProxy
    node: Node
    where: Locations

    async def run(self, *arguments: str, fails: int = 0) -> subprocess.CompletedProcess[str]:
        """A command in a process of its own."""
        command = [sys.executable, "-m", "golemp2p.cli.main", "payment", *arguments, "--data-dir", str(self.where.data)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("GOLEMP2P_", "YAGNA_"))}

        def call() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

        done = await trio.to_thread.run_sync(call)
        assert done.returncode == fails, done.stderr + done.stdout
        return done

    async def json(self, *arguments: str) -> Any:
        return json.loads((await self.run(*arguments, "--json")).stdout)


def entry(chain: LocalChain, url: str, **more: object) -> dict[str, object]:
    return {
        "name": "local",
        "chain_id": chain.chain_id,
        "token": chain.token_address,
        "batch": chain.batch,
        "rpc_urls": [url],
        "explorer": "https://explorer.example/tx/",
        **more,
    }


@asynccontextmanager
async def open_bench(directory: Path, others: Sequence[dict[str, object]] = ()) -> AsyncIterator[Bench]:
    """A node with one account on anvil, behind a proxy; ``others``: further networks."""
    where, key = Locations(directory / "data", directory / "cache"), NodeKey.generate()
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(open_local_chain(prefer="anvil"))
        proxy = await stack.enter_async_context(fault_proxy(chain.rpc_url))
        await chain.faucet(key.address, tglm=5 * GLM, eth_wei=GLM)  # type: ignore[arg-type] # Amount
        networks = [entry(chain, proxy.url), *others]
        settings = Settings.model_validate({"rest": {"listen": "127.0.0.1:0"}, "payment": {"networks": networks}})
        network = await stack.enter_async_context(open_memory_network(MemoryHub(), key))
        node = await stack.enter_async_context(open_node(settings, where, key, network=network))
        yield Bench(chain, proxy, node, where)


async def test_the_owner_sees_what_would_be_sent_sends_it_once_and_finds_it_again(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        send = ("send", "--to", YOU, "--amount", "1.5", "--key", "rent-2026-11")
        [planned] = await bench.json(*send, "--dry-run")
        assert (planned["nonce"], planned["to"], planned["amount"]) == (0, bench.chain.token_address, "1.5")
        assert planned["call"] == f"send 1.5 tglm to {YOU}"
        assert planned["data"].startswith("0xa9059cbb")
        assert 0 < planned["gas"] <= 120_000
        assert float(planned["maxCost"]) > 0
        assert bench.proxy.calls["eth_sendRawTransaction"] == 0
        sent = await bench.json(*send)
        assert sent["state"] == "final"
        assert sent["explorer"] == "https://explorer.example/tx/" + sent["transaction"]
        async with connect(bench.node.rest_url, bench.node.app_key) as client:
            again = await client.wallet.send(YOU, "1.5", key="rent-2026-11")
            assert again.transaction == sent["transaction"], "the same request is the same payment"
            with pytest.raises(ConflictError, match="was used for something else"):
                await client.wallet.send(YOU, "2", key="rent-2026-11")
            [moved] = await client.wallet.history()
            assert (moved.direction, moved.amount, moved.other, moved.state) == ("out", "1.5", YOU, "final")
            assert float(moved.fee or "0") > 0
            [balance] = await client.payment.balances()
            assert balance.amount == "3.5"
        shown = (await bench.run("history")).stdout
        assert "1.5" in shown
        assert bench.proxy.calls["eth_sendRawTransaction"] == 1


async def test_test_tokens_are_minted_and_what_cannot_be_sent_is_refused_at_once(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        minted = await bench.json("fund", "--network", "local", "--amount", "7")
        assert minted["state"] == "final"
        [status] = await bench.json("status")
        assert (status["amount"], status["owed"], status["inFlight"]) == ("12", "0", 0)
        assert [e["healthy"] for e in status["endpoints"]] == [True]

        poor = await bench.run("send", "--to", YOU, "--amount", "1000", fails=5)
        assert "lacks tglm" in poor.stderr
        assert "nothing was ordered" in poor.stderr
        assert "not more than zero" in (await bench.run("fund", "--amount", "0", fails=2)).stderr
        assert "no payment network amyo" in (await bench.run("status", "--network", "amyo", fails=2)).stderr
        lost = await bench.run("send", "--to", bench.chain.token_address, "--amount", "1", fails=2)
        assert "is lost" in lost.stderr
        assert bench.proxy.calls["eth_sendRawTransaction"] == 1

        # An agent's key pays bills within budgets; it cannot send money by its own word.
        async with httpx.AsyncClient(base_url=bench.node.rest_url, trust_env=False) as http:
            owner = {"Authorization": f"Bearer {bench.node.app_key}"}
            made = await http.post("/golemp2p/v1/app-keys", json={"name": "agent", "origins": []}, headers=owner)
            agent = {"Authorization": f"Bearer {made.json()['key']}"}
            body = {"key": "steal-it-all", "to": YOU, "amount": "1"}
            answer = await http.post("/golemp2p/v1/payment/transactions", json=body, headers=agent)
        assert answer.status_code == 403
        assert "may not send money" in answer.json()["message"]


async def test_status_answers_at_once_beside_a_dead_chain_and_says_which_one(tmp_path: Path) -> None:
    """Golem's `payment status` hung because of a testnet that nobody used (yagna #3112, #3263, #3066)."""
    async with AsyncExitStack() as stack:
        elsewhere = await stack.enter_async_context(fault_proxy("http://127.0.0.1:9"))
        elsewhere.fault = silent()
        dead = {"name": "dead", "chain_id": 5, "token": YOU, "rpc_url": elsewhere.url}
        bench = await stack.enter_async_context(open_bench(tmp_path, [dead]))
        await bench.json("balance", "--network", "local")
        async with connect(bench.node.rest_url, bench.node.app_key) as client:
            started = time.monotonic()
            await client.wallet.status()
            assert time.monotonic() - started < 1, "no chain is asked"
            started = time.monotonic()
            await client.payment.balances(timeout_s=STATUS_CHAIN_S)
            assert time.monotonic() - started < STATUS_CHAIN_S + 0.8
        shown = await bench.json("status")
        by_name = {status["platform"]: status for status in shown}
        assert by_name["erc20-local-tglm"]["amount"] == "5"
        assert "problem" not in by_name["erc20-local-tglm"]
        assert "no answer in time" in by_name["erc20-dead-glm"]["problem"]


async def test_a_wrong_token_address_is_refused_before_any_money_moves(tmp_path: Path) -> None:
    async with open_local_chain(prefer="anvil") as chain:
        wrong = entry(chain, chain.rpc_url, name="wrong", token=chain.batch)
        async with open_bench(tmp_path, [wrong]) as bench:
            refused = await bench.run("send", "--to", YOU, "--amount", "1", "--network", "wrong", fails=5)
            assert "payment network wrong (chain 31337)" in refused.stderr
            assert "no decimals(): it is no ERC-20 token" in refused.stderr
            shown = await bench.run("networks")
            assert chain.batch in shown.stdout
            assert "127.0.0.1" in shown.stdout


async def test_contracts_are_deployed_where_anybody_would_put_them_and_named_in_the_settings(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        token = bench.chain.token_address
        written = "# mine\n[[payment.networks]]\nname = 'local'\nrpc_urls = ['http://127.0.0.1:1']\n"
        bench.where.config.write_text(f"version = 1\n{written}token = '{token}'\n")
        [planned] = await bench.json("deploy", "--dry-run")  # the batch payer of the chain is in the settings already
        assert planned["to"] == DEPLOYER
        assert bench.proxy.calls["eth_sendRawTransaction"] == 0
        made = await bench.json("deploy")
        batch, channels = made["contracts"]
        assert (batch["contract"], batch["deployed"], batch["configured"]) == ("batch", True, True)
        assert channels["address"] == deterministic_address("VoucherChannels", token)
        assert (channels["deployed"], made["added"]) == (True, True)
        settings = bench.where.config.read_text()
        assert settings.startswith("version = 1\n# mine\n")
        assert tomllib.loads(settings)["payment"]["networks"][0]["channels"] == channels["address"]
        async with connect(bench.node.rest_url, bench.node.app_key) as client:
            with pytest.raises(ConflictError, match="already"):
                await client.wallet.deploy("channels", key="once-more")
