"""Kademlia in server mode under our own protocol name, with strict validation of signed, expiring records."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import structlog
import trio
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.records.validator import NamespacedValidator, Validator

from golemp2p import limits
from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import PeerId
from golemp2p.errors import DeadlineError, NetworkError, RemoteProtocolError
from golemp2p.identity.keys import Signer
from golemp2p.net.libp2p.addresses import libp2p_id
from golemp2p.net.record import seal, unseal

log = structlog.get_logger(__name__)
NAMESPACE: Final = "golemp2p"
T = TypeVar("T")


class _RecordValidator(Validator):  # type: ignore[misc] # libp2p is not typed for us
    def __init__(self, network: str) -> None:
        self._network = network

    def _open(self, key: str, value: bytes) -> Any:
        network, _, inner = key.removeprefix(f"/{NAMESPACE}/").partition("/")
        if network != self._network:
            raise RemoteProtocolError(f"DHT key of network {network!r}")
        return unseal(value, network, inner, now_s=time.time())

    def validate(self, key: str, value: bytes) -> None:
        try:
            self._open(key, value)
        except RemoteProtocolError as exc:
            raise ValueError(str(exc)) from exc  # what libp2p expects of a validator

    def select(self, key: str, values: list[bytes]) -> int:
        """The newest valid one; equal ones by their bytes, so that every node chooses the same."""
        best, choice = (-1, b""), 0
        for index, value in enumerate(values):
            try:
                rank = (self._open(key, value).sequence_ms, value)
            except RemoteProtocolError:
                continue
            if rank > best:
                best, choice = rank, index
        return choice


def make_dht(host: Any, network: str) -> Any:
    validator = NamespacedValidator({NAMESPACE: _RecordValidator(network)}, strict_validation=True)
    return KadDHT(host, DHTMode.SERVER, validator=validator, validator_changed=True, strict_validation=True)


class Dht:
    def __init__(self, dht: Any, signer: Signer, network: str) -> None:
        self._dht, self._signer, self._network = dht, signer, network

    def _key(self, key: str) -> str:
        return f"/{NAMESPACE}/{self._network}/{key}"

    def _provider_key(self, key: str) -> str:
        """A sha2-256-shaped multihash in hex, whatever the string is; the network keeps networks apart."""
        return "1220" + keccak256(f"{self._network}/{key}".encode()).hex()

    async def add_peer(self, peer: PeerId) -> None:
        await self._dht.add_peer(libp2p_id(peer), skip_server_mode_check=True)

    async def _within(self, what: str, action: Callable[[], Awaitable[T]]) -> T:
        try:
            with trio.fail_after(limits.DHT_TIMEOUT_S):
                return await action()
        except trio.TooSlowError as exc:
            raise DeadlineError(f"the DHT did not {what} within {limits.DHT_TIMEOUT_S:.0f} s") from exc
        except Exception as exc:  # libp2p raises many unrelated families here
            raise NetworkError(f"the DHT failed to {what}: {exc}") from exc

    async def put(self, key: str, value: bytes) -> None:
        sealed = seal(self._signer, self._network, key, value, now_s=time.time(), ttl_s=limits.DHT_RECORD_TTL_S)
        await self._within("store the record", lambda: self._dht.put_value(self._key(key), sealed))

    async def get(self, key: str) -> bytes | None:
        found = await self._within("look up the record", lambda: self._dht.get_value(self._key(key)))
        if found is None:
            return None
        try:
            return unseal(found, self._network, key, now_s=time.time()).value
        except RemoteProtocolError as exc:
            log.info("DHT record refused", key=key, error=str(exc))
            return None

    async def provide(self, key: str) -> None:
        await self._within("announce", lambda: self._dht.provide(self._provider_key(key)))

    async def find_providers(self, key: str, limit: int) -> list[Any]:
        """libp2p PeerInfos."""
        found = await self._within("find providers", lambda: self._dht.find_providers(self._provider_key(key), limit))
        return list(found)[:limit]

    async def find_peer(self, peer: PeerId) -> list[Any]:
        """Multiaddrs, empty when unknown."""
        found = await self._within("find the peer", lambda: self._dht.find_peer(libp2p_id(peer)))
        return list(found.addrs) if found is not None else []
