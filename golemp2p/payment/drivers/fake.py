"""A ChainDriver on a chain in memory."""

from __future__ import annotations

from collections.abc import Sequence

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment import Fees, Leg, Market, MinedTransfers
from golemp2p.errors import NetworkError
from golemp2p.identity.keys import Signer
from golemp2p.payment.drivers.base import (
    Call,
    CallRevertedError,
    Head,
    Log,
    Receipt,
    SignedTransaction,
)
from golemp2p.payment.drivers.fakechain import GAS, FakeChain, Pooled
from golemp2p.payment.drivers.transactions import BATCH_DONE_SELECTOR, TRANSFER_TOPIC, encode_address, transfer_call
from golemp2p.payment.networks import GWEI, PaymentNetwork

__all__ = ["FakeChain", "FakeDriver"]


class FakeDriver:
    """Raw transactions are readable text."""

    def __init__(self, chain: FakeChain, network: PaymentNetwork) -> None:
        self._chain = chain
        self._network = network

    @property
    def network(self) -> PaymentNetwork:
        return self._network

    async def head(self) -> Head:
        self._ask("head")
        return self._chain.head()

    async def final_block(self) -> int:
        self._ask("final_block")
        return self._chain.head().number - self._network.confirmations + 1

    async def balance(self, address: Address) -> Amount:
        self._ask("balance")
        return Amount(self._chain.tokens(self._network.token, address))

    async def allowance(self, owner: Address, spender: Address) -> Amount:
        self._ask("allowance")
        return Amount(self._chain.allowance(self._network.token, owner, spender))

    async def gas_balance(self, address: Address) -> int:
        self._ask("gas_balance")
        return self._chain.gas[address]

    async def nonce(self, address: Address, *, final: bool = False) -> int:
        self._ask("nonce")
        head = self._chain.head().number
        return self._chain.nonce_of(address, as_of=head - self._network.confirmations + 1 if final else None)

    async def nonce_lost(self, address: Address, nonce: int, transactions: Sequence[str]) -> bool:
        return await self.nonce(address, final=True) > nonce and not any(map(self._chain.find, transactions))

    async def market(self) -> Market:
        self._ask("market")
        return Market(self._chain.base_fee, GWEI)

    async def call(self, to: Address, data: bytes, *, sender: Address | None = None, final: bool = False) -> bytes:
        self._ask("call")
        if data[:4] == BATCH_DONE_SELECTOR and to == self._chain.batch:
            payer = Address("0x" + data[16:36].hex())
            return int(self._chain.batch_done(payer, data[36:68])).to_bytes(32, "big")
        self._chain.simulate(sender or Address("0x" + "00" * 20), Call(to, data))
        return b""

    async def estimate(self, sender: Address, call: Call) -> int:
        self._ask("estimate")
        if self._chain.simulates:
            self._chain.simulate(sender, call)
        return GAS

    async def refusal(self, sender: Address, recipient: Address, amount: Amount) -> str:
        try:
            await self.estimate(sender, Call(self._network.token, transfer_call(recipient, amount)))
        except CallRevertedError as exc:
            return exc.message
        return ""

    async def has_code(self, address: Address, sha256: str = "") -> bool:
        self._ask("has_code")
        return address in (self._chain.batch, self._chain.multi, self._network.token)

    async def logs(self, address: Address, topics: Sequence[str | None], *, first: int, last: int) -> list[Log]:
        self._ask("logs")
        found = []
        for number in range(max(0, first), min(last, self._chain.head().number) + 1):
            block_hash = self._chain.block_hash(number)
            for mined in self._chain.blocks[number].mined:
                events = [(mined.tx.call.to, event, 1000 + i) for i, event in enumerate(mined.events)]
                events += [(leg.token, _transfer_event(leg), leg.log_index) for leg in mined.legs]
                for contract, event, index in events:
                    if contract == address and _fits(event, topics):
                        found.append(Log(contract, event, b"", number, block_hash, mined.tx.hash, index))
        return found

    def sign(self, signer: Signer, nonce: int, call: Call, fees: Fees) -> SignedTransaction:
        assert call.gas > 0, call
        fields = (signer.address, nonce, call.to, call.data.hex() or "-", call.gas, call.value, fees.max_fee, fees.tip)
        raw = " ".join(map(str, fields)).encode()
        return SignedTransaction(raw, "0x" + keccak(raw), nonce, fees)

    async def broadcast(self, raw: bytes) -> None:
        self._ask("broadcast")
        sender, nonce, to, data, gas, value, max_fee, tip = raw.decode().split()
        call = Call(Address(to), bytes.fromhex(data.strip("-")), int(gas), int(value))
        self._chain.send(Pooled("0x" + keccak(raw), Address(sender), int(nonce), call, int(max_fee), int(tip)))
        if self._chain.lose_answers:
            raise NetworkError("the answer was lost (ordered by the test)")

    async def receipt(self, transaction: str) -> Receipt | None:
        self._ask("receipt")
        found = self._chain.find(transaction)
        if found is None:
            return None
        number, mined = found
        depth = self._chain.head().number - number + 1
        return Receipt(
            transaction,
            number,
            self._chain.block_hash(number),
            depth,
            mined.succeeded,
            GAS,
            GAS * mined.price,
            depth >= self._network.confirmations,
        )

    async def verify_transfer(self, transaction: str) -> MinedTransfers | None:
        receipt = await self.receipt(transaction)
        found = self._chain.find(transaction)
        if receipt is None or found is None:
            return None
        return MinedTransfers(
            transaction=transaction,
            block_number=receipt.block_number,
            block_hash=receipt.block_hash,
            depth=receipt.depth,
            succeeded=receipt.succeeded,
            legs=found[1].legs,
            final=receipt.final,
            sender=found[1].tx.sender,
            target=found[1].tx.call.to,
        )

    def _ask(self, what: str) -> None:
        self._chain.calls.append(what)
        if self._chain.down:
            raise NetworkError(f"network {self._network.name} cannot be reached (ordered by the test)")


def _transfer_event(leg: Leg) -> tuple[str, ...]:
    return (TRANSFER_TOPIC, *("0x" + encode_address(party).hex() for party in (leg.sender, leg.recipient)))


def keccak(raw: bytes) -> str:
    return keccak256(raw).hex()


def _fits(event: Sequence[str], wanted: Sequence[str | None]) -> bool:
    return all(want in (None, have) for want, have in zip(wanted, event, strict=False))
