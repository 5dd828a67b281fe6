"""Addresses as peers, DNS and the LAN write them: dialled, or refused with an error of ours that a task survives."""

from __future__ import annotations

import contextlib
import socket

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.errors import GolemError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.libp2p.addresses import dial_addresses, is_numeric


class _NoNames(trio.abc.HostnameResolver):
    """Nothing is asked of a real name server; what Python makes of a name before it asks one happens all the same."""

    async def getaddrinfo(self, host: bytes | None, *_: object) -> list[object]:  # type: ignore[override] # simplified
        (host or b"").decode("ascii")
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise AssertionError("not asked")


async def dial(text: str) -> None:
    trio.socket.set_custom_hostname_resolver(_NoNames())
    with contextlib.suppress(GolemError):
        await dial_addresses(text)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.7/tcp/²/p2p/{}",
        "/ip4/192.0.2.7/tcp/１/p2p/{}",
        "/ip4/192.0.2.7/tcp/" + "9" * 5_000 + "/p2p/{}",
        "/dns4/" + "a" * 70 + ".example/tcp/1/p2p/{}",
        "/dns4/a..example/tcp/1/p2p/{}",
        "/dns/\ud800/tcp/1/p2p/{}",
        "/dns6/a\0b/tcp/1/p2p/{}",
    ],
    ids=range(7),
)
async def test_what_can_be_no_address_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(GolemError):
        trio.socket.set_custom_hostname_resolver(_NoNames())
        await dial_addresses(text.format(NodeKey.generate().peer_id))


@given(st.tuples(st.sampled_from(["ip4", "ip6", "dns", "dns4", "dns6", ""]), st.text(max_size=80), st.text(max_size=6)))
def test_any_host_and_port_are_an_address_or_an_error_of_ours(parts: tuple[str, str, str]) -> None:
    kind, host, port = parts
    trio.run(dial, f"/{kind}/{host}/tcp/{port}/p2p/16Uiu2HAmHq89tUSJ7owptpUvL2MbqkqJun6YQqaHcx4h97kT1PcU")


def test_a_name_is_not_numeric_even_behind_a_relay() -> None:
    assert is_numeric("/ip4/192.0.2.7/tcp/1/p2p/x/p2p-circuit/p2p/y")
    assert not is_numeric("/dns4/example.org/tcp/1/p2p/x/p2p-circuit/p2p/y")
