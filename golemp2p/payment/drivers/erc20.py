"""ERC-20 tokens on real chains, through web3's HTTP provider in worker threads.

web3 is imported at the first call (1 s, some 40 MB): a node that neither pays nor is paid never loads it. Only its
transport and its error classes are used; calls are raw JSON-RPC, because its contract layer costs 3 to 20 times more
(research: settlement.md, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment import Leg, MinedTransfers
from golemp2p.errors import DeadlineError, NetworkError
from golemp2p.identity.keys import Signer
from golemp2p.payment.drivers.base import BroadcastRefusedError, Fees, Head, OutOfGasFundsError, Receipt, SignedTransfer
from golemp2p.payment.drivers.transactions import TRANSFER_TOPIC, Transaction, balance_call, transfer_call
from golemp2p.payment.networks import PaymentNetwork
from golemp2p.recursion import recursion_limit_kept

# First transfer to a new holder of a plain ERC-20 takes 51.5 k gas; Polygon's proxied GLM about 60 k. Unused gas is
# not charged, so one generous constant saves an estimate per transfer (and its failure mode).
TRANSFER_GAS: Final = 100_000

# Every node words these in its own way; they all mean that the transaction is on its way or done.
_ALREADY_THERE: Final = ("already known", "already imported", "known transaction", "nonce too low", "already exists")
_REVERTED: Final = ("revert", "invalid opcode", "vm execution error", "out of gas")
_NO_FUNDS: Final = ("insufficient funds", "insufficient balance", "doesn't have enough funds", "cannot afford")


class RpcAnswerError(NetworkError):
    """The chain's node answered with a JSON-RPC error."""

    code = "chain_rpc"


class Erc20Driver:
    """A ChainDriver. Cheap to make; nothing is loaded or asked until it is used."""

    def __init__(self, network: PaymentNetwork) -> None:
        self._network = network
        self._limiter = trio.CapacityLimiter(limits.CHAIN_CALLS_AT_ONCE)
        self._provider: Any = None
        self._loading = trio.Lock()

    @property
    def network(self) -> PaymentNetwork:
        return self._network

    def _ready(self) -> bool:
        return self._provider is not None

    async def head(self) -> Head:
        block = await self._call("eth_getBlockByNumber", ["latest", False])
        return Head(_int(block["number"]), block["hash"])

    async def balance(self, address: Address) -> Amount:
        call = {"to": self._network.token, "data": "0x" + balance_call(address).hex()}
        answer = await self._call("eth_call", [call, "latest"])
        if len(answer) < 66:
            raise NetworkError(f"there is no token at {self._network.token} on network {self._network.name}")
        return Amount(_int(answer))

    async def gas_balance(self, address: Address) -> int:
        return _int(await self._call("eth_getBalance", [address, "latest"]))

    async def nonce(self, address: Address, *, depth: int = 0) -> int:
        block = hex(max(0, (await self.head()).number - depth)) if depth else "latest"
        return _int(await self._call("eth_getTransactionCount", [address, block]))

    async def fees(self) -> Fees:
        history = await self._call("eth_feeHistory", [hex(limits.FEE_HISTORY_BLOCKS), "latest", [50]])
        base = _int(history["baseFeePerGas"][-1])  # of the next block
        rewards = sorted(_int(row[0]) for row in history.get("reward") or [] if row)
        median = rewards[len(rewards) // 2] if rewards else 0
        cap = self._network.max_fee_wei
        tip = min(max(median, self._network.min_tip_wei), cap)
        return Fees(max_fee=min(cap, 2 * base + tip), tip=tip)

    async def transfer_fee(self, fees: Fees) -> int:
        return TRANSFER_GAS * fees.max_fee

    async def refusal(self, sender: Address, recipient: Address, amount: Amount) -> str:
        data = "0x" + transfer_call(recipient, amount).hex()
        try:
            answer = await self._call("eth_call", [{"from": sender, "to": self._network.token, "data": data}, "latest"])
        except RpcAnswerError as exc:
            # Busy and broken endpoints answer with errors too: those say nothing about the transfer.
            if any(words in exc.message.lower() for words in _REVERTED):
                return exc.message
            raise
        # Some old tokens return nothing; one that returns false moves nothing.
        return "the token contract answers false" if len(answer) == 66 and _int(answer) == 0 else ""

    def sign_transfer(
        self, signer: Signer, nonce: int, recipient: Address, amount: Amount, fees: Fees
    ) -> SignedTransfer:
        network = self._network
        call = transfer_call(recipient, amount)
        return Transaction(network.chain_id, nonce, fees, TRANSFER_GAS, network.token, 0, call).sign(signer)

    async def broadcast(self, raw: bytes) -> None:
        try:
            await self._call("eth_sendRawTransaction", ["0x" + raw.hex()])
        except RpcAnswerError as exc:
            text = exc.message.lower()
            if any(words in text for words in _ALREADY_THERE):
                return
            if any(words in text for words in _NO_FUNDS):
                raise OutOfGasFundsError(exc.message, hint="send some of the chain's own coin to the account") from exc
            raise BroadcastRefusedError(exc.message) from exc

    async def receipt(self, transaction: str) -> Receipt | None:
        answer = await self._receipt(transaction)
        if answer is None:
            return None
        number, gas = _int(answer["blockNumber"]), _int(answer["gasUsed"])
        return Receipt(
            transaction=transaction,
            block_number=number,
            block_hash=answer["blockHash"],
            depth=(await self.head()).number - number + 1,
            succeeded=_int(answer["status"]) == 1,
            gas_used=gas,
            fee_wei=gas * _int(answer.get("effectiveGasPrice") or "0x0"),
        )

    async def verify_transfer(self, transaction: str) -> MinedTransfers | None:
        answer = await self._receipt(transaction)
        if answer is None:
            return None
        number = _int(answer["blockNumber"])
        return MinedTransfers(
            transaction=transaction,
            block_number=number,
            block_hash=answer["blockHash"],
            depth=(await self.head()).number - number + 1,
            succeeded=_int(answer["status"]) == 1,
            legs=tuple(leg for log in answer["logs"] if (leg := _leg(log)) is not None),
        )

    async def _receipt(self, transaction: str) -> dict[str, Any] | None:
        answer: dict[str, Any] | None = await self._call("eth_getTransactionReceipt", [transaction])
        return answer if answer and answer.get("blockNumber") else None  # some nodes answer for pending ones too

    async def _call(self, method: str, params: Sequence[object]) -> Any:
        """One JSON-RPC call within its deadline. Any: JSON as it comes; each caller picks and converts."""
        await self._load()
        try:
            # The thread is abandoned at the deadline; its own socket time-out (set in _connect) ends it a little later.
            with trio.fail_after(limits.CHAIN_CALL_TIMEOUT_S):
                return await trio.to_thread.run_sync(
                    self._request, method, params, limiter=self._limiter, abandon_on_cancel=True
                )
        except trio.TooSlowError:
            raise DeadlineError(
                f"network {self._network.name} did not answer {method} within {limits.CHAIN_CALL_TIMEOUT_S:g} s"
            ) from None

    async def _load(self) -> None:
        """Import web3 and check the chain id, once. A wrong chain is never talked to."""
        if self._ready():
            return
        async with self._loading:
            if self._ready():  # another task did it while we waited for the lock
                return
            try:
                with trio.fail_after(limits.CHAIN_LOAD_TIMEOUT_S):
                    self._provider = await trio.to_thread.run_sync(self._connect, abandon_on_cancel=True)
            except trio.TooSlowError:
                raise DeadlineError(f"network {self._network.name} could not be reached") from None

    def _connect(self) -> Any:
        with recursion_limit_kept():
            from web3.providers.rpc import HTTPProvider

        provider = HTTPProvider(
            self._network.rpc_url,
            request_kwargs={"timeout": limits.CHAIN_CALL_TIMEOUT_S},
            exception_retry_configuration=None,  # the callers retry, and know what is worth it
        )
        chain_id = _int(self._request("eth_chainId", [], provider))
        if chain_id != self._network.chain_id:
            raise NetworkError(
                f"the endpoint of network {self._network.name} is chain {chain_id}, not {self._network.chain_id}",
                hint="correct its rpc_url or chain_id",
            )
        return provider

    def _request(self, method: str, params: Sequence[object], provider: Any = None) -> Any:
        """Blocking; in a worker thread. Maps web3's and requests' errors."""
        import requests
        from web3.exceptions import Web3Exception
        from web3.types import RPCEndpoint

        try:
            answer = (provider or self._provider).make_request(RPCEndpoint(method), params)
        except (requests.RequestException, Web3Exception, OSError, ValueError) as exc:
            # Never the URL: it may hold an access key.
            raise NetworkError(
                f"network {self._network.name} cannot be reached ({type(exc).__name__})", hint="is its rpc_url right?"
            ) from exc
        if "error" in answer:
            error = answer["error"]
            message = error.get("message", error) if isinstance(error, dict) else error
            raise RpcAnswerError(f"network {self._network.name} refused {method}: {message}")
        return answer.get("result")


def _int(text: str | int) -> int:
    return text if isinstance(text, int) else int(text, 16)


def _leg(log: dict[str, Any]) -> Leg | None:
    """An ERC-20 Transfer event, else None (ERC-721 has the same topic but four of them)."""
    topics, data = log["topics"], log["data"]
    if len(topics) != 3 or topics[0] != TRANSFER_TOPIC or len(data) != 66:
        return None
    return Leg(
        log_index=_int(log["logIndex"]),
        token=Address(log["address"].lower()),
        sender=Address("0x" + topics[1][-40:].lower()),
        recipient=Address("0x" + topics[2][-40:].lower()),
        amount=_int(data),
    )
