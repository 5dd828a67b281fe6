"""A chain in memory, for tests and simulation: accounts, a pool with fees, blocks, reorganisations, faults to order.

It knows one kind of token (by address), BatchPayer and Golem's multi-transfer, and keeps the rules of real pools that
test chains leave out: a replacement must bid a tenth more in both fields, and a bid below the base fee waits.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.payment import Leg
from golemp2p.payment.drivers.base import BroadcastRefusedError, Call, CallRevertedError, Head, OutOfGasFundsError
from golemp2p.payment.drivers.transactions import (
    APPROVE_SELECTOR,
    BATCH_PAID_TOPIC,
    MULTI_SELECTOR,
    PAY_ONCE_SELECTOR,
    TRANSFER_SELECTOR,
    unpack_legs,
)

GAS = 50_000  # of every transaction
GWEI = 10**9


@dataclass(frozen=True)
class Pooled:
    hash: str
    sender: Address
    nonce: int
    call: Call
    max_fee: int
    tip: int


@dataclass(frozen=True)
class Mined:
    tx: Pooled
    succeeded: bool
    price: int
    legs: tuple[Leg, ...] = ()
    events: tuple[tuple[str, ...], ...] = ()  # topics of the contract's own


@dataclass
class Block:
    mined: list[Mined] = field(default_factory=list)
    salt: int = 0


@dataclass
class _State:
    """All that a block changes."""

    coin: dict[Address, int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[tuple[Address, Address], int] = field(default_factory=lambda: defaultdict(int))
    allowances: dict[tuple[Address, Address, Address], int] = field(default_factory=lambda: defaultdict(int))
    nonces: dict[Address, int] = field(default_factory=lambda: defaultdict(int))
    done: set[tuple[Address, bytes]] = field(default_factory=set)

    def copy(self) -> _State:
        new = _State()
        for name in ("coin", "tokens", "allowances", "nonces"):
            getattr(new, name).update(getattr(self, name))
        new.done = set(self.done)
        return new


class FakeChain:
    """Shared by the drivers of all nodes of a test. ``automine``: each broadcast makes a block at once, as anvil."""

    def __init__(
        self, *, automine: bool = True, batch: Address | None = None, multi: Address | None = None, token: str = ""
    ) -> None:
        self.automine = automine
        self.batch, self.multi = batch, multi  # contracts that pay several, in this token
        self.token = Address(token)
        self.down = False  # every call raises NetworkError
        self.lose_answers = False  # broadcasts arrive, but the answer is lost
        self.refused: set[Address] = set()  # recipients to whom transfers revert
        self.simulates = True  # simulated transfers tell so beforehand
        self.base_fee = GWEI
        self.calls: list[str] = []
        self._state = _State()
        self._before: list[_State] = []  # before each block but the first
        self._pool: dict[tuple[Address, int], Pooled] = {}
        self.blocks: list[Block] = [Block()]
        self._reorgs = 0

    @property
    def gas(self) -> dict[Address, int]:
        return self._state.coin

    @property
    def pooled(self) -> list[Pooled]:
        return list(self._pool.values())

    def fund(self, address: Address, token: Address, amount: int, gas: int = 10**18) -> None:
        self._state.tokens[token, address] += amount
        self._state.coin[address] += gas

    def tokens(self, token: Address, address: Address) -> int:
        return self._state.tokens[token, address]

    def allowance(self, token: Address, owner: Address, spender: Address) -> int:
        return self._state.allowances[token, owner, spender]

    def batch_done(self, payer: Address, batch_id: bytes) -> bool:
        return (payer, batch_id) in self._state.done

    def send(self, tx: Pooled) -> None:
        """Raises what a chain's node answers."""
        if self._state.coin[tx.sender] < GAS * tx.max_fee + tx.call.value:
            raise OutOfGasFundsError("insufficient funds for gas")
        if tx.nonce < self._state.nonces[tx.sender]:
            return
        old = self._pool.get((tx.sender, tx.nonce))
        if old is not None and old.hash != tx.hash and not _outbids(tx, old):
            raise BroadcastRefusedError("replacement transaction underpriced")
        self._pool[tx.sender, tx.nonce] = tx
        if self.automine:
            self.mine()

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self._before.append(self._state.copy())
            block = Block(salt=self._reorgs)
            progress = True
            while progress:
                progress = False
                for key, tx in list(self._pool.items()):
                    if tx.nonce < self._state.nonces[tx.sender]:
                        del self._pool[key]
                    elif tx.nonce == self._state.nonces[tx.sender] and tx.max_fee >= self.base_fee:
                        del self._pool[key]
                        block.mined.append(self._apply(tx))
                        progress = True
            self.blocks.append(block)

    def _apply(self, tx: Pooled) -> Mined:
        price = min(tx.max_fee, self.base_fee + tx.tip)
        self._state.nonces[tx.sender] += 1
        self._state.coin[tx.sender] -= GAS * price
        undo = self._state.copy()
        try:
            legs, events = self.execute(tx.sender, tx.call)
        except CallRevertedError:
            self._state = undo
            return Mined(tx, False, price)
        self._state.coin[tx.sender] -= tx.call.value
        self._state.coin[tx.call.to] += tx.call.value
        return Mined(tx, True, price, tuple(replace(leg, log_index=i) for i, leg in enumerate(legs)), events)

    def simulate(self, sender: Address, call: Call) -> None:
        """Raises CallRevertedError."""
        kept = self._state
        self._state = kept.copy()
        try:
            self.execute(sender, call)
        finally:
            self._state = kept

    def execute(self, sender: Address, call: Call) -> tuple[list[Leg], tuple[tuple[str, ...], ...]]:
        selector, words = call.data[:4], [call.data[i : i + 32] for i in range(4, len(call.data), 32)]
        if selector == TRANSFER_SELECTOR:
            return [self._move(call.to, sender, _address(words[0]), _int(words[1]))], ()
        if selector == APPROVE_SELECTOR:
            self._state.allowances[call.to, sender, _address(words[0])] = _int(words[1])
            return [], ()
        if selector == PAY_ONCE_SELECTOR and call.to == self.batch:
            if (sender, words[0]) in self._state.done:
                raise CallRevertedError("execution reverted: done before")
            self._state.done.add((sender, words[0]))
            event = (BATCH_PAID_TOPIC, "0x" + bytes(12).hex() + sender[2:], "0x" + words[0].hex())
            return self._pull_and_push(sender, call), (event,)
        if selector == MULTI_SELECTOR and call.to == self.multi:
            return self._pull_and_push(sender, call), ()
        if not call.data:
            return [], ()
        raise CallRevertedError("execution reverted: no such function")

    def _pull_and_push(self, sender: Address, call: Call) -> list[Leg]:
        legs = unpack_legs(call.data)
        total = sum(amount for _, amount in legs)
        left = self.allowance(self.token, sender, call.to) - total
        if left < 0:
            raise CallRevertedError("execution reverted: allowance")
        self._state.allowances[self.token, sender, call.to] = left
        moved = [self._move(self.token, sender, call.to, total)]
        return moved + [self._move(self.token, call.to, payee, amount) for payee, amount in legs]

    def _move(self, token: Address, sender: Address, recipient: Address, amount: int) -> Leg:
        if self._state.tokens[token, sender] < amount:
            raise CallRevertedError("execution reverted: too few tokens")
        if recipient in self.refused:
            raise CallRevertedError("execution reverted: refused recipient")
        self._state.tokens[token, sender] -= amount
        self._state.tokens[token, recipient] += amount
        return Leg(0, token, sender, recipient, amount)

    def reorg(self, depth: int, *, forget: bool = True) -> None:
        """Undo the last ``depth`` blocks and put empty ones in their place; ``forget``: their transactions are gone
        from the pool too, as on anvil."""
        self._reorgs += 1
        gone = self.blocks[-depth:]
        self._state = self._before[-depth]
        del self.blocks[-depth:], self._before[-depth:]
        if not forget:
            for block in gone:
                self._pool.update({(m.tx.sender, m.tx.nonce): m.tx for m in block.mined})
        for _ in range(depth):
            self._before.append(self._state.copy())
            self.blocks.append(Block(salt=self._reorgs))

    def head(self) -> Head:
        return Head(len(self.blocks) - 1, self.block_hash(len(self.blocks) - 1))

    def block_hash(self, number: int) -> str:
        block = self.blocks[number]
        return "0x" + keccak256(f"{number} {block.salt} {[m.tx.hash for m in block.mined]}".encode()).hex()

    def find(self, transaction: str) -> tuple[int, Mined] | None:
        for number, block in enumerate(self.blocks):
            for mined in block.mined:
                if mined.tx.hash == transaction:
                    return number, mined
        return None

    def nonce_of(self, address: Address, *, as_of: int | None = None) -> int:
        """``as_of``: a block number."""
        recent = [] if as_of is None else self.blocks[max(0, as_of + 1) :]
        return self._state.nonces[address] - sum(m.tx.sender == address for b in recent for m in b.mined)


def _outbids(new: Pooled, old: Pooled) -> bool:
    return new.max_fee * 10 >= old.max_fee * 11 and new.tip * 10 >= old.tip * 11


def _address(word: bytes) -> Address:
    return Address("0x" + word[12:].hex())


def _int(word: bytes) -> int:
    return int.from_bytes(word, "big")
