"""golem-js pays from a deposit: tokens that somebody locked for the requestor in Golem's contract (a stand-in here)."""

from __future__ import annotations

import time
from pathlib import Path

from golemp2p.core.ids import Address
from golemp2p.payment.drivers import transactions as calls
from tests.compat.clients import JsClient
from tests.compat.support import agent_env, javascript, run
from tests.compat.test_channels import told
from tests.e2e.net import Net, wait_until
from tests.integration.payment.test_deposits import create_call, deposit_id
from tests.unit.payment.world import glm


def owes_nothing(net: Net) -> bool:
    (state,) = told(net.requestor, "/golemp2p/v1/payment/status")
    return state["owed"] == "0"


def test_a_deposit_pays_two_rentals_and_its_rest_goes_back(net: Net, golem_js: JsClient, tmp_path: Path) -> None:
    lock, token = Address(net.chain["lock"]), Address(net.chain["token"])
    funder = Address(net.rpc("eth_accounts")[0].lower())  # an account of the chain's own

    def send(to: Address, data: bytes) -> None:
        net.rpc("eth_sendTransaction", {"from": funder, "to": to, "data": "0x" + data.hex(), "gas": hex(500_000)})

    send(token, calls.mint_call(funder, glm("2")))
    send(token, calls.approve_call(lock, glm("2")))
    send(lock, create_call(7, Address(net.requestor.address), glm("2"), valid_to=round(time.time()) + 3_600))
    wait_until(lambda: owes_nothing(net), what="what other programs owe to be paid", timeout_s=30)
    before = len(net.transfers())
    said = run(javascript(golem_js, "deposit.ts", lock, f"{deposit_id(funder, 7):#x}"), agent_env(net), tmp_path)
    assert "task one" in said
    assert "task two" in said

    def returned() -> list[int]:
        return [amount for sender, to, amount in net.transfers()[before:] if (sender, to) == (lock, funder)]

    wait_until(lambda: bool(returned()), what="the rest of the deposit to go back to its funder", timeout_s=30)
    paid = [(to, amount) for sender, to, amount in net.transfers()[before:] if sender == lock and to != funder]
    assert {to for to, _ in paid} <= {provider.address for provider in net.providers}
    assert sum(amount for _, amount in paid) + sum(returned()) == glm("2")
    assert len(paid) >= 1
    assert not [line for line in net.transfers()[before:] if line[0] == net.requestor.address], "none of its own"
