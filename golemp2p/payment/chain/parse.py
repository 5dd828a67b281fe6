"""What endpoints answer, as typed facts. Whatever has not the right shape is the endpoint's failure, never ours."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.core.payment import Leg
from golemp2p.payment.chain.errors import EndpointError
from golemp2p.payment.drivers.base import Log
from golemp2p.payment.drivers.transactions import TRANSFER_TOPIC

_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA: Final = re.compile(r"0x([0-9a-fA-F]{2})*")
_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")


@dataclass(frozen=True)
class Block:
    number: int
    hash: str
    timestamp: int
    base_fee: int


@dataclass(frozen=True)
class MinedReceipt:
    """Equal for endpoints that tell the same; ``price`` (wei per gas), which some leave out, does not count."""

    transaction: str
    block_number: int
    block_hash: str
    succeeded: bool
    gas_used: int
    logs: tuple[Log, ...]
    sender: Address
    target: Address | None  # None: it made a contract
    price: int = field(compare=False)

    def __str__(self) -> str:
        verdict = "succeeded" if self.succeeded else "failed"
        return f"{verdict} in block {self.block_number} ({self.block_hash[:10]}…), {len(self.logs)} events"


def quantity(value: Any, host: str) -> int:
    """A number in hex (some write small ones as JSON numbers). Raises EndpointError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and _QUANTITY.fullmatch(value):
        return int(value, 16)
    raise _garbage(host, "a number")


def octets(value: Any, host: str) -> bytes:
    if isinstance(value, str) and _DATA.fullmatch(value):
        return bytes.fromhex(value[2:])
    raise _garbage(host, "bytes")


def _hash(value: Any, host: str) -> str:
    if isinstance(value, str) and _HASH.fullmatch(value):
        return value.lower()
    raise _garbage(host, "a hash")


def _address(value: Any, host: str) -> Address:
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        return Address(value.lower())
    raise _garbage(host, "an address")


def _fields(value: Any, host: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise _garbage(host, "an object")


def _garbage(host: str, what: str) -> EndpointError:
    return EndpointError(f"{host} answers something else where {what} should be")


def parse_block(value: Any, host: str) -> Block:
    fields = _fields(value, host)
    return Block(
        quantity(fields.get("number"), host),
        _hash(fields.get("hash"), host),
        quantity(fields.get("timestamp"), host),
        quantity(fields.get("baseFeePerGas") or 0, host),
    )


def parse_receipt(value: Any, host: str, *, transaction: str) -> MinedReceipt | None:
    """None while it is in no block; some endpoints answer for waiting ones, too."""
    if value is None:
        return None
    fields = _fields(value, host)
    if fields.get("blockNumber") is None:
        return None
    found = _hash(fields.get("transactionHash"), host)
    if found != transaction:
        raise _garbage(host, "the receipt asked for")
    logs = fields.get("logs")
    if not isinstance(logs, list) or len(logs) > limits.MAX_CHAIN_LOGS:
        raise _garbage(host, "a list of events")
    return MinedReceipt(
        transaction=found,
        block_number=quantity(fields.get("blockNumber"), host),
        block_hash=_hash(fields.get("blockHash"), host),
        succeeded=quantity(fields.get("status"), host) == 1,
        gas_used=quantity(fields.get("gasUsed"), host),
        logs=tuple(parse_log(log, host) for log in logs),
        sender=_address(fields.get("from"), host),
        target=None if fields.get("to") is None else _address(fields.get("to"), host),
        price=quantity(fields.get("effectiveGasPrice") or 0, host),
    )


def parse_logs(value: Any, host: str) -> tuple[Log, ...]:
    if not isinstance(value, list) or len(value) > limits.MAX_CHAIN_LOGS:
        raise _garbage(host, "a list of events")
    logs = [parse_log(one, host) for one in value]
    return tuple(sorted(logs, key=lambda log: (log.block_number, log.log_index)))


def parse_log(value: Any, host: str) -> Log:
    fields = _fields(value, host)
    topics = fields.get("topics")
    if not isinstance(topics, list) or len(topics) > 4 or fields.get("removed") is True:
        raise _garbage(host, "an event")
    return Log(
        address=_address(fields.get("address"), host),
        topics=tuple(_hash(topic, host) for topic in topics),
        data=octets(fields.get("data"), host),
        block_number=quantity(fields.get("blockNumber"), host),
        block_hash=_hash(fields.get("blockHash"), host),
        transaction=_hash(fields.get("transactionHash"), host),
        log_index=quantity(fields.get("logIndex"), host),
    )


def leg_of(log: Log) -> Leg | None:
    """An ERC-20 Transfer event, else None (ERC-721 has the same topic but four of them)."""
    if len(log.topics) != 3 or log.topics[0] != TRANSFER_TOPIC or len(log.data) != 32:
        return None
    return Leg(
        log_index=log.log_index,
        token=log.address,
        sender=Address("0x" + log.topics[1][-40:]),
        recipient=Address("0x" + log.topics[2][-40:]),
        amount=int.from_bytes(log.data, "big"),
    )
