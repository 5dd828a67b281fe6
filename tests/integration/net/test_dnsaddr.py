"""Bootstrap addresses from DNS, asked of a name server of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from golemp2p.errors import NetworkError, UsageError
from golemp2p.net.libp2p.dnsaddr import parse_dnsaddr, resolve_dnsaddr

ONE = "/ip4/192.0.2.1/tcp/1/p2p/16Uiu2HAmOne"
TWO = "/ip4/192.0.2.2/tcp/2/p2p/16Uiu2HAmTwo"


@asynccontextmanager
async def name_server(names: Mapping[str, list[str]]) -> AsyncIterator[dns.asyncresolver.Resolver]:
    """Serves TXT records on loopback; a resolver that asks it."""
    socket = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await socket.bind(("127.0.0.1", 0))

    async def serve() -> None:
        while True:
            query, sender = await socket.recvfrom(4096)
            asked = dns.message.from_wire(query)
            name = asked.question[0].name
            answer = dns.message.make_response(asked)
            answer.flags |= dns.flags.RA
            texts = names.get(name.to_text(omit_final_dot=True))
            if texts is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            else:
                quoted = [f'"{text}"' for text in texts]
                answer.answer.append(dns.rrset.from_text_list(name, 60, "IN", "TXT", quoted))
            await socket.sendto(answer.to_wire(), sender)

    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield resolver
        nursery.cancel_scope.cancel()
    socket.close()


async def test_a_name_gives_its_addresses_and_those_of_the_names_that_it_refers_to() -> None:
    names = {
        "_dnsaddr.boot.example.org": [
            f"dnsaddr={ONE}",
            "dnsaddr=/dnsaddr/eu.example.org",
            "dnsaddr=/dnsaddr/a b",
            "v=spf1 -all",
        ],
        "_dnsaddr.eu.example.org": [f"dnsaddr={TWO}", f"dnsaddr={ONE}", "dnsaddr=/dnsaddr/boot.example.org"],
    }
    async with name_server(names) as resolver:
        assert await resolve_dnsaddr("/dnsaddr/boot.example.org", resolver) == [ONE, TWO]
        assert await resolve_dnsaddr("/dnsaddr/eu.example.org/p2p/16Uiu2HAmTwo", resolver) == [TWO]


async def test_a_name_that_leads_nowhere_says_so() -> None:
    async with name_server({"_dnsaddr.empty.example.org": ["hello"]}) as resolver:
        for name in ("empty", "unknown"):
            with pytest.raises(NetworkError, match="leads nowhere"):
                await resolve_dnsaddr(f"/dnsaddr/{name}.example.org", resolver)


async def test_names_that_refer_to_each_other_without_end_are_given_up() -> None:
    names = {f"_dnsaddr.n{i}.org": [f"dnsaddr=/dnsaddr/n{i + 1}.org"] for i in range(9)}
    names["_dnsaddr.n9.org"] = [f"dnsaddr={ONE}"]
    async with name_server(names) as resolver:
        with pytest.raises(NetworkError, match="leads nowhere"):
            await resolve_dnsaddr("/dnsaddr/n0.org", resolver)


@pytest.mark.parametrize("text", ["/dnsaddr/", "/dnsaddr/a b", "/dnsaddr/a/ip4/1", "/dnsaddr/a/p2p/"])
def test_what_is_no_dnsaddr_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_dnsaddr(text)
