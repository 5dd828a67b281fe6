"""The port between the settlement engine and a chain. Both adapters pass the same contract tests.

Every method that asks the chain raises NetworkError (down, cut, wrong chain) or DeadlineError; the caller retries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment import MinedTransfers
from golemp2p.errors import PolicyError
from golemp2p.identity.keys import Signer
from golemp2p.payment.networks import PaymentNetwork


class OutOfGasFundsError(PolicyError):
    """The account holds too little of the chain's own coin to pay the fee. Ends when somebody tops it up."""

    code = "out_of_gas_funds"


class BroadcastRefusedError(PolicyError):
    """The chain's node refuses the transaction for another reason, which the message quotes."""

    code = "broadcast_refused"


@dataclass(frozen=True)
class Head:
    number: int
    hash: str


@dataclass(frozen=True)
class Fees:
    """EIP-1559, in wei per gas."""

    max_fee: int
    tip: int


@dataclass(frozen=True)
class SignedTransfer:
    """``raw`` is all that is ever broadcast for it; ``hash`` names it before anybody has seen it."""

    raw: bytes
    hash: str  # "0x" + 64 hex
    nonce: int
    fees: Fees


@dataclass(frozen=True)
class Receipt:
    transaction: str
    block_number: int
    block_hash: str
    depth: int  # blocks from its own to the head, both counted
    succeeded: bool
    gas_used: int
    fee_wei: int


class ChainDriver(Protocol):
    """One token on one chain."""

    @property
    def network(self) -> PaymentNetwork: ...

    async def head(self) -> Head: ...

    async def balance(self, address: Address) -> Amount:
        """Of the token."""
        ...

    async def gas_balance(self, address: Address) -> int:
        """Of the chain's own coin, in wei."""
        ...

    async def nonce(self, address: Address, *, depth: int = 0) -> int:
        """How many transactions of ``address`` are mined, as of ``depth`` blocks below the head."""
        ...

    async def fees(self) -> Fees:
        """What to bid now, within the network's cap."""
        ...

    async def transfer_fee(self, fees: Fees) -> int:
        """The most one transfer may cost in the chain's own coin, in wei."""
        ...

    async def refusal(self, sender: Address, recipient: Address, amount: Amount) -> str:
        """Why the token's contract would refuse this transfer now; "" when it would not. Simulated: costs nothing."""
        ...

    def sign_transfer(
        self, signer: Signer, nonce: int, recipient: Address, amount: Amount, fees: Fees
    ) -> SignedTransfer:
        """Pure: asks nobody."""
        ...

    async def broadcast(self, raw: bytes) -> None:
        """Hand it to the chain. That the chain knows it, or has used its nonce, already is not an error: the receipt
        decides. Raises OutOfGasFundsError, BroadcastRefusedError."""
        ...

    async def receipt(self, transaction: str) -> Receipt | None:
        """None while it is in no block of the canonical chain."""
        ...

    async def verify_transfer(self, transaction: str) -> MinedTransfers | None:
        """All Transfer events of a transaction, of whatever token; None while it is in no block."""
        ...
