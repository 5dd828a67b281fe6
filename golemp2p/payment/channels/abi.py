"""Calls, answers and events of VoucherChannels (protocols/contracts), encoded by hand.

Sources: the contract ABI specification, the compiled ABI in payment/contracts. A test compares with eth-abi.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment.vouchers import ChannelConfig, ChannelState
from golemp2p.errors import NetworkError
from golemp2p.payment.drivers.base import Log

_CONFIG: Final = "(address,address,address,uint64,bytes32)"
CLAIMED: Final = "0x" + keccak256(b"Claimed(bytes32,address,address,uint128,uint128)").hex()
CLOSE_REQUESTED: Final = "0x" + keccak256(b"CloseRequested(bytes32,address,address,uint64)").hex()


def _selector(signature: str) -> bytes:
    return keccak256(signature.encode())[:4]


FUND_MANY: Final = _selector("fundMany(address[],uint128[],address,uint64,bytes32)")
CLAIM: Final = _selector(f"claim({_CONFIG},uint128,bytes)")
CLAIM_ALL: Final = _selector(f"claimAll({_CONFIG}[],uint128[],bytes[])")
CLAIM_MANY: Final = _selector(f"claimMany({_CONFIG}[],uint128[],bytes[])")
REQUEST_CLOSE: Final = _selector(f"requestClose({_CONFIG})")
FINALIZE: Final = _selector(f"finalize({_CONFIG})")
STATES: Final = _selector("states(bytes32[])")


@dataclass(frozen=True)
class ClaimItem:
    config: ChannelConfig
    cumulative: Amount
    signature: bytes


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _address(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


def _bytes(data: bytes) -> bytes:
    return _word(len(data)) + data + bytes(-len(data) % 32)


def _tail(head: Sequence[bytes | None], tails: Sequence[bytes]) -> bytes:
    """Arguments: a static one stands in ``head``; None there is the offset of the next of ``tails``."""
    size = sum(32 if part is None else len(part) for part in head)
    out, rest, waiting = b"", b"", list(tails)
    for part in head:
        if part is not None:
            out += part
            continue
        out += _word(size + len(rest))
        rest += waiting.pop(0)
    return out + rest


def fund_call(payees: Sequence[tuple[Address, Amount]], *, signer: Address, grace_s: int, salt: bytes) -> bytes:
    """Open or top up the sender's channels with these payees."""
    addresses = _word(len(payees)) + b"".join(_address(payee) for payee, _ in payees)
    amounts = _word(len(payees)) + b"".join(_word(amount) for _, amount in payees)
    return FUND_MANY + _tail([None, None, _address(signer), _word(grace_s), salt], [addresses, amounts])


def claim_call(item: ClaimItem) -> bytes:
    return CLAIM + _tail([item.config.encoded, _word(item.cumulative), None], [_bytes(item.signature)])


def claim_all_call(items: Sequence[ClaimItem], *, selector: bytes = CLAIM_ALL) -> bytes:
    """Of one payee; with ``selector`` CLAIM_MANY of several."""
    count = _word(len(items))
    configs = count + b"".join(item.config.encoded for item in items)
    cumulatives = count + b"".join(_word(item.cumulative) for item in items)
    signatures = count + _tail([None] * len(items), [_bytes(item.signature) for item in items])
    return selector + _tail([None, None, None], [configs, cumulatives, signatures])


def request_close_call(config: ChannelConfig) -> bytes:
    return REQUEST_CLOSE + config.encoded


def finalize_call(config: ChannelConfig) -> bytes:
    return FINALIZE + config.encoded


def states_call(ids: Sequence[bytes]) -> bytes:
    return STATES + _word(32) + _word(len(ids)) + b"".join(ids)


def read_states(answer: bytes, count: int) -> list[ChannelState]:
    """Raises NetworkError for an answer that the contract cannot have given."""
    if len(answer) != 64 + 96 * count or int.from_bytes(answer[32:64], "big") != count:
        raise NetworkError(f"the channel contract answers {len(answer)} bytes for {count} channels")
    words = [int.from_bytes(answer[64 + i : 96 + i], "big") for i in range(0, 96 * count, 32)]
    return [ChannelState(Amount(words[i]), Amount(words[i + 1]), words[i + 2]) for i in range(0, 3 * count, 3)]


@dataclass(frozen=True)
class ClaimedEvent:
    channel_id: bytes
    paid: Amount
    claimed: Amount  # in all
    transaction: str
    block_number: int
    block_hash: str


def claims_topics(channel_id: bytes) -> list[str | None]:
    return [CLAIMED, "0x" + channel_id.hex()]


def read_claimed(log: Log) -> ClaimedEvent:
    return ClaimedEvent(
        bytes.fromhex(log.topics[1][2:]),
        Amount(int.from_bytes(log.data[:32], "big")),
        Amount(int.from_bytes(log.data[32:64], "big")),
        log.transaction,
        log.block_number,
        log.block_hash,
    )
