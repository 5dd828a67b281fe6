"""What clients write: networks, nodes, hosts; and the owner's list of members."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.exescript import Deploy, ScriptError, parse_script
from golemp2p.core.ids import Address, PeerId
from golemp2p.core.vpn import Member, Membership, parse_network, parse_order
from golemp2p.errors import ConflictError, NotFoundError, UsageError

ID = "0123456789abcdef" * 2
A, B = (Address("0x" + digit * 40) for digit in "ab")
YAPAPI = {"id": ID, "ip": "192.168.0.0", "mask": "255.255.255.0", "nodeIp": "192.168.0.2", "nodes": {"192.168.0.1": A}}


def deploy(**body: object) -> Deploy:
    (command,) = parse_script(json.dumps([{"deploy": body}]))
    assert isinstance(command, Deploy)
    return command


def test_a_deploy_names_networks_hosts_and_a_host_name() -> None:
    command = deploy(net=[YAPAPI], hosts={"db": "192.168.0.3"}, hostname="web-1")
    (order,) = command.networks
    assert (order.id, order.network, str(order.interface)) == (ID, IPv4Network("192.168.0.0/24"), "192.168.0.2/24")
    assert order.nodes == {IPv4Address("192.168.0.1"): A}
    assert (command.hosts, command.hostname) == ((("db", "192.168.0.3"),), "web-1")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x"},
        {"id": ID.upper()},
        {"nodeIp": "192.168.1.2"},
        {"nodeIp": "192.168.0.0"},
        {"nodeIp": "192.168.0.255"},
        {"nodeIp": None},
        {"nodeIp": "::1"},
        {"ip": "127.0.0.0"},
        {"ip": "224.0.0.0"},
        {"mask": "255.0.255.0"},
        {"mask": "0.0.0.0"},
        {"nodes": ["x"]},
        {"nodes": {"192.168.0.1": "me"}},
        {"nodes": {"10.0.0.1": A}},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        parse_order({**YAPAPI, **change})
    with pytest.raises(ScriptError, match="net"):
        deploy(net=[{**YAPAPI, **change}])


@pytest.mark.parametrize(
    "body",
    [
        {"net": {}},
        {"net": [1]},
        {"net": [YAPAPI, YAPAPI]},
        {"net": [YAPAPI, {**YAPAPI, "id": ID[::-1]}]},
        {"net": [{**YAPAPI, "id": f"{n:032x}", "ip": f"10.{n}.0.0", "nodeIp": f"10.{n}.0.1"} for n in range(9)]},
        {"hosts": {"a b": "10.0.0.1"}},
        {"hosts": {"a\n127.0.0.1 b": "10.0.0.1"}},
        {"hosts": {"a": "10.0.0.1 b"}},
        {"hosts": {"": "10.0.0.1"}},
        {"hostname": "a\nb"},
        {"hostname": "a:b"},
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_deploy_with_wrong_networks_or_names_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(ScriptError):
        deploy(**body)


@pytest.mark.parametrize(
    ("ip", "mask", "expected"),
    [
        ("192.168.0.1/24", None, "192.168.0.0/24"),
        ("192.168.0.0", "255.255.0.0", "192.168.0.0/16"),
        ("192.168.7.0/24", "255.255.255.128", "192.168.7.0/25"),
        ("10.1.2.3", None, "10.1.2.0/24"),
    ],
)
def test_networks_are_written_as_clients_do(ip: str, mask: str | None, expected: str) -> None:
    assert parse_network(ip, mask) == IPv4Network(expected)


@given(st.text(max_size=30), st.none() | st.text(max_size=20))
def test_any_text_is_a_network_or_a_usage_error(ip: str, mask: str | None) -> None:
    try:
        network = parse_network(ip, mask)
    except UsageError:
        return
    assert 8 <= network.prefixlen <= 30


# --- members ----------------------------------------------------------------------------------------------------------


def test_adding_a_node_again_changes_nothing_and_a_taken_address_conflicts() -> None:
    members = Membership(IPv4Network("10.0.0.0/24"))
    ip = IPv4Address("10.0.0.2")
    assert members.add(ip, A, None)
    version = members.version
    assert not members.add(ip, A, None)
    assert members.version == version
    with pytest.raises(ConflictError, match="already"):
        members.add(ip, B, None)
    assert members.add(IPv4Address("10.0.0.3"), A, None), "a node may have several addresses"
    assert members.learn(A, PeerId("p"))
    assert not members.learn(A, PeerId("p"))
    assert members.members == {
        IPv4Address("10.0.0.2"): Member(A, PeerId("p")),
        IPv4Address("10.0.0.3"): Member(A, PeerId("p")),
    }
    assert not members.add(ip, A, None), "what is known is not forgotten"
    members.remove(A)
    assert members.members == {}
    with pytest.raises(NotFoundError):
        members.remove(A)


@given(st.lists(st.tuples(st.integers(0, 15), st.sampled_from([A, B]), st.booleans()), max_size=40))
def test_an_address_never_has_two_nodes_and_versions_only_grow(steps: list[tuple[int, Address, bool]]) -> None:
    members = Membership(IPv4Network("10.0.0.0/28"))
    expected: dict[IPv4Address, Address] = {}
    for number, node, add in steps:
        before = members.version
        ip = IPv4Address("10.0.0.0") + number
        try:
            if add:
                members.add(ip, node, None)
                expected[ip] = node
            else:
                members.remove(node)
                expected = {at: owner for at, owner in expected.items() if owner != node}
        except UsageError:  # conflict, not there, no host
            assert members.version == before
        assert {at: member.node for at, member in members.members.items()} == expected
        assert members.version >= before
