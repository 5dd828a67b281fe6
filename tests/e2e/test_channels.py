"""A network that pays by vouchers, and nodes of it that are SIGKILLed: what was vouched for is claimed, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from golemp2p.core.money import parse_amount
from tests.e2e.conftest import AUTO_ACCEPT_S
from tests.e2e.net import Net, check_journal, open_net
from tests.e2e.test_killed_nodes import job_done, settled_once


@pytest.fixture(scope="module")
def channel_net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with open_net(
        tmp_path_factory.mktemp("channels"),
        providers=1,
        payment_mode="channel",
        provider={"price_start": 0.01},
        payment={"auto_accept_after_s": AUTO_ACCEPT_S},
    ) as found:
        yield found


async def test_nodes_killed_around_a_voucher_pay_and_are_paid_once(channel_net: Net, tmp_path: Path) -> None:
    net, (provider,) = channel_net, channel_net.providers
    async with net.requestor.client() as client:  # the payer dies before it has signed
        first, before = await job_done(client), net.balance(provider.address)
        await first.end()
        await first.invoice("RECEIVED")
    net.requestor.kill()
    net.requestor.start()
    await settled_once(net, provider, first.agreement, before)
    net.rpc("evm_setAutomine", False)
    try:
        async with net.requestor.client() as client:  # the payee dies with a voucher that no block has paid
            second, before = await job_done(client), net.balance(provider.address)
            await second.end()
            invoice = await second.invoice("RECEIVED", "ACCEPTED")
            if invoice.status == "RECEIVED":
                await second.accept(invoice)
            provider.kill()
            net.requestor.kill()
    finally:
        net.rpc("evm_setAutomine", True)
        net.rpc("evm_mine")
    provider.start()
    net.requestor.start()
    await settled_once(net, provider, second.agreement, before)
    async with provider.client() as client:
        (channel,) = await client.channels.channels()
        earned = sum(parse_amount(i.amount) for i in await client.payment.invoices())
    assert channel.deposit == "10"
    assert parse_amount(channel.vouched) == parse_amount(channel.claimed) == earned
    for node in (net.requestor, provider):
        assert check_journal(node, tmp_path).accounts
