"""SIGKILL at the worst moments: the other side learns it, nobody loses money, nothing is paid twice."""

from __future__ import annotations

import time
from pathlib import Path

import trio

from golemp2p.client import NodeClient
from golemp2p.core.money import parse_amount
from tests.e2e.agent import Deal, deal, deploy_and_run, negotiate, wait_for_state
from tests.e2e.net import Net, NodeProcess, check_journal
from tests.integration.runtimes.wats import HELLO, TICK_LOOP


async def job_done(client: NodeClient, provider: NodeProcess | None = None) -> Deal:
    """An approved agreement with one finished job and its activity destroyed; not ended, not paid."""
    made = await negotiate(client, HELLO, provider=None if provider is None else provider.address)
    activity = await made.activity()
    assert (await made.run(activity, deploy_and_run()))[-1]["stdout"] == "hello\n"
    await client.activity.destroy(activity, timeout_s=10.0)
    return made


async def settled_once(net: Net, provider: NodeProcess, agreement: str, balance_before: int) -> None:
    """On both sides and on chain."""
    async with provider.client() as client:
        with trio.fail_after(30.0):
            while True:
                mine = [i for i in await client.payment.invoices() if i.agreement_id == agreement]
                if mine and mine[0].status == "SETTLED":
                    break
                await trio.sleep(0.05)
        assert len(mine) == 1
        amount = parse_amount(mine[0].amount)
        assert amount > 0
        paid = [
            parse_amount(part.amount)
            for payment in await client.payment.payments()
            for part in payment.agreement_payments
            if part.agreement_id == agreement
        ]
        assert sum(paid) == amount
    assert net.balance(provider.address) - balance_before == amount


def owner(net: Net, address: str) -> NodeProcess:
    return next(p for p in net.providers if p.address == address)


async def test_a_provider_killed_in_a_task_bills_it_once_after_its_restart(fragile_net: Net) -> None:
    net = fragile_net
    async with net.requestor.client() as client:
        made = await negotiate(client, TICK_LOOP, provider=net.providers[0].address)
        victim = owner(net, made.provider)
        before = net.balance(made.provider)
        activity = await made.activity()
        batch = await client.activity.execute(activity, deploy_and_run())
        async with client.activity.events(activity, batch, silence_s=20.0) as events:
            async for event in events:
                if event.kind == "stdout":
                    victim.kill()
                    killed_at = time.monotonic()
        assert event.kind == "finished"
        results = await made.results(activity, batch, timeout_s=30.0)
        assert results[-1]["result"] == "Error"
        assert "provider" in results[-1]["message"], results[-1]["message"]
        assert time.monotonic() - killed_at < 20.0
        # The work goes on elsewhere meanwhile.
        async with deal(client, HELLO) as other:
            assert other.provider != made.provider
            assert (await other.run(await other.activity(), deploy_and_run()))[-1]["stdout"] == "hello\n"

        victim.start()
        state = await wait_for_state(client, activity, "Terminated")
        assert "provider restarted" in str(state)
        await made.end()
        await settled_once(net, victim, made.agreement, before)
        async with victim.client() as theirs:
            assert (await theirs.activity.state(activity))["state"][0] == "Terminated"


async def test_an_agreement_can_be_ended_while_its_provider_is_dead(fragile_net: Net) -> None:
    net = fragile_net
    async with net.requestor.client() as client:
        made = await job_done(client)
        victim, before = owner(net, made.provider), net.balance(made.provider)
        victim.kill()
        started = time.monotonic()
        await made.end()
        assert time.monotonic() - started < 5.0
        victim.start()
        await settled_once(net, victim, made.agreement, before)


async def test_a_requestor_killed_before_it_accepted_pays_once_after_its_restart(fragile_net: Net) -> None:
    net = fragile_net
    async with net.requestor.client() as client:
        made = await job_done(client)
        provider, before = owner(net, made.provider), net.balance(made.provider)
        await made.end()
        await made.invoice("RECEIVED")
    net.requestor.kill()
    assert net.balance(provider.address) == before, "killed too late"
    net.requestor.start()
    await settled_once(net, provider, made.agreement, before)


async def test_a_requestor_killed_before_its_payment_was_mined_pays_once_after_its_restart(fragile_net: Net) -> None:
    net = fragile_net
    net.rpc("evm_setAutomine", False)  # so that nothing is final yet, whatever was sent
    try:
        async with net.requestor.client() as client:
            made = await job_done(client)
            provider, before = owner(net, made.provider), net.balance(made.provider)
            await made.end()
            invoice = await made.invoice("RECEIVED", "ACCEPTED")
            if invoice.status == "RECEIVED":
                await made.accept(invoice)
        net.requestor.kill()
        net.requestor.start()
    finally:
        net.rpc("evm_setAutomine", True)
        net.rpc("evm_mine")
    await settled_once(net, provider, made.agreement, before)


async def test_a_killed_node_comes_back_with_all_it_had(fragile_net: Net) -> None:
    net = fragile_net
    async with net.requestor.client() as client:
        made = await job_done(client)
        provider, before = owner(net, made.provider), net.balance(made.provider)
    nodes = (net.requestor, provider)
    identities = [node.facts["peer_id"] for node in nodes]
    places = [node.facts["rest_url"] for node in nodes]
    for node in nodes:
        node.kill()
    for node in nodes:
        node.start()
    assert [node.facts["peer_id"] for node in nodes] == identities
    assert [node.facts["rest_url"] for node in nodes] == places
    for node in nodes:
        shown = node.command("agreement", "show", made.agreement, "--verify")
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.count("valid") == 2
        assert "NOT VALID" not in shown.stdout
    async with net.requestor.client() as client:
        assert made.allocation == (await client.payment.allocation(made.allocation)).allocation_id
        await client.market.terminate(made.agreement, {"message": "done"})
    await settled_once(net, provider, made.agreement, before)


async def test_debit_notes_of_a_killed_provider_stay_and_are_not_billed_again(fragile_net: Net) -> None:
    net = fragile_net
    async with net.requestor.client() as client:
        made = await job_done(client)
        provider, before = owner(net, made.provider), net.balance(made.provider)
        with trio.fail_after(20.0):
            while not [n for n in await client.payment.debit_notes() if n.agreement_id == made.agreement]:  # noqa: ASYNC110 - REST has no event for it
                await trio.sleep(0.05)
        provider.kill()
        provider.start()
        async with provider.client() as theirs:
            assert [n for n in await theirs.payment.debit_notes() if n.agreement_id == made.agreement]
        await made.end()
        await settled_once(net, provider, made.agreement, before)


async def test_the_chain_has_paid_what_was_billed_and_no_more(fragile_net: Net, tmp_path: Path) -> None:
    """Runs last in this module. What was killed over and over kept its books."""
    net = fragile_net
    async with net.requestor.client() as client:
        invoices = [await Deal(client, i.agreement_id, "", "", 0.0).pay() for i in await client.payment.invoices()]
    assert sum(amount for _, _, amount in net.payments()) == sum(parse_amount(i.amount) for i in invoices)
    for node in (net.requestor, *net.providers):
        assert "Traceback" not in node.log
        assert check_journal(node, tmp_path).accounts
