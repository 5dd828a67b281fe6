"""Two nodes, as far as activities need them: memory network, rpc, data, content, storage; real wasmtime workers."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio
import wasmtime

from golemp2p.activity.receipts import Notary
from golemp2p.activity.service import ActivityService
from golemp2p.core.agreement import Agreement, AgreementState, Role
from golemp2p.core.ids import Address, AgreementId, PeerId, SubscriptionId, new_agreement_id
from golemp2p.core.manifest import OutboundRule
from golemp2p.core.peer import address_of
from golemp2p.core.properties import Properties
from golemp2p.errors import NotFoundError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.data import DataService
from golemp2p.net.memory import MemoryHub, MemoryNetwork, open_memory_network
from golemp2p.net.rpc import Rpc
from golemp2p.runtimes.base import Runtime
from golemp2p.runtimes.wasm.runtime import WasmRuntime
from golemp2p.storage.content import Content, ContentStore
from golemp2p.storage.engine import Storage, open_storage
from golemp2p.vpn.outbound import Resolve, look_up
from golemp2p.vpn.service import VpnService

USAGE = ["golem.usage.duration_sec", "golem.usage.cpu_sec", "golem.usage.fuel"]


@dataclass
class Node:
    key: NodeKey
    network: MemoryNetwork
    storage: Storage
    content: ContentStore
    data: DataService
    service: ActivityService
    vpn: VpnService
    agreements: dict[AgreementId, Agreement] = field(default_factory=dict)


@dataclass
class Pair:
    hub: MemoryHub
    requestor: Node
    provider: Node

    async def publish(self, data: bytes, directory: Path) -> tuple[str, Content]:
        """A file of the requestor's, by its URL."""
        path = directory / f"publish-{secrets.token_hex(4)}"
        path.write_bytes(data)
        content = await self.requestor.content.add_file(path)
        return f"gftp://{self.requestor.key.address}/{content.sha3_256}", content

    def agree(
        self, package_url: str, *, valid_s: float = 3600.0, demand: Mapping[str, float] | None = None
    ) -> AgreementId:
        """An approved agreement, known to both."""
        now = time.time()
        properties: Properties = {"golem.srv.comp.task_package": package_url, **(demand or {})}
        offer: Properties = {
            "golem.runtime.name": "wasmtime",
            "golem.inf.mem.gib": 0.125,
            "golem.inf.storage.gib": 0.5,
            "golem.com.usage.vector": list(USAGE),
        }
        agreement = Agreement(
            id=new_agreement_id(),
            role=Role.REQUESTOR,
            requestor=self.requestor.key.peer_id,
            provider=self.provider.key.peer_id,
            demand_id=SubscriptionId("d"),
            offer_id=SubscriptionId("o"),
            demand=properties,
            offer=offer,
            demand_constraints="()",
            offer_constraints="()",
            content=b"{}",
            created_at=now,
            valid_to=now + valid_s,
            state=AgreementState.APPROVED,
        )
        self.requestor.agreements[agreement.id] = agreement
        self.provider.agreements[agreement.id] = replace(agreement, role=Role.PROVIDER)
        return agreement.id


async def _peer_of(network: MemoryNetwork, address: Address) -> PeerId | None:
    return next((info.peer for info in network.peers() if address_of(info.peer) == address), None)


@asynccontextmanager
async def open_node(
    hub: MemoryHub,
    directory: Path,
    runtimes: Mapping[str, Runtime],
    *,
    key: NodeKey | None = None,
    database: Path | None = None,
    agreements: dict[AgreementId, Agreement] | None = None,
    configure: Callable[[ActivityService], None] = lambda _: None,
    notary: Notary | None = None,
    outbound: tuple[str, ...] = (),
    resolve: Resolve = look_up,
) -> AsyncIterator[Node]:
    key = key or NodeKey.generate()
    known = {} if agreements is None else agreements

    async def agreement(agreement_id: AgreementId) -> Agreement:
        try:
            return known[agreement_id]
        except KeyError:
            raise NotFoundError(f"there is no agreement {agreement_id}") from None

    async with open_memory_network(hub, key) as network, open_storage(database) as storage:
        content = ContentStore(directory / "content")
        data = DataService(network, content)
        data.serve()
        rpc = Rpc(network)
        rule = OutboundRule(outbound)
        vpn = VpnService(network, rpc, lambda address: _peer_of(network, address), rule=rule, resolve=resolve)
        service = ActivityService(
            storage=storage,
            rpc=rpc,
            data=data,
            content=content,
            agreement=agreement,
            runtimes=runtimes,
            work_root=directory / "activities",
            notary=notary,
            vpn=vpn.provider,
        )
        configure(service)
        async with trio.open_nursery() as nursery:
            await nursery.start(rpc.run)
            await nursery.start(vpn.run)
            await nursery.start(service.run)
            yield Node(key, network, storage, content, data, service, vpn, known)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_pair(directory: Path) -> AsyncIterator[Pair]:
    hub = MemoryHub()
    async with (
        open_node(hub, directory / "r", {}) as requestor,
        open_node(hub, directory / "p", {"wasmtime": WasmRuntime(directory / "cache")}) as provider,
    ):
        await requestor.network.connect(provider.network.addresses()[0])
        yield Pair(hub, requestor, provider)


def wat(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))
