"""One nonce slot from signed to final: broadcast, look, bid higher, confirm, and what to do when it is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog
from sqlalchemy.engine import Connection

from golemp2p.core.payment import SLOT, Fees, SlotEvent, SlotState, first_bid, next_bid
from golemp2p.payment.drivers import transactions as calls
from golemp2p.payment.drivers.base import BroadcastRefusedError, Call, ChainDriver, Receipt
from golemp2p.payment.ports import Context
from golemp2p.payment.settlement.closing import Closing
from golemp2p.payment.settlement.gaps import blocks_of
from golemp2p.payment.settlement.states import (
    Checkpoint,
    FeesAboveCapError,
    NonceTakenError,
    PaymentRevertedError,
)
from golemp2p.storage import payment_settlement as repo
from golemp2p.storage.payment_settlement import Mode, Slot, Version

log = structlog.get_logger(__name__)
GWEI: Final = 10**9


class Slots:
    def __init__(self, context: Context, closing: Closing, reached: Checkpoint) -> None:
        self._context = context
        self._closing = closing
        self._reached = reached
        self._sent_in_this_run: set[int] = set()
        self.chain_nonces: dict[str, int] = {}  # by platform: asked once a run, in case the account was used elsewhere

    async def advance(self, driver: ChainDriver, slot: Slot) -> None:
        """Until the slot waits for the chain or is done. Raises what stands in the way."""
        steps = {
            SlotState.SIGNED: self._broadcast,
            SlotState.SENT: self._look,
            SlotState.MINED: self._confirm,
        }
        while slot.state in steps:
            after = await steps[slot.state](driver, slot)
            if after.state is slot.state:
                return
            slot = after
        self._sent_in_this_run.discard(slot.id)  # closed: a node that runs for years keeps none of them

    async def next_nonce(self, driver: ChainDriver) -> int:
        """The chain's, or the next after the highest that we ever took; ours is the truth while we run."""
        network, account = driver.network, self._context.purse.address
        ours = await self._context.storage.run(lambda c: repo.highest_nonce(c, network.chain_id, account))
        if network.platform not in self.chain_nonces:
            self.chain_nonces[network.platform] = await driver.nonce(account)
            if ours is not None and self.chain_nonces[network.platform] > ours + 1:
                log.warning(
                    "account_used_elsewhere",
                    platform=network.platform,
                    account=account,
                    hint="a wallet uses it too, or this database is an old copy: then compare payments before going on",
                )
        return max(self.chain_nonces[network.platform], 0 if ours is None else ours + 1)

    async def _broadcast(self, driver: ChainDriver, slot: Slot) -> Slot:
        """The newest stored version. Whether it was sent before does not matter: the bytes are the same."""
        newest, *_ = await self._context.storage.run(lambda c: repo.get_versions(c, slot.id))
        self._sent_in_this_run.add(slot.id)
        try:
            await driver.broadcast(newest.raw)
        except BroadcastRefusedError:
            # Perhaps the market has left the bid behind: what counts as sent can get a higher one.
            if slot.state is SlotState.SIGNED:
                tried = replace(slot, state=SLOT.next(slot.state, SlotEvent.SEND), sent_at=0.0)
                await self._context.storage.run(lambda c: repo.update_slot(c, tried))
            raise
        await self._reached("broadcast")
        after = replace(slot, state=SLOT.next(slot.state, SlotEvent.SEND), sent_at=self._context.clock())
        await self._context.storage.run(lambda c: repo.update_slot(c, after))
        await self._reached("sent")
        return after

    async def _look(self, driver: ChainDriver, slot: Slot) -> Slot:
        """Is any version mined? If not for long, bid more, or send it again, unless a foreign one has its nonce."""
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
        network, now = driver.network, self._context.clock()
        versions = await self._context.storage.run(lambda c: repo.get_versions(c, slot.id))
        # After a restart at once: the process may have died before, during or after the broadcast.
        fresh = slot.id in self._sent_in_this_run
        may_bid = fresh and slot.data is not None and now - (versions[0].signed_at or 0.0) >= network.bump_after_s
        if fresh and not may_bid and now - (slot.sent_at or 0.0) < network.rebroadcast_s:
            return slot
        mined = await driver.nonce(slot.account)
        if mined > slot.nonce:
            if await driver.nonce_lost(slot.account, slot.nonce, [version.hash for version in versions]):
                return await self._lose_nonce(driver, slot)
            if await self._find_receipt(driver, slot) is None:
                raise NonceTakenError(
                    f"nonce {slot.nonce} of {slot.account} was used by a transaction that is not ours",
                    hint="the payment is sent with another nonce when that one is final; is the key used elsewhere?",
                )
            return slot
        if mined < slot.nonce:
            await self._send_lost(driver, slot, mined)
        if may_bid:
            await self._bid_more(driver, slot, versions[0])
        return await self._broadcast(driver, slot)

    async def _bid_more(self, driver: ChainDriver, slot: Slot, newest: Version) -> None:
        """Sign and store another version with the same nonce. Raises FeesAboveCapError."""
        network, market = driver.network, await driver.market()
        old = Fees(newest.max_fee, newest.tip)
        bid = next_bid(old, market, min_tip=network.min_tip_wei, cap=network.max_fee_wei)
        if bid is None:
            if market.base_fee <= old.max_fee:
                return  # it can be mined as it is
            raise FeesAboveCapError(
                f"a payment waits with {old.max_fee / GWEI:g} gwei per gas, the chain asks {market.base_fee / GWEI:g},"
                f" the cap is {network.max_fee_wei / GWEI:g}",
                hint="it goes through when fees fall; or raise max_fee_gwei of the network",
            )
        signed = self._context.purse.again(driver, slot.nonce, call_of(slot), bid)
        version = Version(signed.hash, signed.raw, bid.max_fee, bid.tip, self._context.clock())
        await self._context.storage.run(lambda c: repo.add_version(c, slot.id, version))
        log.info("settlement_bid_raised", platform=slot.platform, nonce=slot.nonce, max_fee_wei=bid.max_fee)
        await self._reached("bid")

    async def _send_lost(self, driver: ChainDriver, slot: Slot, mined: int) -> None:
        """A reorganisation deeper than the rule of finality takes back what counts as paid, and all later nonces wait
        for that one. The same bytes pay it, once, as before."""
        account, chain_id = slot.account, slot.chain_id
        lost = await self._context.storage.run(
            lambda c: repo.final_versions(c, chain_id, account, first=mined, end=slot.nonce)
        )
        for version in lost:
            log.warning("settlement_taken_back", platform=slot.platform, transaction=version.hash)
            await driver.broadcast(version.raw)

    async def _find_receipt(self, driver: ChainDriver, slot: Slot) -> Receipt | None:
        """Of whichever version of the slot was mined."""
        for version in await self._context.storage.run(lambda c: repo.get_versions(c, slot.id)):
            receipt = await driver.receipt(version.hash)
            if receipt is not None:
                return receipt
        return None

    async def _lose_nonce(self, driver: ChainDriver, slot: Slot) -> Slot:
        """The nonce is used for good, and by none of our versions: their receipts are looked for once more, since the
        chain may have moved between the two questions. The batch gets another slot, unless the chain has it done."""
        if await self._find_receipt(driver, slot) is not None:
            return slot
        after = replace(slot, state=SLOT.next(slot.state, SlotEvent.LOSE_NONCE))
        log.warning("settlement_nonce_taken", platform=slot.platform, account=slot.account, nonce=slot.nonce)
        self.chain_nonces.pop(slot.platform, None)
        if paid := await self._done_elsewhere(driver, slot):
            await self._closing.finish(after, transaction=paid)
        elif slot.data is None:
            await self._closing.release(after)
        else:
            await self._another_slot(driver, after)
        return after

    async def _another_slot(self, driver: ChainDriver, lost: Slot) -> None:
        network, now = driver.network, self._context.clock()
        bid = first_bid(await driver.market(), min_tip=network.min_tip_wei, cap=network.max_fee_wei)
        if bid is None:
            raise FeesAboveCapError("a payment that lost its nonce waits for lower fees")
        nonce = await self.next_nonce(driver)
        call = call_of(lost)

        def store(connection: Connection) -> None:
            repo.update_slot(connection, lost)
            slot = repo.insert_slot(
                connection,
                batch_id=lost.batch_id,
                mode=lost.mode,
                platform=lost.platform,
                chain_id=lost.chain_id,
                account=lost.account,
                nonce=nonce,
                payee=lost.payee,
                amount=lost.amount,
                target=call.to,
                data=call.data,
                gas=call.gas,
                value=call.value,
                now=now,
            )
            signed = self._context.purse.again(driver, nonce, call, bid)
            repo.add_version(connection, slot.id, Version(signed.hash, signed.raw, bid.max_fee, bid.tip, now))

        await self._context.storage.run(store)
        await self._reached("signed")

    async def _done_elsewhere(self, driver: ChainDriver, slot: Slot) -> str | None:
        """The transaction that did this batch without our slot, if the contract says that it is done for good."""
        contract = driver.network.batch
        if slot.mode is not Mode.BATCH or contract is None:
            return None
        answer = await driver.call(contract, calls.batch_done_call(slot.account, slot.batch_id), final=True)
        if int.from_bytes(answer[:32], "big") == 0:
            return None
        last = await driver.final_block()
        age = blocks_of(driver.network, self._context.clock() - slot.created_at)
        topics = [
            calls.BATCH_PAID_TOPIC,
            "0x" + calls.encode_address(slot.account).hex(),
            "0x" + calls.on_chain_id(slot.batch_id).hex(),
        ]
        found = await driver.logs(contract, topics, first=max(0, last - age), last=last)
        if not found:
            raise NonceTakenError(
                f"batch {slot.batch_id} is paid on the chain, by a transaction that cannot be found",
                hint="it is looked for again; it is not paid twice",
            )
        return found[0].transaction

    async def _confirm(self, driver: ChainDriver, slot: Slot) -> Slot:
        assert slot.transaction is not None
        receipt = await driver.receipt(slot.transaction)
        if receipt is None or receipt.block_hash != slot.block_hash:
            after = replace(
                slot, state=SLOT.next(slot.state, SlotEvent.REORG), sent_at=0.0, block_number=None, block_hash=None
            )
            log.warning("settlement_reorganised", platform=slot.platform, transaction=slot.transaction)
            self._sent_in_this_run.discard(slot.id)
            await self._context.storage.run(lambda c: repo.update_slot(c, after))
            return after
        if not receipt.final:
            return slot
        if receipt.succeeded:
            after = replace(slot, state=SLOT.next(slot.state, SlotEvent.FINALIZE))
            await self._closing.finish(after, transaction=slot.transaction)
            return after
        after = replace(slot, state=SLOT.next(slot.state, SlotEvent.REVERT))
        if paid := await self._done_elsewhere(driver, slot):
            await self._closing.finish(after, transaction=paid)
            return after
        await self._closing.release(after)
        raise PaymentRevertedError(f"payment {slot.transaction} was reverted by the token contract")


def call_of(slot: Slot) -> Call:
    """What it does. Slots of older versions have no call: ``data`` must be known."""
    assert slot.target is not None, slot
    assert slot.data is not None, slot
    return Call(slot.target, slot.data, slot.gas or calls.TRANSFER_GAS, int(slot.value or 0))
