"""Two providers and a requestor behind NAT and one public bootnode: real processes in network namespaces.

One lab for all tests of this file, in their order: a start costs more than what is tried.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.runtimes.wats import HELLO
from tests.netlab import WAIT_S, Lab, LabNode, open_lab, until


@dataclass
class Nodes:
    lab: Lab
    boot: LabNode
    alice: LabNode  # a provider behind a NAT that keeps ports
    bob: LabNode  # a provider behind one that does not: no hole can be punched
    rita: LabNode  # the requestor

    def job(self, program: Path, provider: str) -> None:
        """Done by ``provider``, to the end; tried again while the network is still finding itself."""
        needs = {"alice": ("--min-memory", "0.4"), "bob": ("--storage", "5g")}[provider]
        deadline = time.monotonic() + WAIT_S
        while True:
            done = self.rita.command("job", "run", str(program), "--json", "--wait", "20", *needs, timeout_s=150)
            if done.returncode == 0:
                break
            assert time.monotonic() < deadline, f"{done.stdout}\n{done.stderr}\n{self.rita.log[-3000:]}"
        found = json.loads(done.stdout)
        assert (found["provider"], found["stdout"]) == (provider, "hello\n")

    def offers(self) -> set[str]:
        """Names of the providers whose offers the requestor knows."""
        return {str(o["properties"]["golem.node.id.name"]) for o in self.rita.json("offers")}

    def connected(self, other: LabNode) -> bool:
        return bool(self.rita.peer(other).get("connected"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with open_lab(tmp_path_factory.mktemp("lab"), ["boot", "alice@home1", "bob@home2/symmetric", "rita@home3"]) as lab:
        lab.start_chain("alice", "bob", "rita")
        boot = lab.start("boot", "bootnode")
        lab.ready(boot)
        lab.bootstrap = [address for address in boot.facts["addresses"] if "/203.0.113." in address]
        # Different machines, so that a job can ask for one of them.
        alice = lab.start("alice", "run", "--provider", provider={"memory_gib": 0.5})
        bob = lab.start("bob", "run", "--provider", provider={"storage_gib": 9.0})
        rita = lab.start("rita", "run", money=True)
        lab.ready(alice, bob, rita)
        found = Nodes(lab, boot, alice, bob, rita)
        until(lambda: found.offers() == {"alice", "bob"}, "both offers")
        yield found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "hello.wasm"
    path.write_bytes(HELLO)
    return path


def test_nodes_behind_nat_are_told_so_and_how_to_get_out(nodes: Nodes) -> None:
    for node in (nodes.alice, nodes.bob, nodes.rita):
        until(lambda n=node: n.json("status")["reachability"]["reach"] == "relayed", "its verdict")  # type: ignore[misc]
        verdict = node.json("status")["reachability"]
        assert verdict["relays"] == [nodes.boot.facts["peer_id"]]
        assert "behind NAT: peers see it at 203.0.113.10" in verdict["reason"]
        assert "forward TCP port 11155" in verdict["advice"]


def test_a_provider_behind_nat_learns_that_others_hold_its_offers(nodes: Nodes) -> None:
    until(lambda: nodes.alice.json("status")["peers"] >= 1, "a peer to ask")
    done = nodes.alice.command("selftest")
    assert done.returncode == 0, done.stdout
    assert "through relays only" in done.stdout
    assert "holds 1 of 1" in done.stdout


def test_a_job_is_done_by_each_provider_behind_nat(nodes: Nodes, program: Path) -> None:
    nodes.job(program, "alice")
    nodes.job(program, "bob")


def test_a_hole_is_punched_where_it_can_be_and_the_relay_is_kept_elsewhere(nodes: Nodes) -> None:
    until(lambda: nodes.rita.peer(nodes.alice).get("relayed") is False, "a direct connection to alice")
    assert nodes.connected(nodes.bob)
    assert nodes.rita.peer(nodes.bob)["relayed"]


def test_after_a_partition_and_new_addresses_all_find_each_other_again(nodes: Nodes, program: Path) -> None:
    """alice is cut off; the requestor's computer and bob's home get new addresses meanwhile."""
    before = {node.host: reservations(node) for node in (nodes.alice, nodes.bob, nodes.rita)}
    nodes.lab.netlab("partition", "home1")
    nodes.lab.netlab("readdress", "rita")
    nodes.lab.netlab("readdress", "home2")
    until(lambda: reservations(nodes.rita) > before["rita"], "the requestor to come to the relay from its new address")
    until(lambda: reservations(nodes.bob) > before["bob"], "bob to come to the relay again")
    nodes.job(program, "bob")
    until(lambda: '"event": "relay lost"' in nodes.alice.log, "alice to see that she is cut off")
    nodes.lab.netlab("heal")
    until(lambda: reservations(nodes.alice) > before["alice"], "alice to come to the relay again")
    until(lambda: nodes.offers() == {"alice", "bob"}, "both offers again")
    nodes.job(program, "alice")


def reservations(node: LabNode) -> int:
    """How often it found a relay so far."""
    return node.log.count('"event": "relay reserved"')
