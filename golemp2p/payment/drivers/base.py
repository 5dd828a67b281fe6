"""The port between payments and a chain. Both adapters pass the same contract tests.

Every method that asks the chain raises NetworkError (down, cut, wrong chain, endpoints that disagree), DeadlineError or
WrongNetworkError (what is at the configured addresses is not what it should be); the caller retries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment import Fees, Market, MinedTransfers
from golemp2p.errors import PolicyError
from golemp2p.identity.keys import Signer
from golemp2p.payment.networks import PaymentNetwork


class OutOfGasFundsError(PolicyError):
    """The account holds too little of the chain's own coin to pay the fee. Ends when somebody tops it up."""

    code = "out_of_gas_funds"


class BroadcastRefusedError(PolicyError):
    """The chain's node refuses the transaction for another reason, which the message quotes."""

    code = "broadcast_refused"


class CallRevertedError(PolicyError):
    """A contract refuses a simulated call; the message has its reason."""

    code = "call_reverted"


class WrongNetworkError(PolicyError):
    """First contact: chain id, token or contract are not those of the network's profile. No money moves."""

    code = "wrong_network"


@dataclass(frozen=True)
class Head:
    number: int
    hash: str


@dataclass(frozen=True)
class Call:
    """What a transaction does. ``gas``: its limit; 0 is "to be estimated"."""

    to: Address
    data: bytes
    gas: int = 0
    value: int = 0


@dataclass(frozen=True)
class SignedTransaction:
    """``raw`` is all that is ever broadcast for it; ``hash`` names it before anybody has seen it."""

    raw: bytes
    hash: str  # "0x" + 64 hex
    nonce: int
    fees: Fees


@dataclass(frozen=True)
class Receipt:
    """``final``: by the network's rule (depth, and the finalized tag where that counts)."""

    transaction: str
    block_number: int
    block_hash: str
    depth: int  # blocks from its own to the head, both counted
    succeeded: bool
    gas_used: int
    fee_wei: int
    final: bool


@dataclass(frozen=True)
class Log:
    """An event of a contract, in a block of the canonical chain."""

    address: Address
    topics: tuple[str, ...]
    data: bytes
    block_number: int
    block_hash: str
    transaction: str
    log_index: int


class ChainDriver(Protocol):
    """One token on one chain."""

    @property
    def network(self) -> PaymentNetwork: ...

    async def head(self) -> Head: ...

    async def final_block(self) -> int:
        """The newest block that counts as final by the network's rule."""
        ...

    async def balance(self, address: Address) -> Amount:
        """Of the token."""
        ...

    async def allowance(self, owner: Address, spender: Address) -> Amount:
        """Of the token."""
        ...

    async def gas_balance(self, address: Address) -> int:
        """Of the chain's own coin, in wei."""
        ...

    async def nonce(self, address: Address, *, final: bool = False) -> int:
        """How many transactions of ``address`` are mined; ``final``: as of :meth:`final_block`, by k of n."""
        ...

    async def nonce_lost(self, address: Address, nonce: int, transactions: Sequence[str]) -> bool:
        """Whether ``nonce`` is used, as of :meth:`final_block`, and by none of ``transactions``. By k of n that say
        both: one that knows the count, asked together with one that lags behind it, would make us pay twice."""
        ...

    async def market(self) -> Market: ...

    async def call(self, to: Address, data: bytes, *, sender: Address | None = None, final: bool = False) -> bytes:
        """What a contract answers. ``final``: as of :meth:`final_block`, by k of n. Raises CallRevertedError."""
        ...

    async def estimate(self, sender: Address, call: Call) -> int:
        """Gas that ``call`` takes now, without margin. Raises CallRevertedError."""
        ...

    async def refusal(self, sender: Address, recipient: Address, amount: Amount) -> str:
        """Why the token's contract would refuse this transfer now; "" when it would not. Simulated: costs nothing."""
        ...

    async def has_code(self, address: Address, sha256: str = "") -> bool:
        """Whether there is a contract (with that hash of its code, in hex, if given)."""
        ...

    async def logs(self, address: Address, topics: Sequence[str | None], *, first: int, last: int) -> list[Log]:
        """Events of blocks ``first`` to ``last`` (both counted), in order; asked for in pieces that endpoints take."""
        ...

    def sign(self, signer: Signer, nonce: int, call: Call, fees: Fees) -> SignedTransaction:
        """Pure: asks nobody. ``call.gas`` must be known."""
        ...

    async def broadcast(self, raw: bytes) -> None:
        """Hand it to all healthy endpoints. That the chain knows it, or has used its nonce, already is not an error:
        the receipt decides. Raises OutOfGasFundsError, BroadcastRefusedError when every endpoint refuses."""
        ...

    async def receipt(self, transaction: str) -> Receipt | None:
        """None while it is in no block of the canonical chain. A receipt that says ``final`` is borne out by k of n."""
        ...

    async def verify_transfer(self, transaction: str) -> MinedTransfers | None:
        """All Transfer events of a transaction, of whatever token, by k of n; None while it is in no block."""
        ...
