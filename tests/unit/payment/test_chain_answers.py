"""Whatever an endpoint answers, it is a typed fact or its own failure; and errors are told apart by what they mean."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.payment.chain.contact import revert_reason, text_of
from golemp2p.payment.chain.errors import EndpointError, RpcAnswerError
from golemp2p.payment.chain.parse import (
    MinedReceipt,
    leg_of,
    octets,
    parse_block,
    parse_log,
    parse_logs,
    parse_receipt,
    quantity,
)
from golemp2p.payment.drivers.transactions import TRANSFER_TOPIC

HASH, ADDRESS = "0x" + "ab" * 32, "0x" + "cd" * 20
LOG = {
    "address": ADDRESS,
    "topics": [TRANSFER_TOPIC, "0x" + "00" * 12 + "11" * 20, "0x" + "00" * 12 + "22" * 20],
    "data": "0x" + "00" * 31 + "07",
    "blockNumber": "0x10",
    "blockHash": HASH,
    "transactionHash": HASH,
    "logIndex": "0x3",
}
RECEIPT = {
    "transactionHash": HASH,
    "blockNumber": "0x10",
    "blockHash": HASH,
    "status": "0x1",
    "gasUsed": "0x5208",
    "logs": [LOG],
    "effectiveGasPrice": "0x7",
    "from": ADDRESS,
    "to": ADDRESS,
}
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=70) | st.just(HASH),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*LOG, *RECEIPT]), inner, max_size=6),
    max_leaves=12,
)


@given(json)
def test_any_json_is_a_fact_or_the_endpoints_failure(value: Any) -> None:
    for parse in (quantity, octets, parse_block, parse_log, parse_logs):
        try:
            parse(value, "host")
        except EndpointError as exc:
            assert exc.message.startswith("host answers")
    with contextlib.suppress(EndpointError):
        parse_receipt(value, "host", transaction=HASH)


@given(st.sampled_from(sorted(RECEIPT)), json)
def test_a_receipt_with_one_field_changed_is_another_fact_or_none_at_all(field: str, value: Any) -> None:
    good = parse_receipt(RECEIPT, "a", transaction=HASH)
    try:
        other = parse_receipt({**RECEIPT, field: value}, "b", transaction=HASH)
    except EndpointError:
        return
    if field == "effectiveGasPrice":
        assert other == good, "some endpoints leave the price out: it is no ground to disagree"
    elif isinstance(other, MinedReceipt) and other == good:
        assert value in (RECEIPT[field], quantity(RECEIPT[field], "") if isinstance(RECEIPT[field], str) else None)


def test_only_the_receipt_that_was_asked_for_is_taken() -> None:
    with pytest.raises(EndpointError):
        parse_receipt(RECEIPT, "host", transaction="0x" + "00" * 32)
    assert parse_receipt({**RECEIPT, "blockNumber": None}, "host", transaction=HASH) is None
    assert parse_receipt(None, "host", transaction=HASH) is None


def test_a_transfer_event_is_one_of_three_topics_and_one_word() -> None:
    leg = leg_of(parse_log(LOG, "host"))
    assert leg is not None
    assert (leg.log_index, leg.token, leg.sender, leg.recipient, leg.amount) == (
        3,
        ADDRESS,
        "0x" + "11" * 20,
        "0x" + "22" * 20,
        7,
    )
    assert leg_of(parse_log({**LOG, "topics": [*LOG["topics"], HASH]}, "host")) is None, "an ERC-721 token has four"
    assert leg_of(parse_log({**LOG, "topics": [HASH, HASH, HASH]}, "host")) is None
    assert leg_of(parse_log({**LOG, "data": "0x"}, "host")) is None


@pytest.mark.parametrize(
    ("text", "code", "reverted", "busy", "about_call"),
    [
        ("execution reverted: no", 3, True, False, True),
        ("VM Exception while processing transaction: revert", -32000, True, False, True),
        ("daily request count exceeded, request rate limited: rate limit", -32005, False, True, False),
        ("Too Many Requests", 429, False, True, False),
        ("nonce too low", -32000, False, False, True),
        ("insufficient funds for gas * price + value", -32000, False, False, True),
        ("header not found", -32000, False, False, False),
        ("the method eth_feeHistory does not exist", -32601, False, False, False),
    ],
    ids=["reverted", "reverted by ganache", "rate", "429", "nonce", "funds", "behind", "method"],
)
def test_an_error_is_about_the_call_or_about_the_endpoint(
    text: str, code: int, reverted: bool, busy: bool, about_call: bool
) -> None:
    error = RpcAnswerError(text, text=text, rpc_code=code)
    assert (error.reverted, error.busy, error.about_call) == (reverted, busy, about_call)


@given(st.binary(max_size=200))
def test_what_a_token_calls_itself_may_be_anything(answer: bytes) -> None:
    assert len(text_of(answer)) <= 100
    revert_reason("0x08c379a0" + answer.hex())


def test_symbols_come_in_two_shapes_and_reasons_in_one() -> None:
    word = (32).to_bytes(32, "big") + (4).to_bytes(32, "big") + b"tGLM".ljust(32, b"\0")
    assert text_of(word) == "tGLM"
    assert text_of(b"MKR".ljust(32, b"\0")) == "MKR"
    assert revert_reason("0x08c379a0" + word.hex()) == "tGLM"
    assert revert_reason("0x") == revert_reason(None) == ""
