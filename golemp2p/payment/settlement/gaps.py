"""Nonces of our account that our tables know nothing of: a wallet uses it too, or the database is an older copy.

An older copy owes again what was paid since it was made. So debts from before a gap are looked up on the chain before
they are paid: a payee that an unknown transaction of ours has paid since waits until the owner says that it is owed.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy.engine import Connection

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.core.payment import Obligation, SlotState
from golemp2p.payment.drivers.base import ChainDriver
from golemp2p.payment.drivers.transactions import TRANSFER_TOPIC, encode_address
from golemp2p.payment.networks import PaymentNetwork
from golemp2p.payment.ports import Context
from golemp2p.storage import payment_settlement as repo

log = structlog.get_logger(__name__)


class Gaps:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._began = context.clock()
        self._seen: dict[str, float] = {}  # by platform: debts from before this moment are looked up
        self._looked_up: dict[int, str] = {}  # debt -> the unknown transaction that has paid its payee, or ""

    async def paid_before(self, driver: ChainDriver, debts: Sequence[Obligation]) -> dict[int, str]:
        """Debts that may be paid already -> by which transaction. Asks the chain once for each debt."""
        moment = await self._moment(driver)
        new = [debt for debt in debts if debt.created_at < moment and debt.id not in self._looked_up]
        if new:
            payees = await self._payees_of_unknown(driver, since=min(debt.created_at for debt in new))
            self._looked_up.update({debt.id: payees.get(debt.payee, "") for debt in new})
        return {debt.id: found for debt in debts if (found := self._looked_up.get(debt.id, ""))}

    async def _moment(self, driver: ChainDriver) -> float:
        """Of the newest gap: between two slots of ours, or between the last one and the chain when this run began."""
        network, account = driver.network, self._context.purse.address
        if network.platform not in self._seen:
            count = await driver.nonce(account)

            def look(connection: Connection) -> float:
                slots = repo.account_slots(connection, network.chain_id, account)
                moment = 0.0
                expected = slots[0].nonce if slots else 0
                for slot in slots:
                    if slot.nonce > expected or slot.state is SlotState.FOREIGN:
                        moment = slot.created_at
                    expected = slot.nonce + 1
                return self._began if count > expected else moment

            self._seen[network.platform] = await self._context.storage.run(look)
        return self._seen[network.platform]

    async def _payees_of_unknown(self, driver: ChainDriver, *, since: float) -> dict[Address, str]:
        """Whom transactions of our account paid that our tables do not know -> the transaction."""
        network, account = driver.network, self._context.purse.address
        last = (await driver.head()).number
        first = max(0, last - blocks_of(network, self._context.clock() - since))
        topics = [TRANSFER_TOPIC, "0x" + encode_address(account).hex()]
        moved = {entry.transaction for entry in await driver.logs(network.token, topics, first=first, last=last)}
        known = await self._context.storage.run(lambda c: repo.known_transactions(c, sorted(moved)))
        payees: dict[Address, str] = {}
        for transaction in sorted(moved - known):
            mined = await driver.verify_transfer(transaction)
            for leg in mined.legs if mined is not None else ():
                if leg.token == network.token:
                    payees[leg.recipient] = transaction
        if payees:
            log.warning("unknown_transactions_of_the_account", platform=network.platform, payees=len(payees))
        return payees


def blocks_of(network: PaymentNetwork, seconds: float) -> int:
    """No fewer than the chain makes in that time: a poll is about half a block, and clocks differ."""
    return min(limits.MAX_SEARCH_BLOCKS, limits.MIN_SEARCH_BLOCKS + round(max(0.0, seconds) / network.poll_s))
