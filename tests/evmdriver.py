"""A ChainDriver on the contracts themselves, in an EVM inside the test process: a block for each transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment import Fees, Leg, Market, MinedTransfers
from golemp2p.errors import NetworkError
from golemp2p.identity.keys import Signer
from golemp2p.payment.drivers.base import Call, CallRevertedError, Head, Log, Receipt, SignedTransaction
from golemp2p.payment.drivers.transactions import TRANSFER_TOPIC, transfer_call
from golemp2p.payment.networks import GWEI, PaymentNetwork
from tests.evm import CHAIN_ID, COIN, Evm, Reverted

GAS = 500_000


@dataclass
class EvmChain:
    """``down``: no call is answered. ``log``: what was mined, as (sender, to, selector, succeeded)."""

    evm: Evm = field(default_factory=Evm.start)
    down: bool = False
    asked: list[str] = field(default_factory=list)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    events: list[Log] = field(default_factory=list)
    nonces: dict[Address, int] = field(default_factory=lambda: defaultdict(int))
    gas: dict[Address, int] = field(default_factory=lambda: defaultdict(lambda: COIN))
    head: int = 10
    channels: Address = field(init=False)
    batch: Address = field(init=False)

    def __post_init__(self) -> None:
        self.channels = self.evm.deploy("VoucherChannels")
        self.batch = self.evm.deploy("BatchPayer")

    def network(self, **changes: object) -> PaymentNetwork:
        made = PaymentNetwork(
            "local", CHAIN_ID, self.evm.token, "tglm", ("http://127.0.0.1:1",), channels=self.channels, poll_s=0.1
        )
        return replace(made, **changes)  # type: ignore[arg-type]  # fields by name

    def mine(self, sender: Address, nonce: int, to: Address, data: bytes, name: str) -> None:
        self.head += 1
        block_hash = "0x" + keccak256(self.head.to_bytes(8, "big")).hex()
        try:
            self.evm.send(sender, to, data)
            for index, entry in enumerate(self.evm.logs()):
                topics = tuple("0x" + topic.removeprefix("0x") for topic in entry.topics)
                data_of = bytes(entry.data[1]) if isinstance(entry.data, tuple) else bytes(entry.data)
                self.events.append(
                    Log(Address(entry.address.lower()), topics, data_of, self.head, block_hash, name, index)
                )
            succeeded = True
        except Reverted:
            succeeded = False
        self.nonces[sender] = nonce + 1
        self.receipts[name] = Receipt(name, self.head, block_hash, 1, succeeded, GAS, GAS * GWEI, True)


class EvmDriver:
    def __init__(self, chain: EvmChain, network: PaymentNetwork | None = None) -> None:
        self._chain = chain
        self._network = network or chain.network()

    @property
    def network(self) -> PaymentNetwork:
        return self._network

    def _ask(self, what: str) -> EvmChain:
        self._chain.asked.append(what)
        if self._chain.down:
            raise NetworkError("the chain is down (ordered by the test)")
        return self._chain

    async def head(self) -> Head:
        number = self._ask("head").head
        return Head(number, "0x" + keccak256(number.to_bytes(8, "big")).hex())

    async def final_block(self) -> int:
        return self._ask("final_block").head

    async def balance(self, address: Address) -> Amount:
        return Amount(self._ask("balance").evm.balance(address))

    async def allowance(self, owner: Address, spender: Address) -> Amount:
        return Amount(self._ask("allowance").evm.allowance(owner, spender))

    async def gas_balance(self, address: Address) -> int:
        return self._ask("gas_balance").gas[address]

    async def nonce(self, address: Address, *, final: bool = False) -> int:
        return self._ask("nonce").nonces[address]

    async def nonce_lost(self, address: Address, nonce: int, transactions: Sequence[str]) -> bool:
        return await self.nonce(address) > nonce and not any(t in self._chain.receipts for t in transactions)

    async def market(self) -> Market:
        self._ask("market")
        return Market(GWEI, GWEI)

    async def call(self, to: Address, data: bytes, *, sender: Address | None = None, final: bool = False) -> bytes:
        return self._try(self._ask("call"), to, data, sender)

    def _try(self, chain: EvmChain, to: Address, data: bytes, sender: Address | None) -> bytes:
        evm = chain.evm.evm
        before = evm.snapshot()
        try:
            return chain.evm.peek(sender, to, data)
        except Reverted as exc:
            raise CallRevertedError(str(exc)) from exc
        finally:
            evm.revert(before)

    async def estimate(self, sender: Address, call: Call) -> int:
        self._try(self._ask("estimate"), call.to, call.data, sender)
        return GAS

    async def refusal(self, sender: Address, recipient: Address, amount: Amount) -> str:
        try:
            await self.estimate(sender, Call(self._network.token, transfer_call(recipient, amount)))
        except CallRevertedError as exc:
            return exc.message
        return ""

    async def has_code(self, address: Address, sha256: str = "") -> bool:
        return address in (self._ask("has_code").channels, self._chain.batch, self._chain.evm.token)

    async def logs(self, address: Address, topics: Sequence[str | None], *, first: int, last: int) -> list[Log]:
        return [
            entry
            for entry in self._ask("logs").events
            if entry.address == address
            and first <= entry.block_number <= last
            and all(want in (None, have) for want, have in zip(topics, entry.topics, strict=False))
        ]

    def sign(self, signer: Signer, nonce: int, call: Call, fees: Fees) -> SignedTransaction:
        raw = f"{signer.address} {nonce} {call.to} {call.data.hex()} {fees.max_fee}".encode()
        return SignedTransaction(raw, "0x" + keccak256(raw).hex(), nonce, fees)

    async def broadcast(self, raw: bytes) -> None:
        chain, name = self._ask("broadcast"), "0x" + keccak256(raw).hex()
        sender, nonce, to, data, _ = raw.decode().split(" ")
        if chain.nonces[Address(sender)] == int(nonce):
            chain.mine(Address(sender), int(nonce), Address(to), bytes.fromhex(data), name)

    async def receipt(self, transaction: str) -> Receipt | None:
        chain = self._ask("receipt")
        found = chain.receipts.get(transaction)
        return None if found is None else replace(found, depth=chain.head - found.block_number + 1)

    async def verify_transfer(self, transaction: str) -> MinedTransfers | None:
        found = await self.receipt(transaction)
        if found is None:
            return None
        legs = tuple(
            Leg(
                entry.log_index,
                entry.address,
                Address("0x" + entry.topics[1][26:]),
                Address("0x" + entry.topics[2][26:]),
                int.from_bytes(entry.data, "big"),
            )
            for entry in self._chain.events
            if entry.transaction == transaction and entry.topics[0] == TRANSFER_TOPIC
        )
        return MinedTransfers(
            transaction, found.block_number, found.block_hash, found.depth, found.succeeded, legs, final=True
        )
