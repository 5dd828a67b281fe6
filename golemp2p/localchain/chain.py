"""Start a local chain, put the test token and the payment contracts on it, hand out money."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import platformdirs
import trio

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.errors import DeadlineError, GolemError, InternalError, NetworkError, UsageError
from golemp2p.localchain.anvil import AnvilMissingError, anvil_command, install_anvil
from golemp2p.localchain.child import Child, open_child
from golemp2p.payment.contracts import OF_ONE_TOKEN, ContractName, load
from golemp2p.payment.drivers.transactions import mint_call
from golemp2p.payment.networks import PaymentNetwork

CHAIN_ID: Final = 31_337
Kind = Literal["anvil", "embedded"]
_GAS: Final = hex(5_000_000)  # deploying the largest contract takes 1.7 M


@dataclass(frozen=True)
class LocalChain:
    """A running chain. ``kind``: "anvil" or "embedded".

    ``multi`` and ``lock`` stand in for contracts of Golem's that are deployed elsewhere (protocols/contracts/standins).
    """

    rpc_url: str
    chain_id: int
    token_address: Address
    batch: Address
    channels: Address
    multi: Address | None
    lock: Address | None
    kind: Kind
    _client: httpx.AsyncClient
    _banker: Address  # an unlocked account of the chain's node

    def network(self, name: str = "local") -> PaymentNetwork:
        """To pay on it: platform "erc20-local-tglm"."""
        return PaymentNetwork(
            name=name,
            chain_id=self.chain_id,
            token=self.token_address,
            symbol="tglm",
            token_symbol="tGLM",  # noqa: S106 - a name
            rpc_urls=(self.rpc_url,),
            poll_s=0.1,
            rebroadcast_s=5.0,
            batch=self.batch,
            multi=self.multi,
            channels=self.channels,
            lock=self.lock,
            mint=self.token_address,
            mint_kind="token",
        )

    async def faucet(self, address: Address, *, tglm: Amount, eth_wei: int) -> None:
        """Money out of nothing; mined on return."""
        if eth_wei:
            await self.transact({"to": address, "value": hex(eth_wei)})
        if tglm:
            await self.transact({"to": self.token_address, "data": "0x" + mint_call(address, tglm).hex()})

    async def deploy_token(self) -> Address:
        """One more test token, worth nothing to anybody: tests pay with the wrong one."""
        return await self.deploy("TestToken")

    async def deploy(self, name: ContractName) -> Address:
        """One more contract, of the chain's token if it is of one."""
        return await _deploy(self._client, self._banker, name, self.token_address)

    async def transact(self, transaction: dict[str, str]) -> dict[str, Any]:
        """Send from the chain's own account; the receipt. Raises NetworkError."""
        return await _transact(self._client, self._banker, transaction)

    async def call(self, method: str, *params: object) -> Any:
        """Any JSON-RPC call, e.g. ``anvil_mine``. Raises NetworkError."""
        return await _call(self._client, method, params)


@asynccontextmanager
async def open_local_chain(
    *,
    prefer: Kind | None = None,
    cache_dir: Path | None = None,
    chain_id: int = CHAIN_ID,
    block_time_s: float | None = None,
    standins: bool = False,
) -> AsyncIterator[LocalChain]:
    """A fresh chain on a free port of loopback, gone at the end. ``prefer`` forces one kind; else anvil if possible.

    ``standins``: with stand-ins for Golem's multi-transfer and lock contracts.

    ``block_time_s`` None: a block for each transaction, at once (the embedded chain always does that, and has a chain
    id of its own). Raises AnvilMissingError, UsageError, NetworkError.
    """
    kind, command = await _choose(prefer, cache_dir or Path(platformdirs.user_cache_dir("golemp2p")))
    if kind == "embedded" and block_time_s is not None:
        raise UsageError("the embedded chain has no block time", hint="it needs anvil")
    port = _free_port()
    if kind == "anvil":
        full = anvil_command(Path(command[0]), port=port, chain_id=chain_id, block_time_s=block_time_s)
    else:
        full = [*command, str(port)]
    url = f"http://127.0.0.1:{port}"
    async with (
        open_child(full) as child,
        httpx.AsyncClient(base_url=url, timeout=limits.CHAIN_CALL_TIMEOUT_S) as client,
    ):
        found_id = int(await _wait_until_up(client, child, kind), 16)
        banker = (await _call(client, "eth_accounts", []))[0].lower()
        token = await _deploy(client, banker, "TestToken")
        batch = await _deploy(client, banker, "BatchPayer", token)
        channels = await _deploy(client, banker, "VoucherChannels", token)
        multi = await _deploy(client, banker, "MultiTransferStandIn", token) if standins else None
        lock = await _deploy(client, banker, "LockPaymentStandIn", token) if standins else None
        yield LocalChain(url, found_id, token, batch, channels, multi, lock, kind, client, banker)


async def _deploy(
    client: httpx.AsyncClient, banker: Address, name: ContractName, token: Address | None = None
) -> Address:
    code = load(name).deployment(token if name in OF_ONE_TOKEN else None)
    receipt = await _transact(client, banker, {"data": "0x" + code.hex()})
    return Address(receipt["contractAddress"].lower())


async def _choose(prefer: Kind | None, cache_dir: Path) -> tuple[Kind, list[str]]:
    if prefer != "embedded":
        try:
            binary = await trio.to_thread.run_sync(partial(install_anvil, cache_dir))
            return "anvil", [str(binary)]
        except AnvilMissingError as exc:
            if prefer == "anvil":
                raise
            # Never silently: it is slower, and no independent implementation of the EVM's JSON-RPC.
            print(f"golemp2p: {exc.message}; using the embedded chain (py-evm) instead", file=sys.stderr)
    return "embedded", [sys.executable, "-m", "golemp2p.localchain.embedded"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _wait_until_up(client: httpx.AsyncClient, child: Child, kind: Kind) -> str:
    """The chain id, as hex. Raises NetworkError with the child's last words, DeadlineError."""
    with trio.move_on_after(limits.LOCAL_CHAIN_START_S):
        while True:
            try:
                answer: str = await _call(client, "eth_chainId", [])
            except GolemError as exc:
                if child.ended():
                    hint = 'pip install "golemp2p[localchain]"' if kind == "embedded" else ""
                    raise NetworkError(f"the local chain ({kind}) ended: {child.last_words()}", hint=hint) from exc
                await trio.sleep(0.02)
            else:
                return answer
    raise DeadlineError(f"the local chain ({kind}) did not answer within {limits.LOCAL_CHAIN_START_S:g} s")


async def _call(client: httpx.AsyncClient, method: str, params: Sequence[object]) -> Any:
    try:
        response = await client.post("/", json={"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
        answer = response.json()
    except (httpx.HTTPError, ValueError) as exc:
        raise NetworkError(f"the local chain does not answer {method} ({type(exc).__name__})") from exc
    if "error" in answer:
        raise NetworkError(f"the local chain refused {method}: {answer['error'].get('message')}")
    return answer["result"]


async def _transact(client: httpx.AsyncClient, banker: Address, transaction: dict[str, str]) -> dict[str, Any]:
    sent = await _call(client, "eth_sendTransaction", [{"from": banker, "gas": _GAS, **transaction}])
    with trio.move_on_after(limits.LOCAL_CHAIN_START_S):
        while (receipt := await _call(client, "eth_getTransactionReceipt", [sent])) is None:  # noqa: ASYNC110
            await trio.sleep(0.02)
        if int(receipt["status"], 16) != 1:
            raise InternalError(f"the local chain reverted {transaction}")
        found: dict[str, Any] = receipt
        return found
    raise DeadlineError("the local chain made no block")
