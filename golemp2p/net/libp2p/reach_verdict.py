"""From what peers say about reaching us to a verdict for the owner. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from golemp2p.core.ids import PeerId
from golemp2p.net.libp2p.addresses import is_local
from golemp2p.net.libp2p.dialback import Seen
from golemp2p.net.port import Reach, Reachability

ON_THIS_MACHINE = Reachability(Reach.PUBLIC, "by nodes on this machine: it listens on loopback only")


def judge(
    seen: Sequence[Seen],
    *,
    own_ips: Collection[str],
    relays: Sequence[PeerId],
    ports: Sequence[int],
    use_relays: bool = True,
) -> Reachability:
    """``own_ips``: of this machine's interfaces; ``ports``: that others were asked to try."""
    through = tuple(sorted(relays))
    if not seen:
        if through:
            return Reachability(
                Reach.RELAYED, "nobody could be asked to dial it; relays bring it connections", relays=through
            )
        return Reachability(Reach.UNKNOWN, "nobody could be asked yet")
    farthest = max(_distance(one, own_ips) for one in seen)
    asked = [one for one in seen if _distance(one, own_ips) == farthest]
    reached = [one for one in asked if one.reached]
    if 2 * len(reached) >= len(asked):
        where = f"{reached[0].ip}:{reached[0].reached[0]}"
        told = f"{len(reached)} of {len(asked)} peers that were asked opened a connection to {where}"
        if farthest == 0:
            told += ", a local address: nobody outside was asked"
        return Reachability(Reach.PUBLIC, told)
    natted = [one for one in asked if one.ip not in own_ips]
    port = ports[0] if ports else 0
    if natted:
        reason = f"behind NAT: peers see it at {natted[0].ip}, where port {port} does not lead to it"
        advice = (
            f"forward TCP port {port} of the router to this machine and set [net] announce = "
            f'["/ip4/{natted[0].ip}/tcp/{port}"], or try [net] upnp = true'
        )
    else:
        reason = f"a firewall is before it: peers see it at {asked[0].ip}, but cannot open connections to port {port}"
        advice = f"allow inbound connections to TCP port {port}"
    if through:
        return Reachability(Reach.RELAYED, reason, f"it works through relays; for more speed {advice}", through)
    if use_relays:
        advice += "; or join a network that has a relay (a bootnode is one)"
    else:
        advice += "; or set [net] relay = true"
    return Reachability(Reach.UNREACHABLE, reason, advice)


def _distance(one: Seen, own_ips: Collection[str]) -> int:
    """0: sees us at a local address of ours, 1: at one of somebody else (NAT within a network), 2: at a public one."""
    if not is_local(one.ip):
        return 2
    return 0 if one.ip in own_ips else 1
