"""ERC-20 tokens on real chains, through a pool of RPC endpoints (payment/chain).

Calls are raw JSON-RPC, because web3's contract layer costs 3 to 20 times more (research: settlement.md, section 4).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment import Fees, Market, MinedTransfers
from golemp2p.errors import NetworkError
from golemp2p.identity.keys import Signer
from golemp2p.payment.chain.contact import Contact, code_sha256, revert_reason
from golemp2p.payment.chain.errors import EndpointError, RpcAnswerError
from golemp2p.payment.chain.finality import Finality
from golemp2p.payment.chain.parse import MinedReceipt, leg_of, octets, parse_receipt, quantity
from golemp2p.payment.chain.pool import EndpointPool, Parse
from golemp2p.payment.chain.scan import LogScan
from golemp2p.payment.chain.transport import Question
from golemp2p.payment.chain.votes import Reverted
from golemp2p.payment.drivers.base import (
    BroadcastRefusedError,
    Call,
    CallRevertedError,
    Head,
    Log,
    OutOfGasFundsError,
    Receipt,
    SignedTransaction,
)
from golemp2p.payment.drivers.transactions import Transaction, allowance_call, balance_call, transfer_call
from golemp2p.payment.endpoints import EndpointStatus
from golemp2p.payment.networks import PaymentNetwork

T = TypeVar("T")
# Every node words these in its own way; they all mean that the transaction is on its way or done.
_ALREADY_THERE: Final = ("already known", "already imported", "known transaction", "nonce too low", "already exists")
_NO_FUNDS: Final = ("insufficient funds", "insufficient balance", "doesn't have enough funds", "cannot afford")


class Erc20Driver:
    """A ChainDriver. Cheap to make; nothing is loaded or asked until it is used. ``clock``: seconds since the epoch."""

    def __init__(self, network: PaymentNetwork, *, clock: Callable[[], float] = time.time) -> None:
        self._network = network
        self._pool = EndpointPool(network, clock=clock)
        self._contact = Contact(network, self._pool)
        self._finality = Finality(network, self._pool)
        self._scan = LogScan(self._pool)

    @property
    def network(self) -> PaymentNetwork:
        return self._network

    def endpoints(self) -> list[EndpointStatus]:
        """From memory; asks nobody."""
        return self._pool.status()

    async def head(self) -> Head:
        await self._contact.made()
        block = await self._pool.head()
        return Head(block.number, block.hash)

    async def final_block(self) -> int:
        await self._contact.made()
        return await self._finality.block()

    async def balance(self, address: Address) -> Amount:
        return Amount(await self._number(balance_call(address)))

    async def allowance(self, owner: Address, spender: Address) -> Amount:
        return Amount(await self._number(allowance_call(owner, spender)))

    async def _number(self, call: bytes) -> int:
        """What the token's contract answers."""
        await self._contact.made()
        answer = await self._pool.read("eth_call", [{"to": self._network.token, "data": _hex(call)}, "latest"], octets)
        if len(answer) != 32:
            raise NetworkError(f"the token of network {self._network.name} answers {len(answer)} bytes, not a number")
        return int.from_bytes(answer, "big")

    async def gas_balance(self, address: Address) -> int:
        await self._contact.made()
        return await self._pool.read("eth_getBalance", [address, "latest"], quantity)

    async def nonce(self, address: Address, *, final: bool = False) -> int:
        await self._contact.made()
        if not final:
            # The least that as many say as must agree: a number that is too high would be a nonce that never comes.
            return min(await self._pool.sample("eth_getTransactionCount", [address, "latest"], quantity))
        block = await self._finality.block()
        if block < 0:
            return 0
        return await self._agreed("eth_getTransactionCount", [address, hex(block)], quantity)

    async def nonce_lost(self, address: Address, nonce: int, transactions: Sequence[str]) -> bool:
        await self._contact.made()
        block = await self._finality.block()
        if block < 0:
            return False
        questions: list[Question] = [
            ("eth_getTransactionCount", (address, hex(block))),
            *(("eth_getTransactionReceipt", (transaction,)) for transaction in transactions),
        ]
        count, *mined = await self._pool.agree_all("who used a nonce", questions, _count_or_mined)
        return isinstance(count, int) and count > nonce and not any(mined)

    async def market(self) -> Market:
        await self._contact.made()
        try:
            return await self._pool.read("eth_feeHistory", [hex(limits.FEE_HISTORY_BLOCKS), "latest", [50]], _market)
        except RpcAnswerError:  # a node without that call: the base fee cannot rise by more than an eighth a block
            block = await self._pool.head()
            return Market(block.base_fee + block.base_fee // 8, 0)

    async def call(self, to: Address, data: bytes, *, sender: Address | None = None, final: bool = False) -> bytes:
        await self._contact.made()
        asked = {"to": to, "data": _hex(data), **({"from": sender} if sender is not None else {})}
        if final:
            block = await self._finality.block()
            if block < 0:
                raise NetworkError(f"network {self._network.name} has no final block yet")
            return await self._agreed("eth_call", [asked, hex(block)], octets)
        try:
            return await self._pool.read("eth_call", [asked, "latest"], octets)
        except RpcAnswerError as exc:
            raise _reverted(exc) from exc

    async def estimate(self, sender: Address, call: Call) -> int:
        await self._contact.made()
        asked = {"from": sender, "to": call.to, "data": _hex(call.data), "value": hex(call.value)}
        try:
            return await self._pool.read("eth_estimateGas", [asked], quantity)
        except RpcAnswerError as exc:
            if any(words in exc.text.lower() for words in _NO_FUNDS):
                raise OutOfGasFundsError(exc.message, hint=_top_up(self._network, sender)) from exc
            raise _reverted(exc) from exc

    async def refusal(self, sender: Address, recipient: Address, amount: Amount) -> str:
        try:
            answer = await self.call(self._network.token, transfer_call(recipient, amount), sender=sender)
        except CallRevertedError as exc:
            return exc.message
        # Some old tokens return nothing; one that returns false moves nothing.
        return "the token contract answers false" if len(answer) == 32 and not any(answer) else ""

    async def has_code(self, address: Address, sha256: str = "") -> bool:
        await self._contact.made()
        code = await self._agreed("eth_getCode", [address, "latest"], octets)
        return bool(code) and sha256 in ("", code_sha256(code))

    async def logs(self, address: Address, topics: Sequence[str | None], *, first: int, last: int) -> list[Log]:
        await self._contact.made()
        final = await self._finality.block() if self._pool.quorum > 1 else -1
        return await self._scan.logs(address, topics, first=first, last=last, final=final)

    def sign(self, signer: Signer, nonce: int, call: Call, fees: Fees) -> SignedTransaction:
        assert call.gas > 0, "gas must be known when a transaction is signed"
        chain = self._network.chain_id
        return Transaction(chain, nonce, fees, call.gas, call.to, call.value, call.data).sign(signer)

    async def broadcast(self, raw: bytes) -> None:
        await self._contact.made()
        try:
            await self._pool.broadcast(raw, is_taken=_is_there)
        except RpcAnswerError as exc:
            if any(words in exc.text.lower() for words in _NO_FUNDS):
                raise OutOfGasFundsError(exc.message, hint=_top_up(self._network, None)) from exc
            raise BroadcastRefusedError(exc.message) from exc

    async def receipt(self, transaction: str) -> Receipt | None:
        found = await self._receipt(transaction)
        if found is None:
            return None
        mined, depth, final = found
        return Receipt(
            transaction=transaction,
            block_number=mined.block_number,
            block_hash=mined.block_hash,
            depth=depth,
            succeeded=mined.succeeded,
            gas_used=mined.gas_used,
            fee_wei=mined.gas_used * mined.price,
            final=final,
        )

    async def verify_transfer(self, transaction: str) -> MinedTransfers | None:
        found = await self._receipt(transaction)
        if found is None:
            return None
        mined, depth, final = found
        return MinedTransfers(
            transaction=transaction,
            block_number=mined.block_number,
            block_hash=mined.block_hash,
            depth=depth,
            succeeded=mined.succeeded,
            legs=tuple(leg for log in mined.logs if (leg := leg_of(log)) is not None),
            final=final,
            sender=mined.sender,
            target=mined.target,
        )

    async def _receipt(self, transaction: str) -> tuple[MinedReceipt, int, bool] | None:
        """The receipt, its depth, and whether it is final.

        That there is none is the word of as many endpoints as must agree: one that lags must not make us believe that
        a payment was lost. So is all of one that is final.
        """
        await self._contact.made()

        def parse(answer: Any, host: str) -> MinedReceipt | None:
            return parse_receipt(answer, host, transaction=transaction)

        question = ("eth_getTransactionReceipt", [transaction])
        mined = next((r for r in await self._pool.sample(*question, parse) if r is not None), None)
        if mined is None:
            return None
        head = await self._pool.head(at_least=mined.block_number)
        depth = max(1, head.number - mined.block_number + 1)
        if depth < self._network.confirmations or (
            mined.block_number > await self._finality.block(at_least=mined.block_number)
        ):
            return mined, depth, False
        if self._pool.quorum == 1:
            return mined, depth, True
        agreed = await self._agreed(*question, parse)
        return (mined, depth, False) if agreed is None else (agreed, depth, True)

    async def _agreed(self, method: str, params: Sequence[object], parse: Parse[T]) -> T:
        answer = await self._pool.agree(method, params, parse)
        if isinstance(answer, Reverted):
            raise _reverted(answer.error)
        return answer


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _is_there(error: RpcAnswerError) -> bool:
    return any(words in error.text.lower() for words in _ALREADY_THERE)


def _reverted(error: RpcAnswerError) -> CallRevertedError | RpcAnswerError:
    """Busy and broken endpoints answer with errors, too: those say nothing about the call."""
    if not error.reverted:
        return error
    reason = revert_reason(error.data)
    return CallRevertedError(f"the contract refuses: {reason}" if reason else error.message)


def _count_or_mined(answer: Any, host: str) -> int:
    """A number; of a receipt, whether its transaction is in a block."""
    if answer is None or isinstance(answer, dict):
        return int(answer is not None and answer.get("blockNumber") is not None)
    return quantity(answer, host)


def _market(answer: Any, host: str) -> Market:
    try:
        base = quantity(answer["baseFeePerGas"][-1], host)  # of the next block
        tips = sorted(quantity(row[0], host) for row in answer.get("reward") or [] if row)
    except (KeyError, IndexError, TypeError, AttributeError) as exc:
        raise EndpointError(f"{host} answers something else where prices should be") from exc
    return Market(base, tips[len(tips) // 2] if tips else 0)


def _top_up(network: PaymentNetwork, account: Address | None) -> str:
    where = f": {network.faucet_hint}" if network.faucet_hint else ""
    return f"send some {network.coin} to {account or 'the account'}{where}"
