"""A requestor and a provider that settle through a channel of the real contract, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from golemp2p.core.agreement import Agreement, Role
from golemp2p.core.ids import AgreementId, DocumentId, PeerId
from golemp2p.core.money import Amount
from golemp2p.core.payment import DocumentKind, DocumentState, Side
from golemp2p.core.payment.vouchers import EXPOSURE, MODE, MODES
from golemp2p.identity.keys import NodeKey
from golemp2p.payment import PaymentSettings
from golemp2p.payment.channels.settings import ChannelSettings
from golemp2p.payment.drivers.base import ChainDriver
from golemp2p.payment.drivers.transactions import mint_call
from golemp2p.payment.ports import Clock
from golemp2p.payment.purse import Caps
from golemp2p.payment.service import PaymentService
from golemp2p.storage import channels as repo
from golemp2p.storage.channels import Channel
from golemp2p.storage.engine import Storage, open_storage
from tests.evm import OWNER
from tests.evmdriver import EvmChain, EvmDriver
from tests.unit.payment.world import (
    ACTIVITY,
    DOMAIN,
    PLATFORM,
    FakeAgreements,
    FakeRpc,
    clock,
    glm,
    make_agreement,
)

GRACE_S = 3600
SETTINGS = ChannelSettings(deposit=glm("10"), grace_s=GRACE_S, min_grace_s=600, claim_threshold=glm("5"))
NOTE, INVOICE = DocumentKind.DEBIT_NOTE, DocumentKind.INVOICE


def channel_agreement(requestor: NodeKey, provider: NodeKey, agreement_id: str, exposure: float = 1.0) -> Agreement:
    agreement = make_agreement(requestor, provider, agreement_id, began=clock())
    return replace(
        agreement,
        demand={**agreement.demand, MODE: "channel"},
        offer={**agreement.offer, MODES: ["batch", "channel"], EXPOSURE: exposure},
    )


class Node:
    def __init__(
        self,
        key: NodeKey,
        rpc: FakeRpc,
        driver: ChainDriver,
        storage: Storage,
        settings: ChannelSettings,
        clock: Clock = clock,
        *,
        caps: Caps | None = None,
        voucher_key: NodeKey | None = None,
    ) -> None:
        self.caps, self.voucher_key = caps or Caps(), voucher_key
        self.key, self.rpc, self.driver, self.storage, self.clock = key, rpc, driver, storage, clock
        self.agreements = FakeAgreements({})
        self.settings = settings
        self.service = self._make()
        self.scope = trio.CancelScope()

    def _make(self) -> PaymentService:
        return PaymentService(
            storage=self.storage,
            rpc=self.rpc,
            agreements=self.agreements,
            signer=self.key,
            domain=DOMAIN,
            drivers={PLATFORM: self.driver},
            clock=self.clock,
            settings=PaymentSettings(auto_accept_after_s=None, caps=self.caps, channels=self.settings),
            voucher_signer=self.voucher_key,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.CancelScope() as self.scope:
            await self.service.run(task_status=task_status)

    def stop(self) -> None:
        """As if the process were gone; its database stays."""
        self.scope.cancel()
        self.rpc.cut = True

    async def start(self, nursery: trio.Nursery) -> None:
        self.rpc.cut = False
        self.service = self._make()
        await nursery.start(self.run)

    async def channel(self, side: Side) -> Channel:
        (found,) = await self.storage.run(lambda c: repo.find_channels(c, side=side))
        return found


@dataclass
class Pair:
    """Two nodes with an agreement between them, on whatever chain."""

    requestor: Node
    provider: Node
    nursery: trio.Nursery

    def agreement(self, agreement_id: str = "ag1", exposure: float = 1.0) -> Agreement:
        """As the requestor's node sees it; the provider's node has its view of it."""
        agreement = channel_agreement(self.requestor.key, self.provider.key, agreement_id, exposure)
        self.requestor.agreements.known[agreement.id] = agreement
        self.provider.agreements.known[agreement.id] = replace(agreement, role=Role.PROVIDER)
        return agreement

    async def approved(self, agreement_id: str = "ag1") -> Agreement:
        """Prepared by the requestor, found good by the provider."""
        agreement = self.agreement(agreement_id)
        await self.requestor.service.channels.prepare(agreement)
        mine = self.provider.agreements.known[agreement.id]
        assert await self.provider.service.channels.refusal(mine, timeout_s=5) == ""
        return agreement

    async def bill(self, agreement: AgreementId, total: str, *, kind: DocumentKind = NOTE) -> str:
        """Issued, delivered and accepted."""
        documents = self.provider.service.documents
        if kind is NOTE:
            stored = await documents.issue_debit_note(agreement, ACTIVITY, glm(total), usage=[1.0, 1.0])
        else:
            stored = await documents.issue_invoice(agreement, glm(total), activity_ids=[ACTIVITY])
        document = stored.document
        await documents.send(kind, document.id)
        await until(lambda: self._received(kind, document.id))
        allocations = await self.requestor.service.allocations.list_live()
        await self.requestor.service.documents.accept(
            kind, document.id, amount=document.amount, allocation_id=allocations[0].id
        )
        return document.id

    async def _received(self, kind: DocumentKind, document_id: str) -> bool:
        found = await self.requestor.service.list_documents(kind)
        return any(s.document.id == document_id and s.side is Side.PAYER for s in found)

    async def vouched(self, total: str) -> None:
        """Until the provider's node has a voucher of so much."""

        async def there() -> bool:
            return (await self.provider.channel(Side.PAYEE)).cumulative == glm(total)

        await until(there)

    async def state(self, node: Node, kind: DocumentKind, document_id: str) -> DocumentState:
        return (await node.service.document(kind, DocumentId(document_id))).state

    async def settled(self, kind: DocumentKind, document_id: str) -> None:
        """On both sides."""
        for node in (self.requestor, self.provider):

            async def there(node: Node = node) -> bool:
                return await self.state(node, kind, document_id) is DocumentState.SETTLED

            await until(there)


@dataclass
class World(Pair):
    chain: EvmChain

    def tokens(self, node: Node) -> Amount:
        return Amount(self.chain.evm.balance(node.key.address))


async def until(look: Callable[[], Awaitable[bool]], timeout_s: float = 3600.0) -> None:
    """In virtual time."""
    with trio.fail_after(timeout_s):
        while not await look():  # noqa: ASYNC110 - virtual time: it costs nothing
            await trio.sleep(0.5)


@asynccontextmanager
async def open_channels(
    *,
    requestor: ChannelSettings = SETTINGS,
    provider: ChannelSettings = SETTINGS,
    budget: str = "50",
    caps: Caps | None = None,
    voucher_key: NodeKey | None = None,
) -> AsyncIterator[World]:
    """``caps`` and ``voucher_key``: of the requestor."""
    chain = EvmChain()
    wires: dict[PeerId, FakeRpc] = {}
    async with open_storage(None) as first, open_storage(None) as second, trio.open_nursery() as nursery:
        nodes: list[Node] = []
        for storage, settings in ((first, requestor), (second, provider)):
            key = NodeKey.generate()
            wires[key.peer_id] = rpc = FakeRpc(key.peer_id, wires)
            more = {"caps": caps, "voucher_key": voucher_key} if not nodes else {}
            nodes.append(Node(key, rpc, EvmDriver(chain), storage, settings, **more))  # type: ignore[arg-type]  # by name
            await nursery.start(nodes[-1].run)
        world = World(nodes[0], nodes[1], nursery, chain)
        chain.evm.send(OWNER, chain.evm.token, mint_call(nodes[0].key.address, glm("100")))
        await nodes[0].service.allocations.create(platform=PLATFORM, total=glm(budget))
        yield world
        nursery.cancel_scope.cancel()
