"""The commands against a running network: exit codes and words (golemp2p/cli/common.py ExitCode)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from golemp2p.client import connect
from golemp2p.errors import GolemError, UsageError
from tests.e2e.agent import LIMIT, deal, deploy_and_run, negotiate, wait_for_state
from tests.e2e.net import GOLEMP2P, Net, environment, golemp2p, wait_until
from tests.integration.runtimes.wats import HELLO, TICK_LOOP

UNKNOWN = "00" * 32


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("agreement", "show", UNKNOWN), 3, "unknown"),
        (("agreement", "show", UNKNOWN, "--app-key", "wrong-key-wrong-key"), 2, "app-key"),
        (("status", "--app-key", "wrong-key-wrong-key"), 2, "app-key"),
        (("status", "--api-url", "http://127.0.0.1:9"), 4, "golemp2p run"),
        (("offers", "(golem.runtime.name=wasmtime"), 2, ""),
        (("offers", "(a~b)"), 2, ""),
        (("app-key", "drop", "nobody"), 3, "nobody"),
        (("agreement", "list", "--state", "Nonsense"), 2, "Nonsense"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_a_command_that_cannot_be_says_why_and_exits_as_documented(
    net: Net, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = net.requestor.command(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_commands_without_a_node_say_how_to_start_one(tmp_path: Path) -> None:
    done = golemp2p("status", "--data-dir", str(tmp_path / "nothing"))
    assert done.returncode == 4
    assert "golemp2p run" in done.stderr


def test_json_of_every_list_is_json(net: Net) -> None:
    for arguments in (["status"], ["peers"], ["offers"], ["agreement", "list"], ["app-key", "list"], ["id"], ["paths"]):
        done = net.requestor.command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)


async def test_a_wrong_app_key_is_refused_by_the_rest_api(net: Net) -> None:
    async with connect(str(net.requestor.facts["rest_url"]), "wrong-key-wrong-key") as client:
        with pytest.raises(UsageError, match="app-key"):
            await client.market.agreements()


async def test_a_budget_above_the_balance_is_refused_with_the_numbers(net: Net) -> None:
    async with net.requestor.client() as client:
        with pytest.raises(GolemError) as refused:
            await client.payment.create_allocation("1000000")
        assert "1000000" in str(refused.value)


async def test_a_budget_too_small_for_the_invoice_leaves_it_unpaid_until_a_larger_one_comes(net: Net) -> None:
    async with net.requestor.client() as client:
        made = await negotiate(client, HELLO, budget="0.0000001")  # a start alone costs 0.001
        await made.run(await made.activity(), deploy_and_run())
        await made.end()
        invoice = await made.invoice("RECEIVED")
        with pytest.raises(GolemError) as refused:
            await made.accept(invoice)
        assert "0.0000001" in str(refused.value)
        larger = await client.payment.create_allocation("1")
        await client.payment.accept(
            "invoice", invoice.invoice_id, amount=invoice.amount, allocation=larger.allocation_id
        )
        await made.invoice("SETTLED")


async def test_garbage_on_the_ports_of_both_nodes_does_not_touch_a_job(net: Net) -> None:
    """While a payload runs: random bytes, half a handshake, a huge header, a cut request."""
    async with net.requestor.client() as client:
        async with deal(client, TICK_LOOP, demand={LIMIT + "wall_sec": 3.0}) as made:
            provider = next(p for p in net.providers if p.address == made.provider)
            activity = await made.activity()
            batch = await client.activity.execute(activity, deploy_and_run())
            for node in (net.requestor, provider):
                port = int(str(node.facts["addresses"][0]).split("/")[4])
                rest_port = int(str(node.facts["rest_url"]).rpartition(":")[2])
                for garbage in (
                    b"",
                    b"\0" * 70_000,
                    b"\x13/multistream/1.0.0\n",
                    b"GET / HTTP/1.1\r\n",
                    bytes(range(256)) * 400,
                ):
                    await trio.to_thread.run_sync(throw, port, garbage)
                for garbage in (
                    b"\xff" * 100_000,
                    b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000,
                    b"PRI * HTTP/2.0\r\n\r\n",
                ):
                    await trio.to_thread.run_sync(throw, rest_port, garbage)
            assert (await client.activity.state(activity))["state"][0] not in ("Unresponsive", "Terminated")
            results = await made.results(activity, batch)
            assert results[-1]["stdout"] == "tick\n"
            assert "code 124" in results[-1]["message"]
        for node in (net.requestor, provider):
            async with node.client() as other:
                assert (await other.node.status()).peers >= 1


def throw(port: int, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            connection.sendall(garbage)
            connection.settimeout(0.05)
            connection.recv(1000)
        except OSError:
            pass  # it may cut us off


async def test_a_destroyed_activity_and_an_unknown_one_say_so(net: Net) -> None:
    async with net.requestor.client() as client, deal(client, HELLO) as made:
        activity = await made.activity()
        await client.activity.destroy(activity, timeout_s=10.0)
        await wait_for_state(client, activity, "Terminated")
        with pytest.raises(GolemError):
            await client.activity.execute(activity, deploy_and_run())
        with pytest.raises(GolemError):
            await client.activity.execute(UNKNOWN[:32], deploy_and_run())


async def test_a_saved_agreement_is_checked_without_a_node(net: Net, tmp_path: Path) -> None:
    saved = tmp_path / "contract.json"
    async with net.requestor.client() as client, deal(client, HELLO) as made:
        shown = net.requestor.command("agreement", "show", made.agreement, "--verify", "--save", str(saved))
    assert shown.returncode == 0, shown.stderr
    nowhere = str(tmp_path / "nothing")
    assert golemp2p("agreement", "verify", str(saved), GOLEMP2P_DATA_DIR=nowhere).returncode == 0
    saved.write_text(saved.read_text().replace("golem.inf.mem.gib", "golem.inf.mem.gig", 1))
    changed = golemp2p("agreement", "verify", str(saved), GOLEMP2P_DATA_DIR=nowhere)
    assert changed.returncode == 1
    assert "NOT" in changed.stdout
    assert "Traceback" not in changed.stderr
    assert golemp2p("agreement", "verify", str(tmp_path / "absent")).returncode == 3


def test_a_second_node_on_one_data_directory_is_refused(net: Net) -> None:
    done = golemp2p("run", "--data-dir", str(net.requestor.data_dir), "--rest", "127.0.0.1:0")
    assert done.returncode == 5
    assert "another node is running" in done.stderr
    assert net.requestor.command("status").returncode == 0


def test_a_provider_that_could_not_be_paid_is_refused_with_the_setting(tmp_path: Path) -> None:
    node = str(tmp_path / "node")
    assert golemp2p("init", "--data-dir", node, "--light-kdf", "--auto-unlock").returncode == 0
    done = golemp2p("run", "--data-dir", node, "--provider", "--rest", "127.0.0.1:0")
    assert done.returncode == 5
    assert "golemp2p payment init --network" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_password_is_said_plainly(tmp_path: Path) -> None:
    node = str(tmp_path / "node")
    assert golemp2p("init", "--data-dir", node, "--light-kdf", GOLEMP2P_PASSWORD="right-one").returncode == 0
    for command in ("run", "id"):
        done = golemp2p(command, "--data-dir", node, GOLEMP2P_PASSWORD="wrong-one")
        assert done.returncode == 2
        assert "wrong password" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_late_joiner_sees_all_live_offers_within_two_seconds_of_being_ready(net: Net, tmp_path: Path) -> None:
    node = tmp_path / "late"
    assert golemp2p("init", "--data-dir", str(node), "--light-kdf", GOLEMP2P_PASSWORD="password").returncode == 0
    # The network's own settings: signatures are valid for one network name and one chain.
    shutil.copy(net.providers[0].data_dir / "config.toml", node / "config.toml")
    command = [*GOLEMP2P, "run", "--data-dir", str(node), "--listen", "/ip4/127.0.0.1/tcp/0", "--rest", "127.0.0.1:0"]
    process = subprocess.Popen(
        command,
        env=environment(GOLEMP2P_PASSWORD="password"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until((node / "running.json").exists, what="the late node")
        ready = time.monotonic()

        async def offers() -> float:
            told = json.loads((node / "running.json").read_text())
            async with connect(told["rest_url"], (node / "app-key").read_text().strip()) as client:
                with trio.fail_after(10.0):
                    while len({o.provider_id for o in await client.node.offers()}) < len(net.providers):  # noqa: ASYNC110
                        await trio.sleep(0.01)
            return time.monotonic() - ready

        assert trio.run(offers) < 2.0
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"Traceback" not in errors


def test_help_is_quick_to_load() -> None:
    """No library that takes long is imported for --help (the time itself: scripts/bench/node.py)."""
    heavy = {"trio", "pydantic", "fastapi", "libp2p", "web3", "sqlalchemy", "wasmtime", "eth_account", "httpx"}
    code = f"import sys; import golemp2p.cli.main; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
