"""Payloads that misbehave cost their activity and nothing else; all that was sold ends settled."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import trio

from golemp2p.core.money import parse_amount
from tests.e2e.agent import LIMIT, Command, deal, deploy_and_run
from tests.e2e.net import Net
from tests.integration.runtimes.wats import BOMB, ECHO, EXIT_3, HELLO, LOOP, TRAP

SCRATCH = "0123456789abcdef" * 4


async def run_badly(net: Net, program: bytes, commands: list[Command], demand: dict[str, Any] | None = None) -> str:
    """The message of the command that failed. Afterwards the same provider serves the next job."""
    async with net.requestor.client() as client:
        async with deal(client, program, demand=demand) as bad:
            results = await bad.run(await bad.activity(), commands)
            assert results[-1]["result"] == "Error", results
            async with deal(client, HELLO, provider=bad.provider) as good:
                answer = await good.run(await good.activity(), deploy_and_run())
                assert answer[-1]["stdout"] == "hello\n"
        return str(results[-1]["message"])


async def test_exit_code_of_the_program_is_in_the_message(net: Net) -> None:
    assert await run_badly(net, EXIT_3, deploy_and_run()) == "ExeScript command exited with code 3"


async def test_a_trap_is_named(net: Net) -> None:
    message = await run_badly(net, TRAP, deploy_and_run())
    assert "code 134" in message
    assert "unreachable" in message


@pytest.mark.parametrize(
    ("limit", "value", "code", "words"),
    [("wall_sec", 1.0, 124, "1 s"), ("cpu_sec", 1.0, 152, "CPU seconds"), ("fuel", 10**8, 152, "fuel")],
)
async def test_an_endless_loop_is_stopped_by_the_agreed_limit(
    net: Net, limit: str, value: float, code: int, words: str
) -> None:
    message = await run_badly(net, LOOP, deploy_and_run(), {LIMIT + limit: value})
    assert f"code {code}" in message
    assert words in message


async def test_a_memory_bomb_is_told_its_limit(net: Net) -> None:
    message = await run_badly(net, BOMB, deploy_and_run())
    assert "code 137" in message
    assert "128 MiB" in message


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("container:/golem/work/nothing", "gftp://{me}/slot", "nothing"),
        ("gftp://{me}/" + SCRATCH, "container:/golem/work/in", SCRATCH[:16]),
        ("container:/golem/work/../../../../etc/passwd", "gftp://{me}/slot", ".."),
        ("gftp://{me}/{hello}", "container:/golem/work/../../in", ".."),
        ("container:/etc/passwd", "gftp://{me}/slot", "/etc/passwd"),
        ("gftp://0x" + "12" * 20 + "/" + SCRATCH, "container:/golem/work/in", "not the requestor"),
        ("file:///etc/passwd", "container:/golem/work/in", "not supported"),
    ],
)
async def test_a_transfer_that_cannot_be_says_why(net: Net, source: str, target: str, words: str) -> None:
    there = {"me": net.requestor.address, "hello": hashlib.sha3_256(HELLO).hexdigest()}
    transfer = {"transfer": {"from": source.format(**there), "to": target.format(**there)}}
    message = await run_badly(net, HELLO, [{"deploy": {}}, {"start": {}}, transfer])
    assert words in message


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("hash:sha3:" + SCRATCH + ":gftp://{me}/" + SCRATCH, SCRATCH[:16]),
        ("hash:sha3:abc:gftp://{me}/x", "3 digits"),
        ("hash:sha3:" + SCRATCH + ":http://127.0.0.1:1/x", "not allowed by this provider"),
    ],
)
async def test_a_module_that_nobody_has_is_named(net: Net, package: str, words: str) -> None:
    package = package.format(me=net.requestor.address)
    async with net.requestor.client() as client, deal(client, b"", package=package) as bad:
        results = await bad.run(await bad.activity(), [{"deploy": {}}])
        assert results[-1]["result"] == "Error"
        assert words in results[-1]["message"]


async def test_a_file_that_is_no_module_is_refused(net: Net) -> None:
    message = await run_badly(net, b"this is no wasm", [{"deploy": {}}])
    assert "WebAssembly" in message


async def test_arguments_reach_the_program_whatever_they_hold(net: Net) -> None:
    async with net.requestor.client() as client, deal(client, ECHO) as fine:
        results = await fine.run(await fine.activity(), deploy_and_run("a b", "", "ü\n'\"$HOME"))
        assert results[-1]["stdout"].split("\0")[1:4] == ["a b", "", "ü\n'\"$HOME"]


async def test_everything_sold_is_settled_and_the_chain_agrees(net: Net) -> None:
    """Runs last in this module: sum of the transfers on chain == sum of the invoices."""
    async with net.requestor.client() as client:
        mine = await client.payment.invoices()
    assert {i.status for i in mine} == {"SETTLED"}
    for provider in net.providers:
        async with provider.client() as client:
            with trio.fail_after(60):  # it looks at the chain by itself, after the requestor or before
                while True:
                    theirs = await client.payment.invoices()
                    if {i.status for i in theirs} <= {"SETTLED"}:
                        break
                    await trio.sleep(0.1)
            paid = sum(parse_amount(p.amount) for p in await client.payment.payments())
        billed = sum(parse_amount(i.amount) for i in theirs)
        assert net.balance(provider.address) == billed == paid
    assert sum(amount for _, _, amount in net.payments()) == sum(parse_amount(i.amount) for i in mine)
    assert {source for source, _, _ in net.transfers()} <= {net.requestor.address, net.chain["batch"]}
