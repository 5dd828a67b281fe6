"""The payment service of a node: what REST, the other nodes and node.py talk to.

``run`` owns all its tasks: delivery of messages, answers for absent agents, checks of incoming payments, settlement.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.eip712 import Domain
from golemp2p.core.ids import Address, AgreementId, PeerId
from golemp2p.core.payment import DocumentKind, Side
from golemp2p.errors import GolemError
from golemp2p.identity.keys import Signer
from golemp2p.payment import books
from golemp2p.payment.allocations import Allocations
from golemp2p.payment.answers import Answers
from golemp2p.payment.channels.service import Channels
from golemp2p.payment.claims import Claims
from golemp2p.payment.documents import Documents
from golemp2p.payment.drivers.base import ChainDriver
from golemp2p.payment.incoming import Incoming, Prepare, Step
from golemp2p.payment.messages import document_of, notice_of, parse
from golemp2p.payment.outbox import Outbox
from golemp2p.payment.overdue import Overdue, overdue_problem
from golemp2p.payment.ports import Agreements, Clock, Context, KnowsActivity, PaymentSettings, Rpc
from golemp2p.payment.purse import Purse
from golemp2p.payment.settlement import Checkpoint, PlatformStatus, SettlementEngine
from golemp2p.payment.wallet import Wallet
from golemp2p.storage import journal
from golemp2p.storage import payment as repo
from golemp2p.storage import payment_notices as notices
from golemp2p.storage.engine import Storage, StorageError
from golemp2p.storage.payment import PaymentEvent, StoredDocument
from golemp2p.storage.payment_notices import StoredPayment
from golemp2p.wire.p2p import payment as wire

log = structlog.get_logger(__name__)

R = TypeVar("R")
EVENT_TYPES: Final = frozenset({"Received", "Accepted", "Rejected", "Failed", "Settled", "Cancelled"})
DEFAULT_EVENT_TYPES: Final[Mapping[Side, frozenset[str]]] = {
    Side.PAYER: frozenset({"Received", "Cancelled"}),
    Side.PAYEE: frozenset({"Accepted", "Rejected", "Failed", "Settled"}),
}


@dataclass(frozen=True)
class Account:
    """One platform on which this node can pay and be paid."""

    platform: str
    address: Address
    driver: str
    network: str
    token: str


@dataclass(frozen=True)
class Balance:
    """Of the node's account, in the smallest units. ``problem``: why the chain could not be asked."""

    account: Account
    tokens: int | None
    gas_wei: int | None
    problem: str


class PaymentService:
    """``drivers`` by platform name; ``clock`` gives seconds since the epoch.

    ``knows_activity``: whether this node created an activity; without it the node's own acceptance believes the bill.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        rpc: Rpc,
        agreements: Agreements,
        signer: Signer,
        domain: Domain,
        drivers: Mapping[str, ChainDriver],
        clock: Clock,
        settings: PaymentSettings | None = None,
        knows_activity: KnowsActivity | None = None,
        checkpoint: Checkpoint | None = None,
        voucher_signer: Signer | None = None,
    ) -> None:
        settings = settings or PaymentSettings()
        purse = Purse(signer, settings.caps, voucher_signer=voucher_signer)
        self._context = Context(storage, signer, domain, drivers, agreements, clock, settings, knows_activity, purse)
        self.journal_problem = ""  # what was wrong with it at the start
        self.allocations = Allocations(self._context)
        self.channels = Channels(self._context, rpc, settings.channels)
        self.documents = Documents(self._context, self.channels)
        self.settlement = SettlementEngine(self._context, checkpoint=checkpoint)
        self.wallet = Wallet(self._context, self.settlement)
        self.overdue = Overdue(self._context)
        self._balances: dict[str, tuple[int, int]] = {}  # the last ones that a chain told, by platform
        self._claims = Claims(self._context)
        self._answers = Answers(self._context, self.documents)
        self._outbox = Outbox(self._context, rpc)
        prepared: dict[str, Prepare] = {
            wire.SEND_DEBIT_NOTE: self._on_debit_note,
            wire.SEND_INVOICE: self._on_invoice,
            wire.ACCEPTANCE: self._on_acceptance,
            wire.REJECTION: self._on_rejection,
            wire.PAYMENT_NOTICE: self._on_notice,
        }
        rpc.serve(wire.PROTOCOL, Incoming(self._context, prepared, self.channels.handlers()).handlers())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. What a killed process left undone is taken up first."""
        await self._check_journal()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_over_bad_disks, "outbox", self._outbox.run)
            nursery.start_soon(_over_bad_disks, "answers", self._answers.run)
            nursery.start_soon(_over_bad_disks, "claims", self._claims.run)
            nursery.start_soon(_over_bad_disks, "settlement", self.settlement.run)
            nursery.start_soon(_over_bad_disks, "overdue", self.overdue.run)
            nursery.start_soon(_over_bad_disks, "channels", self.channels.run)
            task_status.started()

    async def _check_journal(self) -> None:
        """Its newest part, at each start. A broken one is no reason to stop: it is shown until it is mended."""
        last = limits.JOURNAL_CHECK_ENTRIES
        self.journal_problem = await self._context.storage.run(lambda c: journal.first_break(c, last=last))
        if self.journal_problem:
            log.error("journal_broken", problem=self.journal_problem)

    def on_peer(self, peer: PeerId, connected: bool) -> None:
        """A ``PeerListener`` of the network: a peer that comes back gets its messages at once."""
        if connected:
            self._outbox.peer_is_back(peer)

    async def channel_refusal(self, agreement_id: AgreementId, *, timeout_s: float) -> str:
        """Why we, as provider, should not work under an agreement of mode channel. Raises NotFoundError."""
        agreement = await self._context.agreements.agreement(agreement_id)
        return await self.channels.refusal(agreement, timeout_s=timeout_s)

    # --- reading --------------------------------------------------------------------------------------------------

    def accounts(self) -> list[Account]:
        address = self._context.signer.address
        networks = [driver.network for driver in self._context.drivers.values()]
        return [Account(n.platform, address, n.driver, n.name, n.symbol) for n in networks]

    async def balances(
        self, *, timeout_s: float = limits.ALLOCATION_CHECK_TIMEOUT_S, network: str | None = None
    ) -> list[Balance]:
        """All platforms at once. One that does not answer in time is shown as it was, and why; it holds up none.

        ``network``: only this one, by its own or its platform's name.
        """
        result: dict[str, Balance] = {}

        async def ask(account: Account) -> None:
            driver = self._context.drivers[account.platform]
            try:
                with trio.fail_after(timeout_s):
                    tokens = await driver.balance(account.address)
                    gas = await driver.gas_balance(account.address)
                self._balances[account.platform] = tokens, gas
                result[account.platform] = Balance(account, tokens, gas, "")
            except (GolemError, trio.TooSlowError) as exc:
                tokens_then, gas_then = self._balances.get(account.platform, (None, None))
                problem = str(exc) or "no answer in time"
                result[account.platform] = Balance(account, tokens_then, gas_then, problem)

        accounts = [a for a in self.accounts() if network in (None, a.network, a.platform)]
        async with trio.open_nursery() as nursery:
            for account in accounts:
                nursery.start_soon(ask, account)
        return [result[account.platform] for account in accounts]

    async def status(self) -> list[PlatformStatus]:
        """From the database alone. A platform without another problem has that of its channels, or of bills which are
        overdue there."""
        bills, now = await self.overdue.bills(), self._context.clock()
        result = []
        for s in await self.settlement.status():
            problem = s.problem or await self.channels.problem(s.platform)
            overdue = [b for b in bills if b.platform == s.platform]
            result.append(replace(s, problem=problem or overdue_problem(overdue, now=now)))
        return result

    async def document(self, kind: DocumentKind, document_id: str) -> StoredDocument:
        """Raises NotFoundError."""
        return await self._context.storage.run(lambda c: books.get_document(c, kind, document_id, None))

    async def list_documents(
        self, kind: DocumentKind, *, after: float | None = None, limit: int | None = None
    ) -> list[StoredDocument]:
        return await self._context.storage.run(lambda c: repo.find_documents(c, kind=kind, after=after, limit=limit))

    async def documents_of(self, agreement_id: AgreementId) -> list[str]:
        """Ids of all debit notes and invoices."""
        found = await self._context.storage.run(lambda c: repo.find_documents(c, agreement_id=agreement_id))
        return [stored.document.id for stored in found]

    async def payments(
        self,
        *,
        after: float | None = None,
        limit: int | None = None,
        timeout_s: float = 0.0,
        payment_id: str | None = None,
        document_id: str | None = None,
        session_id: str | None = None,
        driver: str | None = None,
        network: str | None = None,
    ) -> list[StoredPayment]:
        """Made and received, oldest first; an unconfirmed or refused one says so. Waits for one."""
        platforms = {a.platform for a in self.accounts() if driver in (None, a.driver) and network in (None, a.network)}

        def look(connection: Connection) -> list[StoredPayment]:
            found = [
                p
                for p in notices.find_payments(connection, id=payment_id, after=after)
                if ((driver is None and network is None) or p.notice.platform in platforms)
                and document_id in (None, *p.notice.document_ids)
                and (session_id is None or _is_of_session(connection, p, session_id))
            ]
            return found[:limit]

        return await self._wait_for(look, timeout_s)

    async def _wait_for(
        self, look: Callable[[Connection], list[R]], timeout_s: float, question: Hashable = None
    ) -> list[R]:
        """What ``look`` finds: at once, or when there is something, or [] at the end of the time.

        ``question``: what others who ask the same have too; without news since the last look there is no other one.
        """
        context = self._context
        with trio.move_on_after(min(timeout_s, limits.MAX_LONG_POLL_S)):
            while True:
                news = context.events.next()
                if question is None or context.events.may_answer(question):
                    with trio.CancelScope(shield=True):  # one look even with no time to wait
                        found = await context.storage.run(look)
                    if found:
                        return found
                    context.events.had_no_answer(question, news)
                await news.wait()
        return []

    async def events(
        self,
        kind: DocumentKind,
        *,
        after_us: int = 0,
        limit: int = limits.MAX_POLL_EVENTS,
        timeout_s: float = 0.0,
        session_id: str | None = None,
        types: Mapping[Side, frozenset[str]] = DEFAULT_EVENT_TYPES,
    ) -> Sequence[PaymentEvent]:
        """Events newer than ``after_us`` (microseconds since the epoch): at once, or when there is one, or none."""
        wanted = dict(types)
        return await self._wait_for(
            lambda c: repo.find_events(c, kind, after_us=after_us, limit=limit, session_id=session_id, types=wanted),
            timeout_s,
            question=(kind, after_us, session_id, *sorted(wanted.items())),
        )

    # --- other nodes ----------------------------------------------------------------------------------------------

    async def _on_debit_note(self, peer: PeerId, body: Mapping[str, object]) -> Step:
        message = parse(wire.DebitNoteMessage, body)
        return await self.documents.receive(peer, document_of(message), message.signature)

    async def _on_invoice(self, peer: PeerId, body: Mapping[str, object]) -> Step:
        message = parse(wire.InvoiceMessage, body)
        return await self.documents.receive(peer, document_of(message), message.signature)

    async def _on_acceptance(self, peer: PeerId, body: Mapping[str, object]) -> Step:
        message = parse(wire.AcceptanceMessage, body)
        return self.documents.hear_acceptance(
            peer,
            DocumentKind(message.kind),
            message.document_id,
            accepted_at_ms=message.accepted_at,
            signature=message.signature,
        )

    async def _on_rejection(self, peer: PeerId, body: Mapping[str, object]) -> Step:
        message = parse(wire.RejectionMessage, body)
        return self.documents.hear_rejection(
            peer, DocumentKind(message.kind), message.document_id, code=message.code, message=message.message
        )

    async def _on_notice(self, peer: PeerId, body: Mapping[str, object]) -> Step:
        message = parse(wire.PaymentNoticeMessage, body)
        return self._claims.receive(peer, notice_of(message), message.signature)


def _is_of_session(connection: Connection, payment: StoredPayment, session_id: str) -> bool:
    return any(
        document.session_id == session_id
        for document_id in payment.notice.document_ids
        for document in repo.find_documents(connection, id=document_id)
    )


async def _over_bad_disks(task: str, run: Callable[[], Awaitable[None]]) -> None:
    """A full or locked disk ends no node: the task begins again after a pause, with what the tables say."""
    while True:
        try:
            await run()
        except* StorageError as group:
            pause_s = limits.STORAGE_RETRY_S
            log.warning("payment_task_failed", task=task, error=str(group.exceptions[0]), again_in_s=pause_s)
        await trio.sleep(limits.STORAGE_RETRY_S)
