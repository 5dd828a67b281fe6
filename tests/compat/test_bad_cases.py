"""What breaks under foreign clients: programs killed, nodes killed, wrong keys; and two programs on one node."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import trio

from tests.compat.clients import JsClient, PythonClient
from tests.compat.support import PROGRAM_TIMEOUT_S, agent_env, javascript, python, started
from tests.e2e.net import Net, NodeProcess, wait_until


async def _agreement(node: NodeProcess, agreement: str) -> str:
    """Its state, by a call that does not name it: that would be a sign of life of its program."""
    async with node.client() as client:
        return next(str(a["state"]) for a in await client.market.agreements() if a["id"] == agreement)


async def _live_activities(node: NodeProcess) -> list[str]:
    async with node.client() as client:
        return [a["agreementId"] for a in await client.node.activities(live=True)]


async def _invoice_statuses(node: NodeProcess, agreement: str) -> list[str]:
    async with node.client() as client:
        return [i.status for i in await client.payment.invoices() if i.agreement_id == agreement]


@pytest.mark.parametrize("stage", ["agreement ", "step 1"])
def test_a_killed_golem_js_program_leaves_no_agreement_no_activity_and_no_unpaid_bill(
    fragile_net: Net, golem_js: JsClient, stage: str, tmp_path: Path
) -> None:
    """The node ends what it left after the agreed silence, here shortened by a setting, and answers the invoice."""
    with started(javascript(golem_js, "long.ts"), agent_env(fragile_net), tmp_path) as program:
        program.wait_for(stage)
        (agreement,) = re.findall(r"^agreement (\w+)$", program.output, re.M)
        program.kill()
    requestor = fragile_net.requestor
    wait_until(lambda: trio.run(_agreement, requestor, agreement) == "Terminated", what="the agreement to end")
    for node in (requestor, *fragile_net.providers):
        wait_until(lambda node=node: agreement not in trio.run(_live_activities, node), what=f"its end on {node.name}")
    wait_until(
        lambda: trio.run(_invoice_statuses, requestor, agreement) in (["ACCEPTED"], ["SETTLED"]),
        what="the invoice to be accepted by the node",
    )


def test_a_program_killed_while_it_negotiates_leaves_no_agreement(
    fragile_net: Net, yapapi: PythonClient, tmp_path: Path
) -> None:
    """Its demand goes after DEMAND_SILENCE_S, too long to wait for here: tests/unit/test_abandoned.py."""
    with started(python(yapapi, "yapapi_tasks.py", "2", "1", "5"), agent_env(fragile_net), tmp_path) as program:
        wait_until(lambda: trio.run(_has_demand, fragile_net.requestor), what="its demand")
        program.kill()

    async def open_agreements() -> list[str]:
        async with fragile_net.requestor.client() as client:
            return [str(a["id"]) for a in await client.market.agreements() if a["state"] in ("Pending", "Approved")]

    wait_until(lambda: not trio.run(open_agreements), what="agreements to end")


async def _has_demand(node: NodeProcess) -> bool:
    async with node.client() as client:
        return (await client.node.status()).own_demands > 0


def test_yapapi_takes_a_task_elsewhere_when_its_provider_dies(
    fragile_net: Net, yapapi: PythonClient, tmp_path: Path
) -> None:
    env = agent_env(fragile_net)
    with started(python(yapapi, "yapapi_tasks.py", "3", "1", "1.5", "8"), env, tmp_path) as program:
        program.wait_for("task 0 starts on ")
        (name,) = re.findall(r"task 0 starts on (\S+)", program.output)
        victim = next(provider for provider in fragile_net.providers if provider.name == name)
        victim.kill()
        try:
            said = program.wait(110)
        finally:
            victim.start()
    result = json.loads(said.splitlines()[-1])
    assert result["done"] == [0, 1, 2]
    assert set(result["providers"]) == {p.name for p in fragile_net.providers} - {name}


def test_a_golem_js_program_ends_in_order_when_its_node_restarts(
    fragile_net: Net, golem_js: JsClient, tmp_path: Path
) -> None:
    """What golem-js does of its own: it ends with an error or goes on. Nothing stays behind either way."""
    with started(javascript(golem_js, "long.ts"), agent_env(fragile_net), tmp_path) as program:
        program.wait_for("step 1")
        (agreement,) = re.findall(r"^agreement (\w+)$", program.output, re.M)
        fragile_net.requestor.kill()
        fragile_net.requestor.start()
        (tmp_path / "stop").touch()
        program.process.wait(PROGRAM_TIMEOUT_S)  # with whatever exit code, but by itself
        wait_until(
            lambda: trio.run(_agreement, fragile_net.requestor, agreement) == "Terminated", what="the agreement to end"
        )
    for node in (fragile_net.requestor, *fragile_net.providers):
        wait_until(
            lambda node=node: agreement not in trio.run(_live_activities, node),
            what=f"the activity on {node.name} to end",
        )


@pytest.mark.parametrize("client", ["yapapi", "golem-js"])
def test_a_wrong_app_key_is_said_clearly(
    net: Net, yapapi: PythonClient, golem_js: JsClient, client: str, tmp_path: Path
) -> None:
    command = python(yapapi, "yapapi_offers.py", "1") if client == "yapapi" else javascript(golem_js, "long.ts")
    with started(command, agent_env(net, YAGNA_APPKEY="not-a-key"), tmp_path) as program:
        assert program.process.wait(30) != 0
    assert "401" in program.output
    assert "this app-key is unknown" in program.output


def test_two_programs_on_one_node_do_not_see_each_others_agreements(
    net: Net, golem_js: JsClient, tmp_path: Path
) -> None:
    """golem-js gives each its own appSessionId. One ends while the other goes on."""
    env = agent_env(net)
    with (
        started(javascript(golem_js, "long.ts"), env, tmp_path / "one") as one,
        started(javascript(golem_js, "long.ts"), env, tmp_path / "two") as two,
    ):
        one.wait_for("step 1")
        two.wait_for("step 1")
        (tmp_path / "one" / "stop").touch()
        assert "finalized" in one.wait()
        steps = two.output.count("step ")
        wait_until(lambda: two.output.count("step ") > steps + 2, what="the other program to go on")
        (tmp_path / "two" / "stop").touch()
        assert "finalized" in two.wait()
        assert "failed" not in one.output + two.output
