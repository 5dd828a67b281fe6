"""The payee checks payment notices against the chain: nothing is SETTLED on anybody's word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NoReturn

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import PeerId
from golemp2p.core.money import format_amount
from golemp2p.core.payment import MinedTransfers, PaymentNotice, Side, judge_claim
from golemp2p.core.peer import address_of, recover_address
from golemp2p.errors import (
    ConflictError,
    GolemError,
    NotFoundError,
    PolicyError,
    RemoteError,
    RemoteProtocolError,
)
from golemp2p.payment import books, journaling
from golemp2p.payment.drivers.base import ChainDriver
from golemp2p.payment.incoming import Step
from golemp2p.payment.ports import Context
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage import payment_notices as repo
from golemp2p.storage.payment_notices import StoredPayment

log = structlog.get_logger(__name__)


class Claims:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._looks: dict[str, int] = {}  # of each open notice, by id

    def receive(self, peer: PeerId, notice: PaymentNotice, signature: bytes) -> Step:
        """Store a notice for checking. Idempotent by its id. Raises, here or in the job, PolicyError,
        RemoteProtocolError, NotFoundError, and RemoteError "busy" while too many of the peer's are open."""
        context = self._context
        if recover_address(notice.digest(context.domain), signature) != address_of(peer):
            raise RemoteProtocolError("the payment notice's signature is not its sender's")
        if notice.payer != address_of(peer):
            raise PolicyError(f"the payment notice is about a payment of {notice.payer}, which is not its sender")

        def store(connection: Connection) -> None:
            known = repo.find_payments(connection, id=notice.id, side=Side.PAYEE)
            if known:
                if known[0].notice != notice:
                    raise ConflictError(f"payment notice {notice.id} was received before, with other contents")
                return
            for agreement_id, _ in notice.shares:
                parties = ledger_repo.get_parties(connection, agreement_id, Side.PAYEE)
                if parties is None:
                    raise NotFoundError(f"nothing was billed under agreement {agreement_id}")
                if parties.peer != peer:
                    raise PolicyError(f"agreement {agreement_id} is not between us")
                if (parties.payer, parties.payee, parties.platform) != (notice.payer, notice.payee, notice.platform):
                    raise RemoteProtocolError("the payment notice's platform, payer or payee is not the agreed one")
            if repo.count_claimed(connection, peer) >= limits.MAX_OPEN_NOTICES:
                raise RemoteError(
                    f"{limits.MAX_OPEN_NOTICES} of your payment notices wait for the chain already", code="busy"
                )
            if repo.count_refused(connection, peer) >= limits.MAX_REFUSED_NOTICES:
                raise PolicyError(
                    f"{limits.MAX_REFUSED_NOTICES} of your payment notices were not borne out by the chain:"
                    " no more are taken"
                )
            stored = StoredPayment(notice, Side.PAYEE, peer, signature, repo.CLAIMED, "", context.clock())
            repo.insert_payment(connection, stored)
            journaling.notice(connection, Side.PAYEE, notice, signature, now=stored.stored_at)

        return Step(store, context.claims.tell)

    async def run(self) -> NoReturn:
        """Looks at the chain while a notice is unconfirmed, ever more rarely; asks it nothing otherwise."""
        context = self._context
        pause_s = limits.CLAIM_RETRY_S
        while True:
            news = context.claims.next()
            waiting = await context.storage.run(lambda c: repo.find_payments(c, side=Side.PAYEE, state=repo.CLAIMED))
            self._looks = {p.notice.id: self._looks.get(p.notice.id, 0) for p in waiting}
            by_platform: dict[str, list[StoredPayment]] = defaultdict(list)
            for stored in waiting:
                by_platform[stored.notice.platform].append(stored)
            moved: list[str] = []
            async with trio.open_nursery() as nursery:  # a dead network holds up its own payments only
                for platform, group in by_platform.items():
                    nursery.start_soon(self._check_all, platform, round_robin(group, self._looks), moved)
            if moved:
                pause_s = limits.CLAIM_RETRY_S  # there may be more where these came from
            with trio.move_on_after(pause_s if waiting else float("inf")):
                await news.wait()
            pause_s = limits.CLAIM_RETRY_S if news.is_set() else min(limits.CLAIM_RETRY_MAX_S, 2 * pause_s)

    async def _check_all(self, platform: str, group: list[StoredPayment], moved: list[str]) -> None:
        """``moved`` gets the ids of those that are decided now."""
        try:
            driver = self._context.driver(platform)
            for stored in group:
                self._looks[stored.notice.id] += 1
                if await self.check(driver, stored) != repo.CLAIMED:
                    moved.append(stored.notice.id)
        except GolemError as exc:
            log.warning("payment_check_failed", platform=platform, error=str(exc))

    async def check(self, driver: ChainDriver, stored: StoredPayment) -> str:
        """The payment's new state."""
        context, notice = self._context, stored.notice
        found = await driver.verify_transfer(notice.transaction)
        if found is None or not found.final:
            if context.clock() - stored.stored_at < limits.CLAIM_PATIENCE_S:
                return repo.CLAIMED
            reason = f"transaction {notice.transaction} is not on the chain"
            await context.storage.run(lambda c: self._refuse(c, notice, reason))
            return repo.REFUSED
        state = await context.storage.run(lambda c: self._decide(c, driver, notice, found))
        context.events.tell()
        return state

    def _decide(self, connection: Connection, driver: ChainDriver, notice: PaymentNotice, found: MinedTransfers) -> str:
        """In one transaction: so that no event of the chain can pay for two things."""
        network, now = driver.network, self._context.clock()
        used = repo.used_log_indices(connection, network.chain_id, notice.transaction)
        legs, reason = judge_claim(
            notice,
            found,
            token=network.token,
            used_log_indices=used,
            distributors=[contract for contract in (network.batch, network.multi) if contract],
            lock=network.lock,
        )
        if reason:
            self._refuse(connection, notice, reason)
            return repo.REFUSED
        repo.use_legs(connection, network.chain_id, notice.transaction, legs, notice.id)
        for agreement_id, amount in notice.shares:
            parties = ledger_repo.get_parties(connection, agreement_id, Side.PAYEE)
            assert parties is not None, agreement_id
            ledger = ledger_repo.get_ledger(connection, agreement_id, Side.PAYEE).credit(amount)
            ledger_repo.put_ledger(connection, parties, ledger)
            books.settle_covered(connection, agreement_id, Side.PAYEE, ledger, now=now)
        repo.mark_payment(connection, notice.id, Side.PAYEE, state=repo.CONFIRMED)
        journaling.payment(
            connection,
            Side.PAYEE,
            notice,
            chain_id=network.chain_id,
            block_number=found.block_number,
            block_hash=found.block_hash,
            legs=legs,
            now=now,
        )
        log.info(
            "payment_received",
            payer=notice.payer,
            amount=format_amount(notice.amount),
            transaction=notice.transaction,
        )
        return repo.CONFIRMED

    def _refuse(self, connection: Connection, notice: PaymentNotice, reason: str) -> None:
        log.warning("payment_refused", payer=notice.payer, transaction=notice.transaction, reason=reason)
        repo.mark_payment(connection, notice.id, Side.PAYEE, state=repo.REFUSED, reason=reason)
        journaling.refused_payment(connection, Side.PAYEE, notice, reason, now=self._context.clock())


def round_robin(waiting: Sequence[StoredPayment], looks: Mapping[str, int]) -> list[StoredPayment]:
    """One of each peer, then the second of each, up to ``NOTICES_PER_LOOK``; those seldom looked at come first."""
    by_peer: dict[PeerId, list[StoredPayment]] = defaultdict(list)
    for stored in sorted(waiting, key=lambda p: looks.get(p.notice.id, 0)):
        if len(by_peer[stored.peer]) < limits.NOTICES_PER_LOOK:
            by_peer[stored.peer].append(stored)
    rounds = zip_longest(*by_peer.values())
    return [stored for one_round in rounds for stored in one_round if stored is not None]
