"""The one place where money is signed: transactions and vouchers, each within the spending caps.

What is signed away is recorded in the same database transaction, so a crash can neither forget it nor count it twice.
Documents (acceptances, notices) promise money but cannot move any: they are signed by the node's key elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.engine import Connection

from golemp2p.core.ids import Address, AgreementId
from golemp2p.core.money import Amount, format_amount
from golemp2p.core.payment import Fees
from golemp2p.errors import PolicyError
from golemp2p.identity.keys import Signer
from golemp2p.payment.drivers.base import Call, ChainDriver, SignedTransaction
from golemp2p.storage import spending
from golemp2p.storage.spending import Spend

DAY_S: Final = 86_400.0


class SpendingCapError(PolicyError):
    """A cap of the owner would be exceeded. Nothing was signed; a daily cap opens again by itself."""

    code = "spending_cap"


@dataclass(frozen=True)
class Caps:
    """In the token's smallest unit, for each platform by itself; None: no cap. A day is the last 24 hours."""

    per_day: Amount | None = None
    per_agreement: Amount | None = None


class Purse:
    """``signer``: of the paying account; ``voucher_signer``: a hot key for vouchers (default: the same)."""

    def __init__(self, signer: Signer, caps: Caps | None = None, *, voucher_signer: Signer | None = None) -> None:
        self._signer = signer
        self._voucher_signer = voucher_signer or signer
        self.caps = caps or Caps()

    @property
    def address(self) -> Address:
        return self._signer.address

    @property
    def voucher_address(self) -> Address:
        return self._voucher_signer.address

    def transaction(
        self,
        connection: Connection,
        driver: ChainDriver,
        nonce: int,
        call: Call,
        fees: Fees,
        *,
        spends: Sequence[Spend],
        now: float,
    ) -> SignedTransaction:
        """Sign a new one. Raises SpendingCapError; the caller's database transaction is undone then."""
        self._spend(connection, spends, now=now)
        return driver.sign(self._signer, nonce, call, fees)

    def again(self, driver: ChainDriver, nonce: int, call: Call, fees: Fees) -> SignedTransaction:
        """The same call with another bid, or in the place of one that lost its nonce: nothing more is spent."""
        return driver.sign(self._signer, nonce, call, fees)

    def voucher(
        self,
        connection: Connection,
        digest: bytes,
        *,
        platform: str,
        agreement_id: AgreementId,
        amount: Amount,
        now: float,
        reference: str = "voucher",
    ) -> bytes:
        """A voucher's signature. ``amount``: by how much it exceeds the last one. Raises SpendingCapError.

        The day's cap was checked when the channel was funded: a voucher gives away what has left the account already.
        """
        self._spend(connection, [Spend(platform, agreement_id, amount, reference, daily=False)], now=now)
        return self._voucher_signer.sign(digest)

    def room_today(self, connection: Connection, platform: str, *, now: float) -> tuple[Amount | None, float]:
        """What may still be signed away now (None: any sum), and when there will be more room."""
        if self.caps.per_day is None:
            return None, now
        spent = spending.since(connection, platform, now - DAY_S)
        room = Amount(max(0, self.caps.per_day - sum(amount for _, amount in spent)))
        return room, (spent[0][0] + DAY_S if spent else now)

    def over_the_day(
        self, amount: Amount, platform: str, room: Amount, opens_at: float, *, what: str = ""
    ) -> SpendingCapError:
        """Why ``amount`` cannot be signed away today. ``what`` it is for, said before it."""
        cap = self.caps.per_day or Amount(0)
        # The moment, not how long until then: a problem that reads the same is logged once.
        moment = datetime.fromtimestamp(opens_at, UTC)
        later = "" if amount > cap else f"there is more room at {moment:%Y-%m-%d %H:%M:%S} UTC, or "
        return SpendingCapError(
            f"{what}{format_amount(amount)} exceeds what may be spent on {platform} today"
            f" ({format_amount(room)} of {format_amount(cap)} is left)",
            hint=f"{later}raise payment.caps.per_day",
        )

    def room_under(self, connection: Connection, platform: str, agreement_id: AgreementId | str) -> Amount | None:
        """What may still be signed away under one agreement; None: any sum."""
        if self.caps.per_agreement is None or not agreement_id:
            return None
        return Amount(max(0, self.caps.per_agreement - spending.under(connection, platform, agreement_id)))

    def _spend(self, connection: Connection, spends: Sequence[Spend], *, now: float) -> None:
        for platform in {spend.platform for spend in spends}:
            total = sum(spend.amount for spend in spends if spend.platform == platform and spend.daily)
            room, opens_at = self.room_today(connection, platform, now=now)
            if room is not None and total > room:
                raise self.over_the_day(Amount(total), platform, room, opens_at)
            for agreement in {s.agreement_id for s in spends if s.platform == platform and s.agreement_id}:
                mine = sum(s.amount for s in spends if (s.platform, s.agreement_id) == (platform, agreement))
                under = self.room_under(connection, platform, agreement)
                if under is not None and mine > under:
                    raise SpendingCapError(
                        f"{format_amount(Amount(mine))} exceeds what may be spent under agreement {agreement}"
                        f" ({format_amount(under)} of {format_amount(self.caps.per_agreement or Amount(0))} is left)",
                        hint="raise payment.caps.per_agreement if that is right",
                    )
        spending.add(connection, spends, now=now)
