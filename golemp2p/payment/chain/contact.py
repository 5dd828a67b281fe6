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
from golemp2p.payment.chain.pool import EndpointPool
from golemp2p.payment.chain.transport import Question
from golemp2p.payment.chain.votes import Reverted
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
        """All questions at once: of each endpoint one HTTP request, where it takes that."""
        network = self._network
        ours: tuple[tuple[str, Address | None, ContractName | None], ...] = (
            ("batch", network.batch, "BatchPayer"),
            ("channels", network.channels, "VoucherChannels"),
            ("multi", network.multi, None),
        )
        contracts = [(setting, address, name) for setting, address, name in ours if address is not None]
        questions: list[Question] = [
            _code(network.token),
            _call(network.token, _DECIMALS),
            _call(network.token, _SYMBOL),
            *(_code(address) for _, address, _ in contracts),
        ]
        answers = await self._pool.agree_all("what is at the network's addresses", questions, octets)
        code, decimals, symbol, *codes = (b"" if isinstance(answer, Reverted) else answer for answer in answers)
        self._check_token(code, decimals, symbol)
        for (setting, address, name), found in zip(contracts, codes, strict=True):
            self._check_code(setting, address, name, found)

    def _check_token(self, code: bytes, decimals: bytes, symbol: bytes) -> None:
        network = self._network
        if not code:
            raise self._wrong(f"there is no token at {network.token}")
        if len(decimals) != 32:
            raise self._wrong(f"what is at {network.token} has no decimals(): it is no ERC-20 token")
        if (count := int.from_bytes(decimals, "big")) != DECIMALS:
            raise self._wrong(f"the token at {network.token} has {count} decimals, not {DECIMALS}")
        found, wanted = text_of(symbol), network.token_symbol
        if wanted and found.lower() != wanted.lower():
            raise self._wrong(f"the token at {network.token} calls itself {found!r}, not {wanted!r}")

    def _check_code(self, setting: str, address: Address, name: ContractName | None, code: bytes) -> None:
        if not code:
            raise self._wrong(f"there is no contract at {address} (setting {setting})")
        if name is None:
            return
        found, wanted = code_sha256(code), deployed_sha256(name, self._network.token)
        if found != wanted:
            raise self._wrong(
                f"the contract at {address} (setting {setting}) is not this version's {name} of token"
                f" {self._network.token}: its code has sha256 {found[:16]}…, not {wanted[:16]}…"
            )

    def _wrong(self, what: str) -> WrongNetworkError:
        return WrongNetworkError(
            f"payment network {self._network.name} (chain {self._network.chain_id}): {what}",
            hint="no money moves there; correct [[payment.networks]] in the settings",
        )


def _code(address: Address) -> Question:
    return "eth_getCode", (address, "latest")


def _call(address: Address, selector: bytes) -> Question:
    return "eth_call", ({"to": address, "data": "0x" + selector.hex()}, "latest")


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
