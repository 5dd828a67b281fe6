"""First contact: is at the configured addresses what the profile says? Asked once a run, before any money moves."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import structlog
import trio

from golemp2p import limits
from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import DECIMALS
from golemp2p.payment.chain.parse import octets
from golemp2p.payment.chain.pool import EndpointPool, Reverted
from golemp2p.payment.contracts import ContractName, deployed_sha256
from golemp2p.payment.drivers.base import WrongNetworkError
from golemp2p.payment.networks import PaymentNetwork

log = structlog.get_logger(__name__)
_SYMBOL: Final = keccak256(b"symbol()")[:4]
_DECIMALS: Final = keccak256(b"decimals()")[:4]


class Contact:
    """``await contact.made()`` before anything else; the chain ids are the endpoints' own check."""

    def __init__(self, network: PaymentNetwork, pool: EndpointPool) -> None:
        self._network = network
        self._pool = pool
        self._lock = trio.Lock()
        self._done = False
        self._refused: tuple[float, WrongNetworkError] | None = None

    async def made(self) -> None:
        """Raises WrongNetworkError naming what was expected and what was found, NetworkError."""
        if self._is_made():
            return
        async with self._lock:
            if self._is_made():  # by another task, while we waited
                return
            now = trio.current_time()
            if self._refused is not None and now - self._refused[0] < limits.CONTACT_RETRY_S:
                raise self._refused[1]
            try:
                await self._check()
            except WrongNetworkError as exc:
                log.warning("payment_network_wrong", network=self._network.name, problem=exc.message)
                self._refused = (now, exc)
                raise
            self._done = True
            log.info("payment_network_checked", network=self._network.name, token=self._network.token)

    def _is_made(self) -> bool:
        return self._done

    async def _check(self) -> None:
        network = self._network
        await self._check_token()
        ours: tuple[tuple[str, Address | None, ContractName], ...] = (
            ("batch", network.batch, "BatchPayer"),
            ("channels", network.channels, "VoucherChannels"),
        )
        for setting, address, name in ours:
            if address is not None:
                await self._check_code(setting, address, deployed_sha256(name, network.token), name)
        for setting, address in (("multi", network.multi), ("lock", network.lock)):
            if address is not None:
                await self._check_code(setting, address, "", "")

    async def _check_token(self) -> None:
        network = self._network
        if not await self._pool_code(network.token):
            raise self._wrong(f"there is no token at {network.token}")
        found = await self._pool.agree(
            "eth_call", [{"to": network.token, "data": "0x" + _DECIMALS.hex()}, "latest"], octets
        )
        if isinstance(found, Reverted) or len(found) != 32:
            raise self._wrong(f"what is at {network.token} has no decimals(): it is no ERC-20 token")
        decimals = int.from_bytes(found, "big")
        if decimals != DECIMALS:
            raise self._wrong(f"the token at {network.token} has {decimals} decimals, not {DECIMALS}")
        if not network.token_symbol:
            return
        found = await self._pool.agree(
            "eth_call", [{"to": network.token, "data": "0x" + _SYMBOL.hex()}, "latest"], octets
        )
        symbol = "" if isinstance(found, Reverted) else text_of(found)
        if symbol.lower() != network.token_symbol.lower():
            raise self._wrong(f"the token at {network.token} calls itself {symbol!r}, not {network.token_symbol!r}")

    async def _check_code(self, setting: str, address: Address, sha256: str, name: str) -> None:
        code = await self._pool_code(address)
        if not code:
            raise self._wrong(f"there is no contract at {address} (setting {setting})")
        if sha256 and (found := code_sha256(code)) != sha256:
            raise self._wrong(
                f"the contract at {address} (setting {setting}) is not this version's {name} of token"
                f" {self._network.token}: its code has sha256 {found[:16]}…, not {sha256[:16]}…"
            )

    async def _pool_code(self, address: Address) -> bytes:
        found = await self._pool.agree("eth_getCode", [address, "latest"], octets)
        return b"" if isinstance(found, Reverted) else found

    def _wrong(self, what: str) -> WrongNetworkError:
        return WrongNetworkError(
            f"payment network {self._network.name} (chain {self._network.chain_id}): {what}",
            hint="no money moves there; correct [[payment.networks]] in the settings",
        )


def code_sha256(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()


def text_of(answer: bytes) -> str:
    """A string as contracts return it (ABI), or as some old tokens do (32 bytes). "" for anything else."""
    if len(answer) == 32:
        return answer.rstrip(b"\0").decode(errors="replace")
    if len(answer) < 64 or int.from_bytes(answer[:32], "big") != 32:
        return ""
    length = int.from_bytes(answer[32:64], "big")
    return answer[64 : 64 + length].decode(errors="replace") if length <= min(100, len(answer) - 64) else ""


def revert_reason(found: Any) -> str:
    """The text of a Solidity or Vyper ``Error(string)`` in an error's data; "" for anything else."""
    if not isinstance(found, str) or not found.startswith("0x08c379a0"):
        return ""
    try:
        return text_of(bytes.fromhex(found[10:]))
    except ValueError:
        return ""
