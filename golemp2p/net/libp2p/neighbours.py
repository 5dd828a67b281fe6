"""Whom a node is connected to: bootstrap with back-off, then as many as gossip wants, not all of one owner's choosing.

Gossipsub does not redial, and a bootnode alone is no network. Against eclipse: some of the peers are dialled by us and
lie in different networks, no answer decides about all of them, and those that were good are remembered over restarts.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.errors import GolemError, NetworkError
from golemp2p.net.config import NetConfig
from golemp2p.net.libp2p.addresses import CIRCUIT, host_of, is_local, is_numeric
from golemp2p.net.libp2p.dnsaddr import is_dnsaddr, resolve_dnsaddr
from golemp2p.net.libp2p.exchange import PeerExchange, group_of
from golemp2p.net.port import PeerInfo

if TYPE_CHECKING:
    from golemp2p.net.libp2p.host import Libp2pNetwork

log = structlog.get_logger(__name__)
_CALM_S: Final = 2.0  # between two looks when nothing is missing
_SOON_S: Final = 0.3  # after a round that brought peers, while more are wanted


class Neighbours:
    def __init__(self, network: Libp2pNetwork, config: NetConfig) -> None:
        self._network, self._config = network, config
        self._exchange = PeerExchange(network)
        self._unreached: set[str] = set()  # bootstrap addresses that we complained about
        self._anchors: tuple[str, ...] = ()
        self._grow_at = 0.0
        self._grow_delay_s = _CALM_S
        self.dismissed_until: dict[PeerId, float] = {}  # we closed it on purpose; leave it alone

    async def run(self) -> None:
        """Dial until there are enough peers, and again when there are too few."""
        delay_s = limits.BOOTSTRAP_RETRY_MIN_S
        self._anchors = await trio.to_thread.run_sync(_read, self._config.peers_file)
        async with trio.open_nursery() as nursery:
            if self._config.peers_file is not None:
                nursery.start_soon(self._remember_now_and_then)
            while True:
                missing = await self._dial_round()
                more = await self._grow()
                delay_s = min(delay_s * 2, limits.BOOTSTRAP_RETRY_MAX_S) if missing else limits.BOOTSTRAP_RETRY_MIN_S
                pause_s = delay_s if missing else _SOON_S if more else _CALM_S
                await trio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    def _connected(self) -> list[PeerInfo]:
        return [peer for peer in self._network.peers() if peer.connected]

    # --- too few ----------------------------------------------------------------------------------------------------
    async def _dial_round(self) -> bool:
        """One attempt at every bootstrap peer and some known ones when there are too few peers. True when some did not
        answer."""
        if len(self._connected()) >= self._config.min_peers:
            return False
        known = [p.addresses[0] for p in self._network.peers() if not p.connected and p.addresses]
        random.shuffle(known)
        failed: list[str] = []
        bootstrap = await self._bootstrap(failed)
        others = [*self._anchors, *known[: self._config.min_peers]]
        unreached = await self._dial([*bootstrap, *others])
        return bool(failed or [a for a in unreached if a in bootstrap and self._network.peer_id not in a])

    async def _dial(self, addresses: list[str]) -> list[str]:
        """Those that were not reached."""
        now, failed = trio.current_time(), list[str]()
        self.dismissed_until = {peer: until for peer, until in self.dismissed_until.items() if until > now}

        async def dial(address: str) -> None:
            try:
                await self._network.connect(address)
            except GolemError as exc:
                failed.append(address)
                if address in self._config.bootstrap and self._network.peer_id not in address:
                    self._complain(address, exc)
            else:
                self._unreached.discard(address)

        async with trio.open_nursery() as nursery:
            for address in dict.fromkeys(addresses):
                if address.rpartition("/p2p/")[2] not in self.dismissed_until:
                    nursery.start_soon(dial, address)
        return failed

    async def _bootstrap(self, failed: list[str]) -> list[str]:
        """The bootstrap addresses, with those that DNS has for each name; names without an answer go to ``failed``."""
        addresses: list[str] = []
        for address in self._config.bootstrap:
            if not is_dnsaddr(address):
                addresses.append(address)
                continue
            try:
                addresses += await resolve_dnsaddr(address)
            except NetworkError as exc:
                self._complain(address, exc)
                failed.append(address)
            else:
                self._unreached.discard(address)
        return addresses

    def _complain(self, address: str, error: GolemError) -> None:
        level = "debug" if address in self._unreached else "warning"  # once, until it was reached again
        self._unreached.add(address)
        getattr(log, level)("bootstrap peer not reached", address=address, error=str(error))

    # --- some more --------------------------------------------------------------------------------------------------
    async def _grow(self) -> bool:
        """Ask a peer for others and dial some, while there are fewer than gossip wants. True when it helped."""
        connected, now = self._connected(), trio.current_time()
        outbound = sum(peer.direction == "out" for peer in connected)
        wanted = max(self._config.target_peers - len(connected), self._config.min_outbound - outbound)
        if not connected or wanted <= 0 or now < self._grow_at:
            return False
        heard = await self._ask(random.choice(connected).peer)  # noqa: S311 - whom to ask is no secret
        # The rest of the answer is left: one peer must not choose all of ours.
        chosen = choose(heard, connected, self._network.peer_id, min(wanted, limits.DIALS_OF_ONE_ANSWER))
        failed = await self._dial(chosen)
        helped = len(failed) < len(chosen)
        self._grow_delay_s = _CALM_S if helped else min(self._grow_delay_s * 2, limits.PEER_GROW_MAX_S)
        self._grow_at = now if helped else now + self._grow_delay_s
        return helped

    async def _ask(self, peer: PeerId) -> list[str]:
        try:
            answer = await self._exchange.ask(peer)
        except GolemError as exc:
            log.debug("no peers named", peer=peer, error=str(exc))
            return []
        random.shuffle(answer)
        return list(filter(is_numeric, answer))  # hearsay must not make us ask any name server

    # --- over a restart ---------------------------------------------------------------------------------------------
    async def _remember_now_and_then(self) -> None:
        while True:
            await trio.sleep(limits.ANCHORS_KEEP_S)
            await self.remember()

    async def remember(self) -> None:
        """Write down peers that we dialled and that are there: where a next start begins, whatever its bootnodes say.

        Never raises: without the file a next start has its bootnodes.
        """
        path = self._config.peers_file
        good = [p for p in self._connected() if p.direction == "out" and not p.relayed and p.addresses]
        addresses = [next((a for a in p.addresses if CIRCUIT not in a), "") for p in good]
        kept = [address for address in addresses if address][: limits.ANCHORS]
        if path is None or not kept:
            return
        try:
            await trio.to_thread.run_sync(_write, path, kept)
        except OSError as exc:
            log.warning("peers not remembered", path=str(path), error=exc.strerror)


def _write(path: Path, addresses: list[str]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(addresses))
    part.rename(path)


def choose(heard: list[str], connected: list[PeerInfo], me: PeerId, most: int) -> list[str]:
    """Of the addresses that were heard: new peers, each once, and not too many of one network."""
    names = {peer.peer for peer in connected} | {me}
    groups = Counter(group_of(p.addresses[0]) for p in connected if p.direction == "out" and p.addresses)
    chosen: list[str] = []
    for address in heard:
        peer, group = PeerId(address.rpartition("/p2p/")[2]), group_of(address)
        crowded = not is_local(host_of(address)) and groups[group] >= limits.MAX_PEERS_OF_GROUP
        if peer in names or crowded:
            continue
        names.add(peer)
        groups[group] += 1
        chosen.append(address)
        if len(chosen) == most:
            break
    return chosen


def _read(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        found: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        return ()
    texts = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    return tuple(texts[: limits.ANCHORS])
