"""A chain in memory, for tests and simulation: accounts, a pool, blocks, reorganisations, and faults to order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment import Leg, MinedTransfers
from golemp2p.errors import NetworkError
from golemp2p.identity.keys import Signer
from golemp2p.payment.drivers.base import Fees, Head, OutOfGasFundsError, Receipt, SignedTransfer
from golemp2p.payment.networks import PaymentNetwork

_GAS = 50_000


@dataclass(frozen=True)
class _Pooled:
    hash: str
    token: Address
    sender: Address
    nonce: int
    recipient: Address
    amount: int
    fee: int


@dataclass
class _Block:
    transactions: list[tuple[_Pooled, bool]] = field(default_factory=list)
    salt: int = 0


class FakeChain:
    """Shared by the drivers of all nodes of a test. ``automine``: each broadcast makes a block at once, as anvil."""

    def __init__(self, *, automine: bool = True) -> None:
        self.automine = automine
        self.down = False  # every call raises NetworkError
        self.lose_answers = False  # broadcasts arrive, but the answer is lost
        self.refused: set[Address] = set()  # recipients to whom transfers revert
        self.simulates = True  # simulated transfers tell so beforehand
        self.calls: list[str] = []
        self.gas: dict[Address, int] = defaultdict(int)
        self._tokens: dict[tuple[Address, Address], int] = defaultdict(int)
        self._nonces: dict[Address, int] = defaultdict(int)
        self._pool: dict[str, _Pooled] = {}
        self._blocks: list[_Block] = [_Block()]
        self._reorgs = 0

    def fund(self, address: Address, token: Address, amount: int, gas: int = 10**18) -> None:
        self._tokens[token, address] += amount
        self.gas[address] += gas

    def tokens(self, token: Address, address: Address) -> int:
        return self._tokens[token, address]

    def send(self, tx: _Pooled) -> None:
        if self.gas[tx.sender] < tx.fee:
            raise OutOfGasFundsError("insufficient funds for gas")
        if tx.nonce >= self._nonces[tx.sender]:
            self._pool.setdefault(tx.hash, tx)
            if self.automine:
                self.mine()

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            block = _Block(salt=self._reorgs)
            progress = True
            while progress:
                progress = False
                for tx in list(self._pool.values()):
                    if tx.nonce < self._nonces[tx.sender]:
                        del self._pool[tx.hash]
                    elif tx.nonce == self._nonces[tx.sender]:
                        del self._pool[tx.hash]
                        block.transactions.append((tx, self._apply(tx)))
                        progress = True
            self._blocks.append(block)

    def _apply(self, tx: _Pooled) -> bool:
        self._nonces[tx.sender] += 1
        self.gas[tx.sender] -= tx.fee
        if self._tokens[tx.token, tx.sender] < tx.amount or tx.recipient in self.refused:
            return False
        self._tokens[tx.token, tx.sender] -= tx.amount
        self._tokens[tx.token, tx.recipient] += tx.amount
        return True

    def reorg(self, depth: int, *, forget: bool = True) -> None:
        """Undo the last ``depth`` blocks and put empty ones in their place; ``forget``: their transactions are gone
        from the pool too, as on anvil."""
        self._reorgs += 1
        for block in [self._blocks.pop() for _ in range(depth)]:
            for tx, succeeded in reversed(block.transactions):
                self._nonces[tx.sender] -= 1
                self.gas[tx.sender] += tx.fee
                if succeeded:
                    self._tokens[tx.token, tx.recipient] -= tx.amount
                    self._tokens[tx.token, tx.sender] += tx.amount
                if not forget:
                    self._pool[tx.hash] = tx
        self._blocks += [_Block(salt=self._reorgs) for _ in range(depth)]

    def head(self) -> Head:
        return Head(len(self._blocks) - 1, self.block_hash(len(self._blocks) - 1))

    def block_hash(self, number: int) -> str:
        block = self._blocks[number]
        return "0x" + keccak256(f"{number} {block.salt} {[t.hash for t, _ in block.transactions]}".encode()).hex()

    def find(self, transaction: str) -> tuple[int, _Pooled, bool] | None:
        for number, block in enumerate(self._blocks):
            for tx, succeeded in block.transactions:
                if tx.hash == transaction:
                    return number, tx, succeeded
        return None

    def nonce_of(self, address: Address, depth: int) -> int:
        recent = self._blocks[len(self._blocks) - depth :] if depth else []
        return self._nonces[address] - sum(t.sender == address for b in recent for t, _ in b.transactions)


class FakeDriver:
    """A ChainDriver on a FakeChain. Raw transactions are readable text."""

    def __init__(self, chain: FakeChain, network: PaymentNetwork) -> None:
        self._chain = chain
        self._network = network

    @property
    def network(self) -> PaymentNetwork:
        return self._network

    async def head(self) -> Head:
        self._ask("head")
        return self._chain.head()

    async def balance(self, address: Address) -> Amount:
        self._ask("balance")
        return Amount(self._chain.tokens(self._network.token, address))

    async def gas_balance(self, address: Address) -> int:
        self._ask("gas_balance")
        return self._chain.gas[address]

    async def nonce(self, address: Address, *, depth: int = 0) -> int:
        self._ask("nonce")
        return self._chain.nonce_of(address, depth)

    async def fees(self) -> Fees:
        self._ask("fees")
        return Fees(max_fee=2 * 10**9, tip=10**9)

    async def transfer_fee(self, fees: Fees) -> int:
        return _GAS * fees.max_fee

    async def refusal(self, sender: Address, recipient: Address, amount: Amount) -> str:
        self._ask("refusal")
        if self._chain.tokens(self._network.token, sender) < amount:
            return "too few tokens"
        return "refused recipient" if self._chain.simulates and recipient in self._chain.refused else ""

    def sign_transfer(
        self, signer: Signer, nonce: int, recipient: Address, amount: Amount, fees: Fees
    ) -> SignedTransfer:
        text = f"{self._network.token} {signer.address} {nonce} {recipient} {amount} {_GAS * fees.max_fee}"
        return SignedTransfer(text.encode(), "0x" + keccak256(text.encode()).hex(), nonce, fees)

    async def broadcast(self, raw: bytes) -> None:
        self._ask("broadcast")
        token, sender, nonce, recipient, amount, fee = raw.decode().split()
        self._chain.send(
            _Pooled(
                hash="0x" + keccak256(raw).hex(),
                token=Address(token),
                sender=Address(sender),
                nonce=int(nonce),
                recipient=Address(recipient),
                amount=int(amount),
                fee=int(fee),
            )
        )
        if self._chain.lose_answers:
            raise NetworkError("the answer was lost (ordered by the test)")

    async def receipt(self, transaction: str) -> Receipt | None:
        found = await self.verify_transfer(transaction)
        if found is None:
            return None
        fee = _GAS * 10**9
        return Receipt(transaction, found.block_number, found.block_hash, found.depth, found.succeeded, _GAS, fee)

    async def verify_transfer(self, transaction: str) -> MinedTransfers | None:
        self._ask("receipt")
        found = self._chain.find(transaction)
        if found is None:
            return None
        number, tx, succeeded = found
        return MinedTransfers(
            transaction=transaction,
            block_number=number,
            block_hash=self._chain.block_hash(number),
            depth=self._chain.head().number - number + 1,
            succeeded=succeeded,
            legs=(Leg(0, tx.token, tx.sender, tx.recipient, tx.amount),) if succeeded else (),
        )

    def _ask(self, what: str) -> None:
        self._chain.calls.append(what)
        if self._chain.down:
            raise NetworkError(f"network {self._network.name} cannot be reached (ordered by the test)")
