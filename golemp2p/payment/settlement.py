"""The settlement engine: pays what is owed, each debt exactly once, whatever crashes.

Theory of operation. A debt (obligation) is written in the transaction that accepts a document. The engine nets debts
by payee, takes a nonce from its own table, signs, and STORES the signed bytes; only then it broadcasts. From there on
a crash at any instruction only makes it send the same bytes again, and one nonce admits one transaction. A slot (the
nonce) lets go of its debts in two cases only: its transaction is finally reverted, or a foreign one finally took the
nonce. See protocols/payment.md.

Everything that can go wrong is a state that is visible in :meth:`SettlementEngine.status` and is tried again:
chain down, too few tokens, too little gas. The engine asks the chain nothing while nothing is owed.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, NoReturn

import structlog
import trio
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import Address, AgreementId, DocumentId, PeerId
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import SLOT, PaymentNotice, Side, SlotEvent, SlotState
from golemp2p.errors import GolemError, PolicyError, UsageError
from golemp2p.payment import books
from golemp2p.payment.drivers.base import ChainDriver, OutOfGasFundsError, Receipt
from golemp2p.payment.messages import notice_message
from golemp2p.payment.outbox import post
from golemp2p.payment.ports import Context
from golemp2p.storage import payment as ledger_repo
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage.payment_settlement import OPEN_SLOTS, Obligation, Slot, StoredPayment
from golemp2p.wire.p2p import payment as wire

log = structlog.get_logger(__name__)

# One plain ERC-20 transfer per payee. A batch contract with an on-chain id will be a second mode.
MODE_TRANSFER: Final = "transfer"

Checkpoint = Callable[[str], Awaitable[None]]


class OutOfTokensError(PolicyError):
    """The account holds less of the token than it owes."""

    code = "out_of_tokens"


class PaymentRevertedError(PolicyError):
    """The token contract refused a transfer."""

    code = "payment_reverted"


class PayeeParkedError(PolicyError):
    """The token contract refuses transfers to this payee; others are paid all the same."""

    code = "payee_parked"


@dataclass(frozen=True)
class PlatformStatus:
    """What the engine is doing on one platform. ``problem`` is "" when all is well."""

    platform: str
    owed: Amount  # accepted and not finally paid
    in_flight: int
    problem: str


class SettlementEngine:
    """``checkpoint`` is awaited between the durable steps with their name; tests stop (or kill) the process there."""

    def __init__(self, context: Context, *, checkpoint: Checkpoint | None = None) -> None:
        self._context = context
        self._checkpoint = checkpoint
        self._running: set[str] = set()
        self._problems: dict[str, str] = {}
        self._chain_nonces: dict[str, int] = {}
        self._sent_in_this_run: set[int] = set()

    async def run(self) -> NoReturn:
        """Start a task for each platform with work; it ends when nothing is left to do there."""
        async with trio.open_nursery() as nursery:
            while True:
                news = self._context.debts.next()
                for platform in await self._context.storage.run(repo.platforms_with_work):
                    if platform not in self._running:
                        self._running.add(platform)
                        nursery.start_soon(self._serve, platform)
                await news.wait()
        raise AssertionError("the nursery does not end")  # pragma: no cover

    async def status(self) -> list[PlatformStatus]:
        """From the database alone: a dead chain cannot make it hang."""

        def read(connection: Connection) -> list[PlatformStatus]:
            return [
                PlatformStatus(
                    platform,
                    ledger_repo.owed(connection, Side.PAYER, platform=platform),
                    len(repo.find_slots(connection, platform, states=OPEN_SLOTS)),
                    self._problems.get(platform, ""),
                )
                for platform in sorted({*self._context.drivers, *self._problems})
            ]

        return await self._context.storage.run(read)

    async def _serve(self, platform: str) -> None:
        pause_s = limits.SETTLEMENT_RETRY_S
        try:
            while True:
                news = self._context.debts.next()
                try:
                    busy = await self.step(platform)
                    self._note(platform, "")
                    pause_s, wait_s = limits.SETTLEMENT_RETRY_S, self._context.driver(platform).network.poll_s
                except GolemError as exc:
                    self._note(platform, str(exc))
                    busy, wait_s = True, pause_s
                    pause_s = min(limits.SETTLEMENT_RETRY_MAX_S, 2 * pause_s)
                    if isinstance(exc, PolicyError) and await self._awaits_chain(platform):
                        wait_s = self._context.driver(platform).network.poll_s  # what others get is not held up
                if not busy and not news.is_set():
                    return
                with trio.move_on_after(wait_s):
                    await news.wait()
        finally:
            self._running.discard(platform)

    async def _awaits_chain(self, platform: str) -> bool:
        states = (SlotState.SENT, SlotState.MINED)
        return bool(await self._context.storage.run(lambda c: repo.find_slots(c, platform, states=states)))

    def _note(self, platform: str, problem: str) -> None:
        if problem != self._problems.get(platform, ""):
            if problem:
                log.warning("settlement_problem", platform=platform, problem=problem)
            else:
                log.info("settlement_recovered", platform=platform)
            self._problems[platform] = problem

    async def step(self, platform: str) -> bool:
        """Push everything on one platform as far as it goes now. True: look again soon.

        Raises what stands in the way.
        """
        driver = self._context.driver(platform)
        storage = self._context.storage
        problems: list[GolemError] = []
        for slot in await storage.run(lambda c: repo.find_slots(c, platform, states=OPEN_SLOTS)):
            try:
                await self._advance(driver, slot)
            except PolicyError as exc:  # of this slot alone: the others go on
                problems.append(exc)
        problems += await self._plan(driver)
        for slot in await storage.run(lambda c: repo.find_slots(c, platform, states=(SlotState.PLANNED,))):
            await self._advance(driver, slot)
        if problems:
            raise problems[0]
        return platform in await storage.run(repo.platforms_with_work)

    async def _reached(self, step: str) -> None:
        if self._checkpoint is not None:
            await self._checkpoint(step)

    # --- planning ---------------------------------------------------------------------------------------------

    async def _plan(self, driver: ChainDriver) -> list[GolemError]:
        """New slots for unplanned debts, netted by payee, as far as money and the window of nonces reach.

        A payee that cannot be paid is passed over; why is in the answer.
        """
        context, platform = self._context, driver.network.platform
        account = context.signer.address
        debts = await context.storage.run(lambda c: repo.unplanned_obligations(c, platform))
        open_slots = await context.storage.run(lambda c: repo.find_slots(c, platform, states=OPEN_SLOTS))
        groups: dict[tuple[Address, PeerId], list[Obligation]] = defaultdict(list)
        problems: list[GolemError] = []
        for debt in debts:
            if debt.payer != account:
                problems.append(
                    UsageError(f"{format_amount(debt.amount)} is owed by {debt.payer}, whose key is not here")
                )
            elif parked := context.parking.why(platform, debt.payee, now=context.clock()):
                problems.append(self._parked(debt.payee, parked))
            else:
                groups[debt.payee, debt.peer].append(debt)
        room = limits.MAX_SLOTS_IN_FLIGHT - len(open_slots)
        if not groups or room <= 0:
            return problems
        unmined = [slot for slot in open_slots if slot.state is not SlotState.MINED]
        tokens = await driver.balance(account) - sum(slot.amount for slot in unmined)
        fee_each = await driver.transfer_fee(await driver.fees())
        gas = await driver.gas_balance(account) - fee_each * len(unmined)
        for (payee, _), group in groups.items():
            if room <= 0:
                break
            total = Amount(sum(debt.amount for debt in group))
            if total > tokens:
                problems.append(
                    OutOfTokensError(
                        f"account {account} lacks {format_amount(total - tokens)} {driver.network.symbol} to pay"
                        f" {format_amount(total)} to {payee}",
                        hint="send tokens to it; the payment goes out by itself then",
                    )
                )
                continue
            if fee_each > gas:
                problems.append(
                    OutOfGasFundsError(
                        f"account {account} lacks {format_amount(fee_each - gas)} of the chain's own coin for the fee",
                        hint="send some to it; the payment goes out by itself then",
                    )
                )
                break
            if refusal := await driver.refusal(account, payee, total):
                context.parking.refused(platform, payee, refusal, now=context.clock())
                problems.append(self._parked(payee, refusal))
                continue
            await self._open_slot(driver, payee, total, [debt.id for debt in group])
            tokens, gas, room = tokens - total, gas - fee_each, room - 1
        return problems

    def _parked(self, payee: Address, reason: str) -> PayeeParkedError:
        return PayeeParkedError(
            f"payments to {payee} wait: {reason}",
            hint="others are paid; amend an allocation or start the node again to try at once",
        )

    async def _open_slot(self, driver: ChainDriver, payee: Address, amount: Amount, debts: list[int]) -> None:
        context, network = self._context, driver.network
        account, now = context.signer.address, context.clock()
        # Ours is the truth; the chain is asked once a run, in case the account was used elsewhere meanwhile.
        if network.platform not in self._chain_nonces:
            self._chain_nonces[network.platform] = await driver.nonce(account)
        chain_nonce = self._chain_nonces[network.platform]

        def plan(connection: Connection) -> None:
            ours = repo.highest_nonce(connection, network.chain_id, account)
            repo.open_slot(
                connection,
                batch_id=str(uuid.uuid4()),
                obligation_ids=debts,
                mode=MODE_TRANSFER,
                platform=network.platform,
                chain_id=network.chain_id,
                account=account,
                nonce=max(chain_nonce, 0 if ours is None else ours + 1),
                payee=payee,
                amount=amount,
                now=now,
            )

        await context.storage.run(plan)
        await self._reached("planned")

    # --- one slot ---------------------------------------------------------------------------------------------

    async def _advance(self, driver: ChainDriver, slot: Slot) -> None:
        """Until the slot waits for the chain or is done."""
        steps = {
            SlotState.PLANNED: self._sign,
            SlotState.SIGNED: self._broadcast,
            SlotState.SENT: self._look,
            SlotState.MINED: self._confirm,
        }
        while slot.state in steps:
            after = await steps[slot.state](driver, slot)
            if after.state is slot.state:
                return
            slot = after

    async def _sign(self, driver: ChainDriver, slot: Slot) -> Slot:
        assert slot.mode == MODE_TRANSFER, slot
        signed = driver.sign_transfer(self._context.signer, slot.nonce, slot.payee, slot.amount, await driver.fees())
        after = replace(slot, state=SLOT.next(slot.state, SlotEvent.SIGN))

        def store(connection: Connection) -> None:
            repo.add_version(
                connection,
                slot.id,
                hash=signed.hash,
                raw=signed.raw,
                max_fee=signed.fees.max_fee,
                tip=signed.fees.tip,
            )
            repo.update_slot(connection, after)

        await self._context.storage.run(store)
        await self._reached("signed")
        return after

    async def _broadcast(self, driver: ChainDriver, slot: Slot) -> Slot:
        """The newest stored version. Whether it was sent before does not matter: the bytes are the same."""
        (_, raw), *_ = await self._context.storage.run(lambda c: repo.get_versions(c, slot.id))
        await driver.broadcast(raw)
        self._sent_in_this_run.add(slot.id)
        await self._reached("broadcast")
        after = replace(slot, state=SLOT.next(slot.state, SlotEvent.SEND), sent_at=self._context.clock())
        await self._context.storage.run(lambda c: repo.update_slot(c, after))
        await self._reached("sent")
        return after

    async def _look(self, driver: ChainDriver, slot: Slot) -> Slot:
        """Is any version mined? If not for long, send it again, unless a foreign transaction has its nonce."""
        receipt = await self._find_receipt(driver, slot)
        if receipt is not None:
            after = replace(
                slot,
                state=SLOT.next(slot.state, SlotEvent.MINE),
                transaction=receipt.transaction,
                block_number=receipt.block_number,
                block_hash=receipt.block_hash,
            )
            await self._context.storage.run(lambda c: repo.update_slot(c, after, fee_wei=receipt.fee_wei))
            await self._reached("mined")
            return after
        network = driver.network
        # After a restart at once: the process may have died before, during or after the broadcast.
        recent = self._context.clock() - (slot.sent_at or 0.0) < network.rebroadcast_s
        if recent and slot.id in self._sent_in_this_run:
            return slot
        if await driver.nonce(slot.account, depth=network.confirmations) > slot.nonce:
            return await self._lose_nonce(driver, slot)
        return await self._broadcast(driver, slot)

    async def _find_receipt(self, driver: ChainDriver, slot: Slot) -> Receipt | None:
        """Of whichever version of the slot was mined."""
        for transaction, _ in await self._context.storage.run(lambda c: repo.get_versions(c, slot.id)):
            receipt = await driver.receipt(transaction)
            if receipt is not None:
                return receipt
        return None

    async def _lose_nonce(self, driver: ChainDriver, slot: Slot) -> Slot:
        """The nonce is used for good, and by none of our versions: their receipts are looked for once more, since the
        chain may have moved between the two questions."""
        if await self._find_receipt(driver, slot) is not None:
            return slot
        after = replace(slot, state=SLOT.next(slot.state, SlotEvent.LOSE_NONCE))
        log.warning("settlement_nonce_taken", platform=slot.platform, account=slot.account, nonce=slot.nonce)
        self._chain_nonces.pop(slot.platform, None)
        await self._release(after)
        return after

    async def _confirm(self, driver: ChainDriver, slot: Slot) -> Slot:
        assert slot.transaction is not None
        receipt = await driver.receipt(slot.transaction)
        if receipt is None or receipt.block_hash != slot.block_hash:
            after = replace(
                slot, state=SLOT.next(slot.state, SlotEvent.REORG), sent_at=0.0, block_number=None, block_hash=None
            )
            log.warning("settlement_reorganised", platform=slot.platform, transaction=slot.transaction)
            await self._context.storage.run(lambda c: repo.update_slot(c, after))
            return after
        if receipt.depth < driver.network.confirmations:
            return slot
        if not receipt.succeeded:
            after = replace(slot, state=SLOT.next(slot.state, SlotEvent.REVERT))
            await self._release(after)
            reason = f"payment {slot.transaction} was reverted by the token contract"
            self._context.parking.reverted(slot.platform, slot.payee, reason)
            raise PaymentRevertedError(reason)
        after = replace(slot, state=SLOT.next(slot.state, SlotEvent.FINALIZE))
        await self._context.storage.run(lambda c: self._finalize(c, after))
        self._context.parking.paid(slot.platform, slot.payee)
        log.info(
            "payment_settled",
            platform=slot.platform,
            payee=slot.payee,
            amount=format_amount(slot.amount),
            transaction=slot.transaction,
        )
        self._context.events.tell()
        self._context.outbox.tell()
        await self._reached("final")
        return after

    async def _release(self, slot: Slot) -> None:
        """FAILED or FOREIGN, finally: what it was to pay is owed again."""

        def release(connection: Connection) -> None:
            repo.update_slot(connection, slot)
            repo.free_batch(connection, slot.batch_id)

        await self._context.storage.run(release)
        await self._reached("released")

    def _finalize(self, connection: Connection, slot: Slot) -> None:
        """Paid: the ledgers, the documents, the payment and the notice to the payee, together."""
        context, now = self._context, self._context.clock()
        assert slot.transaction is not None
        repo.update_slot(connection, slot)
        repo.settle_batch(connection, slot.batch_id)
        shares: dict[AgreementId, Amount] = {}
        debts = repo.batch_obligations(connection, slot.batch_id)
        for debt in debts:
            shares[debt.agreement_id] = Amount(shares.get(debt.agreement_id, 0) + debt.amount)
        assert sum(shares.values()) == slot.amount, slot
        settled: list[DocumentId] = []
        for agreement_id, amount in shares.items():
            parties = ledger_repo.get_parties(connection, agreement_id, Side.PAYER)
            assert parties is not None, agreement_id
            ledger = ledger_repo.get_ledger(connection, agreement_id, Side.PAYER).pay(amount)
            ledger_repo.put_ledger(connection, parties, ledger)
            settled += books.settle_covered(connection, agreement_id, Side.PAYER, ledger, now=now)
        notice = PaymentNotice(
            id=slot.batch_id,
            payer=slot.account,
            payee=slot.payee,
            platform=slot.platform,
            transaction=slot.transaction,
            shares=tuple(shares.items()),
            document_ids=tuple(settled),
            paid_at_ms=round(now * 1000),
        )
        signature = context.signer.sign(notice.digest(context.domain))
        peer = debts[0].peer
        repo.insert_payment(connection, StoredPayment(notice, Side.PAYER, peer, signature, repo.CONFIRMED, "", now))
        post(connection, peer, wire.PAYMENT_NOTICE, notice_message(notice, signature), now=now)
