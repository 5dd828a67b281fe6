"""VoucherChannels: every sequence of calls keeps the money, and the payee gets what is vouched for, never more."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from golemp2p.core.ids import Address
from golemp2p.core.money import Amount
from golemp2p.core.payment.vouchers import CLOSED, ChannelConfig, ChannelState, VoucherDomain
from golemp2p.identity import NodeKey
from golemp2p.payment.channels import abi
from golemp2p.payment.channels.abi import ClaimItem
from tests.evm import CHAIN_ID, Evm, Reverted, account

GRACE_S = 3600
FUNDS = 10**24
KEYS = [NodeKey(bytes([7] * 31 + [n])) for n in (1, 2)]
HOT = NodeKey(bytes([9] * 32))
PAYERS = [key.address for key in KEYS]
PAYEES = [account(10), account(11)]
SALT = bytes(32)


@dataclass
class World:
    evm: Evm
    contract: Address
    domain: VoucherDomain

    @classmethod
    def start(cls) -> World:
        evm = Evm.start()
        contract = evm.deploy("VoucherChannels")
        for payer in PAYERS:
            evm.mint(payer, FUNDS)
            evm.approve(payer, contract)
        return cls(evm, contract, VoucherDomain(CHAIN_ID, contract))

    def fund(self, config: ChannelConfig, amount: int) -> None:
        call = abi.fund_call(
            [(config.payee, Amount(amount))], signer=config.signer, grace_s=config.grace_s, salt=config.salt
        )
        self.evm.send(config.payer, self.contract, call)

    def state(self, config: ChannelConfig) -> ChannelState:
        (state,) = abi.read_states(self.evm.view(self.contract, abi.states_call([config.id])), 1)
        return state

    def voucher(self, config: ChannelConfig, cumulative: int, key: NodeKey = HOT) -> ClaimItem:
        return ClaimItem(config, Amount(cumulative), key.sign(self.domain.digest(config.id, cumulative)))

    def claim(self, item: ClaimItem, sender: Address | None = None) -> int:
        answer = self.evm.send(sender or account(99), self.contract, abi.claim_call(item))
        return int.from_bytes(answer, "big")


def config(payer: int = 0, payee: int = 0, *, signer: Address = HOT.address, salt: bytes = SALT) -> ChannelConfig:
    return ChannelConfig(PAYERS[payer], PAYEES[payee], signer, GRACE_S, salt)


@pytest.fixture
def world() -> World:
    return World.start()


def test_the_contract_has_the_ids_and_digests_that_we_compute(world: World) -> None:
    mine = config()
    assert (
        world.evm.view(world.contract, _call("channelId((address,address,address,uint64,bytes32))", mine.encoded))
        == mine.id
    )
    data = mine.id + (123).to_bytes(32, "big")
    assert world.evm.view(world.contract, _call("voucherDigest(bytes32,uint128)", data)) == world.domain.digest(
        mine.id, 123
    )


def _call(signature: str, data: bytes) -> bytes:
    from tests.evm import selector

    return selector(signature) + data


def test_a_stale_voucher_is_no_error_and_pays_nothing(world: World) -> None:
    world.fund(config(), 100)
    assert world.claim(world.voucher(config(), 60)) == 60
    assert [world.claim(world.voucher(config(), old)) for old in (60, 10, 0)] == [0, 0, 0]
    assert world.evm.balance(PAYEES[0]) == 60


def test_a_voucher_above_the_deposit_pays_the_rest_after_a_top_up(world: World) -> None:
    world.fund(config(), 100)
    voucher = world.voucher(config(), 150)
    assert world.claim(voucher) == 100
    world.fund(config(), 80)
    assert world.claim(voucher) == 50
    assert world.state(config()) == ChannelState(Amount(180), Amount(150), 0)


def test_claims_work_in_the_time_of_grace_and_until_it_is_closed(world: World) -> None:
    world.fund(config(), 100)
    world.evm.send(PAYERS[0], world.contract, abi.request_close_call(config()))
    assert world.claim(world.voucher(config(), 30)) == 30
    with pytest.raises(Reverted, match="too early"):
        world.evm.send(PAYERS[0], world.contract, abi.finalize_call(config()))
    world.evm.warp(GRACE_S)
    assert world.claim(world.voucher(config(), 40)) == 10
    world.evm.send(account(98), world.contract, abi.finalize_call(config()))  # anybody may now
    assert world.evm.balance(PAYERS[0]) == FUNDS - 40


def test_a_closed_channel_cannot_be_funded_so_no_old_voucher_comes_to_life(world: World) -> None:
    world.fund(config(), 100)
    old = world.voucher(config(), 90)
    world.evm.send(PAYEES[0], world.contract, abi.finalize_call(config()))  # the payee may at any time
    assert world.state(config()).close_at == CLOSED
    assert world.claim(old) == 0
    with pytest.raises(Reverted, match="channel closing"):
        world.fund(config(), 100)
    other = config(salt=b"\1" * 32)
    world.fund(other, 100)
    with pytest.raises(Reverted, match="bad signature"):
        world.claim(replace(old, config=other))


def test_a_closing_channel_takes_no_funds_and_no_second_wish(world: World) -> None:
    world.fund(config(), 100)
    world.evm.send(PAYERS[0], world.contract, abi.request_close_call(config()))
    with pytest.raises(Reverted, match="channel closing"):
        world.fund(config(), 1)
    with pytest.raises(Reverted, match="channel closing"):
        world.evm.send(PAYERS[0], world.contract, abi.request_close_call(config()))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({}, KEYS[0]),  # the payer itself, who is not the signer
        ({"payee": PAYEES[1]}, HOT),  # for somebody else
        ({"grace_s": 1}, HOT),
    ],
    ids=["another-key", "another-payee", "another-config"],
)
def test_a_forged_voucher_moves_nothing(world: World, change: dict[str, object], key: NodeKey) -> None:
    world.fund(config(), 100)
    item = world.voucher(config(), 50, key)
    forged = replace(item, config=replace(item.config, **change))  # type: ignore[arg-type]  # fields by name
    if change:  # that channel has no deposit
        assert world.claim(forged) == 0
    else:
        with pytest.raises(Reverted, match="bad signature"):
            world.claim(forged)
    assert world.state(config()).claimed == 0


def test_a_voucher_of_another_contract_counts_for_nothing(world: World) -> None:
    world.fund(config(), 100)
    elsewhere = VoucherDomain(CHAIN_ID, account(55))
    with pytest.raises(Reverted, match="bad signature"):
        world.claim(ClaimItem(config(), Amount(50), HOT.sign(elsewhere.digest(config().id, 50))))


@pytest.mark.parametrize("signature", [b"", bytes(65), bytes(64) + b"\x1b", b"\xff" * 65])
def test_a_broken_signature_is_nobodys(world: World, signature: bytes) -> None:
    """ecrecover answers the null address for it, which must never be a signer."""
    world.fund(config(), 100)
    with pytest.raises(Reverted, match="bad signature"):
        world.claim(ClaimItem(config(), Amount(50), signature))
    with pytest.raises(Reverted, match="no signer"):
        world.fund(config(signer=Address("0x" + "00" * 20)), 100)


def test_only_the_payer_begins_a_close(world: World) -> None:
    world.fund(config(), 100)
    for other in (PAYEES[0], HOT.address, PAYERS[1]):
        with pytest.raises(Reverted, match="not the payer"):
            world.evm.send(other, world.contract, abi.request_close_call(config()))


def test_claim_all_pays_one_payee_at_once_and_refuses_a_second(world: World) -> None:
    items = []
    for payer in (0, 1):
        world.fund(config(payer), 100)
        items.append(world.voucher(config(payer), 30 + payer))
    world.evm.send(account(99), world.contract, abi.claim_all_call(items))
    assert world.evm.balance(PAYEES[0]) == 61
    world.fund(config(0, 1), 100)
    with pytest.raises(Reverted, match="payees differ"):
        world.evm.send(account(99), world.contract, abi.claim_all_call([*items, world.voucher(config(0, 1), 5)]))


class Channels(RuleBasedStateMachine):
    """Beside the contract: what each channel should hold, by the rules in words."""

    @initialize()
    def start(self) -> None:
        self.world = World.start()
        self.configs = [config(a, b) for a in (0, 1) for b in (0, 1)]
        self.model: dict[bytes, ChannelState] = {c.id: ChannelState() for c in self.configs}
        self.best: dict[bytes, int] = {c.id: 0 for c in self.configs}  # highest voucher that was shown to the contract
        self.paid = dict.fromkeys(PAYEES, 0)
        self.put = dict.fromkeys(PAYERS, 0)  # by payers, less what came back

    channels = st.integers(0, 3)

    @rule(n=channels, amount=st.integers(0, 1000))
    def fund(self, n: int, amount: int) -> None:
        mine = self.configs[n]
        state = self.model[mine.id]
        if state.close_at:
            with pytest.raises(Reverted):
                self.world.fund(mine, amount)
            return
        self.world.fund(mine, amount)
        self.model[mine.id] = replace(state, deposit=Amount(state.deposit + amount))
        self.put[mine.payer] += amount

    def _book(self, mine: ChannelConfig, cumulative: int) -> int:
        state = self.model[mine.id]
        target = max(state.claimed, min(cumulative, state.deposit))
        self.model[mine.id] = replace(state, claimed=Amount(target))
        self.paid[mine.payee] += target - state.claimed
        return target - state.claimed

    @rule(n=channels, cumulative=st.integers(0, 2000))
    def claim(self, n: int, cumulative: int) -> None:
        mine = self.configs[n]
        expected = self._book(mine, cumulative)
        assert self.world.claim(self.world.voucher(mine, cumulative)) == expected

    @rule(picks=st.lists(st.tuples(channels, st.integers(0, 2000)), min_size=1, max_size=6))
    def claim_many(self, picks: list[tuple[int, int]]) -> None:
        items = [self.world.voucher(self.configs[n], cumulative) for n, cumulative in picks]
        expected = sum(self._book(self.configs[n], cumulative) for n, cumulative in picks)
        answer = self.world.evm.send(
            account(99), self.world.contract, abi.claim_all_call(items, selector=abi.CLAIM_MANY)
        )
        assert int.from_bytes(answer, "big") == expected

    @rule(n=channels)
    def request_close(self, n: int) -> None:
        mine = self.configs[n]
        state = self.model[mine.id]
        if state.deposit == 0 or state.close_at:
            with pytest.raises(Reverted):
                self.world.evm.send(mine.payer, self.world.contract, abi.request_close_call(mine))
            return
        self.world.evm.send(mine.payer, self.world.contract, abi.request_close_call(mine))
        self.model[mine.id] = replace(state, close_at=self.world.evm.now + GRACE_S)

    @rule(n=channels, by_payee=st.booleans())
    def finalize(self, n: int, by_payee: bool) -> None:
        mine = self.configs[n]
        state = self.model[mine.id]
        sender = mine.payee if by_payee else mine.payer
        allowed = state != ChannelState() and state.close_at != CLOSED
        allowed = allowed and (by_payee or 0 < state.close_at <= self.world.evm.now)
        if not allowed:
            with pytest.raises(Reverted):
                self.world.evm.send(sender, self.world.contract, abi.finalize_call(mine))
            return
        self.world.evm.send(sender, self.world.contract, abi.finalize_call(mine))
        self.put[mine.payer] -= state.left
        self.model[mine.id] = ChannelState(state.claimed, state.claimed, CLOSED)

    @rule(seconds=st.sampled_from([1, GRACE_S // 2, GRACE_S]))
    def warp(self, seconds: int) -> None:
        self.world.evm.warp(seconds)

    @precondition(lambda self: hasattr(self, "world"))
    @invariant()
    def money_is_where_the_rules_say(self) -> None:
        world = self.world
        answer = world.evm.view(world.contract, abi.states_call([c.id for c in self.configs]))
        assert abi.read_states(answer, 4) == [self.model[c.id] for c in self.configs]
        assert world.evm.balance(world.contract) == sum(state.left for state in self.model.values())
        for payee in PAYEES:
            assert world.evm.balance(payee) == self.paid[payee]
        for payer in PAYERS:
            assert world.evm.balance(payer) == FUNDS - self.put[payer]


TestAnySequence = Channels.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
