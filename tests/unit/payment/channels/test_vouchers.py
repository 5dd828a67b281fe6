"""Vouchers by hand are those of EIP-712 libraries; what they are worth; what a payee demands."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import ZERO, Amount
from golemp2p.core.payment.vouchers import (
    CLOSED,
    EXPOSURE,
    MODE,
    ChannelConfig,
    ChannelRules,
    ChannelState,
    Cover,
    Share,
    Voucher,
    VoucherDomain,
    check_top_up,
    check_voucher,
    cover_of,
    credit_shares,
    exposure_of,
    mode_of,
)
from golemp2p.errors import RemoteProtocolError, UsageError
from golemp2p.identity import NodeKey
from golemp2p.payment.channels import abi
from golemp2p.payment.contracts import load

KEY, OTHER = NodeKey(b"\1" * 32), NodeKey(b"\2" * 32)
PAYEE = Address("0x" + "ab" * 20)
CONFIG = ChannelConfig(OTHER.address, PAYEE, KEY.address, 86_400, b"\7" * 32)
DOMAIN = VoucherDomain(80_002, Address("0x" + "cd" * 20))
amounts = st.integers(0, 10**24).map(Amount)


@given(cumulative=st.integers(0, 2**128 - 1))
def test_a_digest_is_what_eth_account_signs(cumulative: int) -> None:
    typed = encode_typed_data(
        {"name": "golemp2p channels", "version": "1", "chainId": 80_002, "verifyingContract": DOMAIN.contract},
        {"Voucher": [{"name": "channelId", "type": "bytes32"}, {"name": "cumulative", "type": "uint128"}]},
        {"channelId": CONFIG.id, "cumulative": cumulative},
    )
    mine = KEY.sign(DOMAIN.digest(CONFIG.id, cumulative))
    assert bytes(Account.sign_message(typed, KEY.secret).signature) == mine
    check_voucher(DOMAIN, CONFIG, Voucher(CONFIG.id, Amount(cumulative), mine))


def test_an_id_is_the_hash_of_the_configuration_as_the_abi_has_it() -> None:
    words = [CONFIG.payer, CONFIG.payee, CONFIG.signer, CONFIG.grace_s, CONFIG.salt]
    assert CONFIG.id == keccak256(encode(["address", "address", "address", "uint64", "bytes32"], words))


@pytest.mark.parametrize("where", [0, 20, 40, 64])
def test_a_changed_byte_of_a_signature_is_refused(where: int) -> None:
    good = KEY.sign(DOMAIN.digest(CONFIG.id, 5))
    bad = bytearray(good)
    bad[where] ^= 1
    with pytest.raises(RemoteProtocolError):
        check_voucher(DOMAIN, CONFIG, Voucher(CONFIG.id, Amount(5), bytes(bad)))
    with pytest.raises(RemoteProtocolError, match="is not that of"):
        check_voucher(DOMAIN, CONFIG, Voucher(CONFIG.id, Amount(6), good))
    with pytest.raises(RemoteProtocolError, match="another channel"):
        check_voucher(DOMAIN, CONFIG, Voucher(bytes(32), Amount(5), good))


def test_calls_by_hand_are_those_of_eth_abi() -> None:
    config_type = "(address,address,address,uint64,bytes32)"
    config = (CONFIG.payer, CONFIG.payee, CONFIG.signer, CONFIG.grace_s, CONFIG.salt)
    item = abi.ClaimItem(CONFIG, Amount(77), KEY.sign(DOMAIN.digest(CONFIG.id, 77)))
    expected = encode([config_type, "uint128", "bytes"], [config, 77, item.signature])
    assert abi.claim_call(item) == abi.CLAIM + expected
    lists = [[config] * 3, [77] * 3, [item.signature] * 3]
    assert abi.claim_all_call([item] * 3) == abi.CLAIM_ALL + encode([f"{config_type}[]", "uint128[]", "bytes[]"], lists)
    payees = [(PAYEE, Amount(1)), (OTHER.address, Amount(2))]
    assert abi.fund_call(payees, signer=KEY.address, grace_s=9, salt=b"\3" * 32) == abi.FUND_MANY + encode(
        ["address[]", "uint128[]", "address", "uint64", "bytes32"],
        [[PAYEE, OTHER.address], [1, 2], KEY.address, 9, b"\3" * 32],
    )
    answer = encode(["(uint128,uint128,uint64)[]"], [[(5, 3, CLOSED), (1, 0, 0)]])
    assert abi.read_states(answer, 2) == [
        ChannelState(Amount(5), Amount(3), CLOSED),
        ChannelState(Amount(1), Amount(0), 0),
    ]
    assert {e["name"] for e in load("VoucherChannels").abi if e["type"] == "event"} >= {"Claimed", "CloseRequested"}


@given(
    owed=st.lists(st.tuples(amounts, amounts), max_size=8),
    claims=st.lists(amounts, max_size=8),
)
def test_claims_are_given_out_once_and_never_beyond_what_was_vouched(
    owed: list[tuple[Amount, Amount]], claims: list[Amount]
) -> None:
    shares = [Share(f"a{n}", a, min(a, b)) for n, (a, b) in enumerate(owed)]
    for claim in claims:
        open_before = sum(s.amount - s.credited for s in shares)
        given_out = credit_shares(shares, claim)
        assert sum(amount for _, amount in given_out) == min(claim, open_before)
        changed = {share.agreement_id: share for share, _ in given_out}
        shares = [changed.get(s.agreement_id, s) for s in shares]
        assert all(s.credited <= s.amount for s in shares)


@given(deposit=amounts, cumulative=amounts, vouched=amounts)
def test_only_what_is_locked_is_secured(deposit: Amount, cumulative: Amount, vouched: Amount) -> None:
    vouched = min(vouched, cumulative)
    cover = cover_of(ChannelState(deposit), cumulative, vouched)
    assert ZERO <= cover.secured <= min(vouched, deposit)
    if cumulative <= deposit:
        assert cover.secured == vouched


RULES = ChannelRules(PAYEE, 3600, Amount(10))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (CONFIG, ""),
        (replace(CONFIG, payee=KEY.address), "payee is"),
        (replace(CONFIG, payer=KEY.address), "payer is"),
        (replace(CONFIG, grace_s=3599), "at least 3600 s"),
    ],
    ids=["good", "payee", "payer", "grace"],
)
def test_a_channel_that_will_never_do_is_refused_with_the_reason(config: ChannelConfig, why: str) -> None:
    reason = RULES.refusal_of_config(config, OTHER.address)
    assert why in reason
    assert bool(reason) == bool(why)


@pytest.mark.parametrize(
    ("state", "vouched", "why"),
    [
        (ChannelState(Amount(100)), 90, ""),
        (ChannelState(Amount(100)), 91, "at least"),
        (ChannelState(Amount(100), Amount(95)), 0, "at least"),
        (ChannelState(), 0, "no deposit"),
        (ChannelState(Amount(100), ZERO, 5), 0, "being closed"),
        (ChannelState(Amount(100), ZERO, CLOSED), 0, "is closed"),
    ],
    ids=["good", "vouched", "claimed", "empty", "closing", "closed"],
)
def test_a_channel_that_does_not_do_now_is_refused_with_the_reason(state: ChannelState, vouched: int, why: str) -> None:
    reason = RULES.refusal_of_state(state, Amount(vouched))
    assert why in reason
    assert bool(reason) == bool(why)


def test_terms_are_the_demands_before_the_offers() -> None:
    assert mode_of({}) == "batch"
    assert mode_of({MODE: "channel"}) == "channel"
    assert exposure_of({EXPOSURE: 0.5}, {EXPOSURE: 1.0}) == 0.5
    assert exposure_of({}, {EXPOSURE: 1.0}) == 1.0
    assert exposure_of({}, {}) is None


def test_a_closing_channel_is_not_topped_up() -> None:
    with pytest.raises(UsageError, match="takes no more"):
        check_top_up(ChannelState(Amount(1), ZERO, 7), Amount(1))
    with pytest.raises(UsageError, match="at most"):
        check_top_up(ChannelState(Amount(1)), Amount(2**96))


def test_in_a_channel_that_is_being_closed_only_what_was_claimed_is_sure() -> None:
    closing = ChannelState(Amount(10), Amount(2), close_at=5)
    assert cover_of(closing, Amount(6), Amount(6)) == Cover(Amount(6), Amount(2))
    assert cover_of(replace(closing, close_at=0), Amount(6), Amount(6)) == Cover(Amount(6), Amount(6))
