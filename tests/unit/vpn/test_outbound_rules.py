"""Manifests, the provider's whitelist, and the gate that a payload's connections pass."""

from __future__ import annotations

import base64
import json
import platform
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.config import ProviderSection
from golemp2p.core import dns
from golemp2p.core.manifest import PAYLOAD, Manifest, Outbound, OutboundRule, read_manifest
from golemp2p.errors import NetworkError, PolicyError, UsageError
from golemp2p.vpn import outbound
from golemp2p.vpn.outbound import RANGE, OutboundGate
from tests.unit.vpn.test_dns import question

HASH = "sha3:" + "ab" * 28


def demand(document: object) -> dict[str, object]:
    return {PAYLOAD: base64.b64encode(json.dumps(document).encode()).decode()}


def wanting(**out: object) -> dict[str, object]:
    return demand({"payload": [], "compManifest": {"net": {"inet": {"out": out}}}})


def outbound_of(**out: object) -> Outbound:
    manifest = read_manifest(wanting(**out))
    assert manifest is not None
    assert manifest.outbound is not None
    return manifest.outbound


def test_a_manifest_names_the_package_and_the_hosts() -> None:
    entry = {"platform": {"arch": platform.machine(), "os": "linux"}, "urls": ["http://host/x.gvmi"], "hash": HASH}
    other = {"platform": {"arch": "riscv", "os": "plan9"}, "urls": ["http://host/y.gvmi"], "hash": HASH}
    document = {
        "payload": [other, entry],
        "compManifest": {
            "net": {"inet": {"out": {"protocols": ["https", "http"], "urls": ["https://A.org", "http://b.org:8080/x"]}}}
        },
    }
    manifest = read_manifest(demand(document))
    assert manifest == Manifest(
        f"hash:{HASH}:http://host/x.gvmi", Outbound((("a.org", 443), ("b.org", 8080)), ports=(443, 8080))
    )
    wrapped = demand(document)[PAYLOAD]
    assert isinstance(wrapped, str)
    assert read_manifest({PAYLOAD: "\n".join(wrapped[at : at + 20] for at in range(0, len(wrapped), 20))}) == manifest
    assert read_manifest({PAYLOAD: json.dumps(document)}) == manifest
    assert read_manifest({}) is None


def test_nothing_wanted_is_no_outbound() -> None:
    assert read_manifest(demand({})) == Manifest()
    assert read_manifest(wanting(urls=[])) == Manifest()
    assert outbound_of(unrestricted={"urls": True}, protocols=["https"]) == Outbound(unrestricted=True, ports=(443,))
    assert outbound_of(unrestricted={"urls": True}).ports == (80, 443)


@pytest.mark.parametrize(
    "out",
    [
        {"urls": ["ftp://x.org"]},
        {"urls": ["https://"]},
        {"urls": ["https://[::1]"]},
        {"urls": ["https://a b"]},
        {"urls": ["https://x.org:0"]},
        {"urls": ["https://x.org:99999"]},
        {"urls": ["http://x.org"], "protocols": ["https"]},
        {"urls": "https://x.org"},
        {"urls": [f"https://x.org:{port}" for port in range(1000, 1020)]},
        {"urls": ["https://x.org"] * 65},
        {"protocols": ["gopher"], "urls": []},
        {"unrestricted": {"urls": False}},
        {"unrestricted": 1},
    ],
    ids=lambda out: str(out)[:50],
)
def test_a_manifest_that_cannot_be_is_refused(out: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        read_manifest(wanting(**out))


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda b: base64.b64encode(b).decode())))
def test_any_text_is_a_manifest_or_a_usage_error(text: str) -> None:
    try:
        read_manifest({PAYLOAD: text})
    except UsageError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from([(), ("compManifest",), ("compManifest", "net"), ("compManifest", "net", "inet", "out")]))
def test_any_document_is_a_manifest_or_a_usage_error(document: object, path: Sequence[str]) -> None:
    for step in reversed(path):
        document = {step: document, "payload": document}
    try:
        read_manifest(demand(document))
    except UsageError:
        return


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whitelist", "urls", "refusal"),
    [
        ((), ["https://a.org"], "does not let payloads reach the internet"),
        (("a.org",), ["https://a.org"], None),
        (("a.org",), ["https://www.a.org"], "not on this provider's whitelist: www.a.org"),
        (("*.a.org",), ["https://www.a.org", "https://x.y.a.org"], None),
        (("*.a.org",), ["https://a.org"], "whitelist: a.org"),
        (("*.a.org",), ["https://ba.org"], "whitelist: ba.org"),
        (("all",), ["https://anything.example"], None),
        (("9.9.9.9",), ["https://9.9.9.9"], None),
        (("a.org",), ["https://9.9.9.9"], "whitelist: 9.9.9.9"),
    ],
)
def test_the_whitelist_decides(whitelist: tuple[str, ...], urls: list[str], refusal: str | None) -> None:
    found = OutboundRule(whitelist).refusal(outbound_of(urls=urls))
    assert found is None if refusal is None else refusal in str(found)


def test_everything_is_only_for_those_who_allow_all() -> None:
    wanted = outbound_of(unrestricted={"urls": True})
    assert "not all" in str(OutboundRule(("a.org", "*.b.org")).refusal(wanted))
    assert OutboundRule(("all",)).refusal(wanted) is None


@pytest.mark.parametrize("entry", ["https://a.org", "a b", "*", "", "a..b"])
def test_a_wrong_entry_of_the_setting_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        ProviderSection.model_validate({"outbound": {"whitelist": [entry]}})


# --- the gate ---------------------------------------------------------------------------------------------------------

PLACES = {"a.org": ["127.0.0.1"], "inner.org": ["10.0.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1"]}


async def resolve(name: str) -> Sequence[str]:
    if name not in PLACES:
        raise OSError("no such name")
    return PLACES[name]


def known_as(gate: OutboundGate, name: str) -> IPv4Address:
    answer = gate.answer(question(name))
    assert answer is not None
    return IPv4Address(answer[-4:])


async def test_names_of_the_manifest_get_made_up_addresses_and_others_do_not_exist() -> None:
    wanted = outbound_of(urls=["https://a.org", "https://b.org"])
    gate = OutboundGate(OutboundRule(("all",)), wanted, resolve=resolve)
    assert known_as(gate, "a.org") == known_as(gate, "A.org") != known_as(gate, "b.org")
    assert {known_as(gate, "a.org"), known_as(gate, "b.org")} <= set(RANGE)
    missing = gate.answer(question("c.org"))
    assert missing is not None
    assert missing[3] & 15 == dns.NAME_ERROR
    assert gate.answer(b"garbage") is None
    assert gate.routes == (RANGE,)


async def test_names_whose_servers_take_their_time_do_not_take_the_nodes_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered, full, asked = threading.Event(), trio.Event(), []

    def slow(name: str, *_: object) -> list[object]:
        asked.append(name)
        if len(asked) == limits.OUTBOUND_LOOKUPS:
            trio.from_thread.run_sync(full.set)
        answered.wait(10)
        return []

    monkeypatch.setattr("socket.getaddrinfo", slow)
    gate = OutboundGate(OutboundRule(("all",)), Outbound(unrestricted=True, ports=(80,)))
    addresses = [known_as(gate, f"slow{number}.org") for number in range(100)]
    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(gate.dial, address, 80)
        with trio.fail_after(5):
            await full.wait()
        await trio.testing.wait_all_tasks_blocked()
        used = trio.to_thread.current_default_thread_limiter().borrowed_tokens
        nursery.cancel_scope.cancel()
    answered.set()
    assert used == 0
    assert len(asked) == limits.OUTBOUND_LOOKUPS


async def test_a_connection_goes_where_its_name_is_and_only_to_the_agreed_port() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    wanted = Outbound((("a.org", port), ("inner.org", 80), ("gone.org", 80)), ports=(80, port))
    gate = OutboundGate(OutboundRule(("a.org", "inner.org", "gone.org", "127.0.0.1")), wanted, resolve=resolve)
    async with listener, await gate.dial(known_as(gate, "a.org"), port) as stream, await listener.accept() as other:
        await stream.send_all(b"x")
        assert await other.receive_some(1) == b"x"
    for address, at in (
        (known_as(gate, "a.org"), 80),
        (IPv4Address("127.0.0.1"), port),  # not by its address
        (IPv4Address("8.8.8.8"), 80),
        (RANGE[99], port),
    ):
        with pytest.raises(PolicyError, match="may not connect"):
            await gate.dial(address, at)
    with pytest.raises(PolicyError, match="private address"):
        await gate.dial(known_as(gate, "inner.org"), 80)
    with pytest.raises(NetworkError, match="cannot be looked up"):
        await gate.dial(known_as(gate, "gone.org"), 80)
    assert (gate.connections, gate.refused) == (1, 5)


async def test_all_means_public_hosts() -> None:
    gate = OutboundGate(OutboundRule(("all",)), outbound_of(unrestricted={"urls": True}), resolve=resolve)
    assert gate.routes == (IPv4Network("0.0.0.0/0"),)
    for private in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "100.64.0.1"):
        with pytest.raises(PolicyError):
            await gate.dial(IPv4Address(private), 80)
    with pytest.raises(PolicyError, match="may not connect"):
        await gate.dial(IPv4Address("8.8.8.8"), 25)
    with pytest.raises(PolicyError, match="private address"):
        await gate.dial(known_as(gate, "inner.org"), 80)


async def test_a_payload_cannot_make_us_remember_names_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTBOUND_NAMES", 3)
    gate = OutboundGate(OutboundRule(("all",)), outbound_of(unrestricted={"urls": True}), resolve=resolve)
    answers = [gate.answer(question(f"n{number}.org")) for number in range(5)]
    assert [answer is not None and answer[7] for answer in answers] == [1, 1, 1, 0, 0]


def test_addresses_of_this_machine_are_told_from_others() -> None:
    assert [outbound._is_ours(address) for address in ("127.0.0.1", "192.0.2.1", "9.9.9.9")] == [True, False, False]


async def test_the_providers_own_public_address_is_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens there may trust the machine itself."""
    monkeypatch.setattr(outbound, "_is_ours", lambda address: address == "9.9.9.9")
    wanted = Outbound((("home.org", 80),), ports=(80,))

    async def home(_name: str) -> Sequence[str]:
        return ["9.9.9.9"]

    gate = OutboundGate(OutboundRule(("home.org",)), wanted, resolve=home)
    with pytest.raises(PolicyError):
        await gate._places("home.org")
    named = OutboundGate(OutboundRule(("home.org", "9.9.9.9")), wanted, resolve=home)
    assert await named._places("home.org") == ["9.9.9.9"]
