"""The pool of endpoints on anvil, each behind a proxy that misbehaves to order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from golemp2p import limits
from golemp2p.core.ids import Address
from golemp2p.core.payment import Fees
from golemp2p.errors import DeadlineError, NetworkError
from golemp2p.identity.keys import NodeKey
from golemp2p.localchain import LocalChain, open_local_chain
from golemp2p.payment.chain import DisagreementError
from golemp2p.payment.drivers.base import BroadcastRefusedError, Call, OutOfGasFundsError, Receipt, WrongNetworkError
from golemp2p.payment.drivers.erc20 import Erc20Driver
from golemp2p.payment.drivers.transactions import TRANSFER_TOPIC, encode_address, transfer_call
from golemp2p.payment.networks import PaymentNetwork
from tests.faultproxy import (
    Fault,
    FaultProxy,
    after_accepting,
    busy,
    delay,
    drop,
    fault_proxy,
    garbage,
    lie,
    refuse,
    silent,
    stale,
    wrong_chain,
)

GWEI = 10**9
YOU = Address("0x" + "99" * 20)
BIDS = Fees(100 * GWEI, GWEI)


@dataclass
class Bench:
    chain: LocalChain
    proxies: list[FaultProxy]
    network: PaymentNetwork
    key: NodeKey

    def driver(self, **changes: Any) -> Erc20Driver:
        return Erc20Driver(replace(self.network, **changes))


@asynccontextmanager
async def open_bench(count: int = 3) -> AsyncIterator[Bench]:
    """Anvil behind ``count`` proxies, and an account with 10 tokens."""
    async with open_local_chain(prefer="anvil") as chain, AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(fault_proxy(chain.rpc_url)) for _ in range(count)]
        key = NodeKey.generate()
        await chain.faucet(key.address, tglm=10 * 10**18, eth_wei=10**18)  # type: ignore[arg-type] # Amount
        network = replace(chain.network(), rpc_urls=tuple(p.url for p in proxies), quorum=min(2, count))
        yield Bench(chain, proxies, network, key)


def payment(driver: Erc20Driver, key: NodeKey, nonce: int, amount: int = 1) -> Any:
    call = Call(driver.network.token, transfer_call(YOU, amount), gas=100_000)
    return driver.sign(key, nonce, call, BIDS)


async def mined(driver: Erc20Driver, transaction: str) -> Receipt:
    """Anvil answers a broadcast a moment before the block is there."""
    with trio.fail_after(10):
        while (receipt := await driver.receipt(transaction)) is None:  # noqa: ASYNC110
            await trio.sleep(0.01)
    return receipt


FAULTS: dict[str, Callable[[], Fault]] = {
    "delay": lambda: delay(0.1),
    "drop": drop,
    "busy": lambda: busy(after_s=1),
    "wrong chain": lambda: wrong_chain(1),
    "stale head": lambda: stale(3_600),
    "error after accepting": after_accepting,
    "garbage": garbage,
    "deep garbage": lambda: garbage(body=b"[" * 100_000),
    "no such result": lambda: lie(lambda *_: {"surprise": []}),
    "no receipts": lambda: drop("eth_getTransactionReceipt", "eth_call"),
    "internal errors": lambda: refuse("internal error"),
    "silent": silent,
}


async def test_one_bad_endpoint_of_three_never_keeps_a_payment_from_being_made_and_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fault alone: reads are right, the transaction arrives, its receipt becomes final."""
    monkeypatch.setattr(limits, "CHAIN_FAILOVER_S", 0.3)
    monkeypatch.setattr(limits, "CHAIN_CALL_TIMEOUT_S", 0.6)
    monkeypatch.setattr(limits, "CHAIN_BROADCAST_GRACE_S", 0.1)
    async with open_bench() as bench:
        for nonce, (name, make) in enumerate(FAULTS.items()):
            bad = bench.proxies[nonce % 3]
            bad.fault = make()
            driver = bench.driver(max_head_age_s=600)
            with trio.fail_after(20):
                assert await driver.balance(bench.key.address) == 10 * 10**18 - nonce, name
                assert await driver.nonce(bench.key.address, final=True) == nonce, name
                signed = payment(driver, bench.key, nonce)
                await driver.broadcast(signed.raw)
                receipt = await mined(driver, signed.hash)
                assert receipt.succeeded, name
                assert receipt.final, name
                found = await driver.verify_transfer(signed.hash)
                assert found is not None, name
                assert [leg.amount for leg in found.legs] == [1], name
            bad.fault = None


async def test_a_lie_about_a_receipt_is_outvoted_and_two_that_differ_stop_everything() -> None:
    async with open_bench() as bench:
        for proxy in bench.proxies[1:]:
            proxy.fault = delay(0.03)  # so the liar is the best endpoint
        driver = bench.driver()
        signed = payment(driver, bench.key, 0)
        await driver.broadcast(signed.raw)

        def failed(_method: str, _params: list[Any], receipt: Any) -> Any:
            return receipt and {**receipt, "status": "0x0"}

        def elsewhere(_method: str, _params: list[Any], receipt: Any) -> Any:
            return {**receipt, "blockHash": "0x" + "13" * 32}

        first, second, _ = bench.proxies
        first.fault = lie(failed, "eth_getTransactionReceipt")
        receipt = await mined(driver, signed.hash)
        assert receipt.succeeded
        assert receipt.final
        [liar] = [e for e in driver.endpoints() if e.problem]
        assert liar.host == first.url.removeprefix("http://")
        assert "says otherwise than the others" in liar.problem

        second.fault = lie(elsewhere, "eth_getTransactionReceipt")
        with pytest.raises(DisagreementError, match="do not agree on eth_getTransactionReceipt") as caught:
            await bench.driver().receipt(signed.hash)
        for proxy in bench.proxies:
            assert proxy.url.removeprefix("http://") in str(caught.value)
        assert "no money moves" in str(caught.value)


async def test_two_that_lie_alike_are_found_out_when_all_three_must_agree() -> None:
    async with open_bench() as bench:
        for proxy in bench.proxies[:2]:
            proxy.fault = lie(lambda *_: "0x5", "eth_getTransactionCount")
        with pytest.raises(DisagreementError, match="eth_getTransactionCount"):
            await bench.driver(quorum=3).nonce(bench.key.address, final=True)


async def test_one_that_lies_about_the_nonce_does_not_make_us_sign_one_that_never_comes() -> None:
    async with open_bench() as bench:
        for proxy in bench.proxies[1:]:
            proxy.fault = delay(0.03)  # so the liar is the best endpoint
        bench.proxies[0].fault = lie(lambda *_: hex(1_000), "eth_getTransactionCount")
        driver = bench.driver()
        await driver.balance(bench.key.address)
        assert await driver.nonce(bench.key.address) == 0


async def test_an_endpoint_that_lags_does_not_make_a_payment_look_lost() -> None:
    """It has no receipt yet: that one is missing must be the word of all that are asked, or it is not believed."""
    async with open_bench() as bench:
        driver = bench.driver()
        signed = payment(driver, bench.key, 0)
        await driver.broadcast(signed.raw)
        await mined(driver, signed.hash)
        for proxy in bench.proxies:
            proxy.fault = lie(lambda *_: None, "eth_getTransactionReceipt")
            found = await driver.receipt(signed.hash)
            proxy.fault = None
            assert found is not None


async def test_what_is_final_is_what_the_endpoints_that_must_agree_have_reached() -> None:
    async with open_bench() as bench:
        driver = bench.driver(confirmations=3, quorum=3)
        bench.proxies[0].freeze()
        frozen = (await bench.driver(quorum=1, rpc_urls=(bench.chain.rpc_url,)).head()).number
        await bench.chain.call("anvil_mine", "0x5")
        assert await driver.final_block() == frozen - 2
        # One that claims blocks which nobody has gains nothing by it.
        bench.proxies[0].fault = lie(lambda _m, _p, block: {**block, "number": "0xffff"}, "eth_getBlockByNumber")
        assert await bench.driver(confirmations=3).final_block() == frozen + 5 - 2


async def test_the_finalized_tag_is_waited_for_until_it_stands_still_for_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_bench() as bench:
        await bench.chain.call("anvil_mine", "0x20")
        head = int(await bench.chain.call("eth_blockNumber"), 16)
        driver = bench.driver(finality="finalized", confirmations=2, deep_confirmations=10, poll_s=0.0)
        # One slot an epoch: anvil's tag is two blocks behind its head.
        assert await driver.final_block() == head - 2

        def behind(_method: str, params: list[Any], block: Any) -> Any:
            return {**block, "number": "0x3"} if params[0] == "finalized" else block

        for proxy in bench.proxies:
            proxy.fault = lie(behind, "eth_getBlockByNumber")
        slow = bench.driver(finality="finalized", confirmations=2, deep_confirmations=10, poll_s=0.0)
        assert await slow.final_block() == 3
        monkeypatch.setattr(limits, "CHAIN_FINALITY_STALL_S", 0.0)
        assert await slow.final_block() == head - 9, "only what is very deep"

        def unknown(_method: str, params: list[Any], block: Any) -> Any:
            if params[0] == "finalized":
                raise ValueError("invalid block tag")
            return block

        for proxy in bench.proxies:
            proxy.fault = lie(unknown, "eth_getBlockByNumber")
        assert await slow.final_block() == head - 9, "so it is where there is no such tag"


async def test_a_transaction_that_all_endpoints_refuse_is_refused_and_one_that_is_known_is_not() -> None:
    async with open_bench() as bench:
        driver, poor = bench.driver(), NodeKey.generate()
        with pytest.raises(OutOfGasFundsError):
            await driver.broadcast(payment(driver, poor, 0).raw)
        for proxy in bench.proxies:
            proxy.fault = refuse("transaction type not supported", "eth_sendRawTransaction")
        signed = payment(driver, bench.key, 0)
        with pytest.raises(BroadcastRefusedError, match="type not supported"):
            await driver.broadcast(signed.raw)
        bench.proxies[2].fault = None
        await driver.broadcast(signed.raw)
        await driver.broadcast(signed.raw)
        await mined(driver, signed.hash)
        assert await driver.nonce(bench.key.address) == 1


async def test_a_busy_endpoint_is_left_alone_for_as_long_as_it_says() -> None:
    async with open_bench(1) as bench:
        driver, (proxy,) = bench.driver(), bench.proxies
        await driver.balance(YOU)
        proxy.fault = busy(after_s=30)
        with pytest.raises(NetworkError, match="is busy"):
            await driver.balance(YOU)
        asked = proxy.requests
        proxy.fault = None
        with pytest.raises(NetworkError, match="is busy"):
            await driver.balance(YOU)
        assert proxy.requests == asked


async def test_a_network_of_another_chain_or_with_another_token_moves_no_money() -> None:
    async with open_bench(1) as bench:
        (proxy,) = bench.proxies
        proxy.fault = wrong_chain(137)
        with pytest.raises(NetworkError, match="is chain 137, not 31337"):
            await bench.driver().broadcast(b"\x02")
        proxy.fault = None
        wrong: dict[str, tuple[dict[str, Any], str]] = {
            "no code": ({"token": YOU}, "there is no token at"),
            "another contract": ({"token": bench.chain.batch}, "no decimals"),
            "symbol": ({"token_symbol": "GLM"}, "calls itself 'tGLM', not 'GLM'"),
            "batch missing": ({"batch": YOU}, "there is no contract at"),
            "batch changed": ({"batch": bench.chain.channels}, "is not this version's BatchPayer"),
            "channels changed": ({"channels": bench.chain.batch}, "is not this version's VoucherChannels"),
            "multi missing": ({"multi": YOU}, "there is no contract at"),
        }
        for changes, said in wrong.values():
            with pytest.raises(WrongNetworkError, match=said):
                await bench.driver(**changes).broadcast(b"\x02")
        proxy.fault = lie(lambda *_: "0x" + "06".zfill(64), "eth_call")
        with pytest.raises(WrongNetworkError, match="has 6 decimals, not 18"):
            await bench.driver().broadcast(b"\x02")
        assert proxy.calls["eth_sendRawTransaction"] == 0


async def test_events_are_scanned_in_pieces_that_the_endpoints_take() -> None:
    async with open_bench() as bench:
        driver = bench.driver()
        for nonce in range(3):
            signed = payment(driver, bench.key, nonce, nonce + 1)
            await driver.broadcast(signed.raw)
            await mined(driver, signed.hash)
            await bench.chain.call("anvil_mine", "0x28")
        last = (await driver.head()).number

        def few(_method: str, params: list[Any], result: Any) -> Any:
            span = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
            if span > 40:
                raise ValueError("query exceeds limit: at most 40 blocks")
            return result

        for proxy in bench.proxies:
            proxy.fault = lie(few, "eth_getLogs")
        topics = [TRANSFER_TOPIC, None, "0x" + encode_address(YOU).hex()]
        found = await driver.logs(driver.network.token, topics, first=0, last=last)
        assert [int.from_bytes(log.data, "big") for log in found] == [1, 2, 3]


async def test_a_dead_network_holds_up_no_other_and_says_so_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHAIN_CALL_TIMEOUT_S", 0.5)
    async with open_bench(2) as bench:
        dead, alive = (bench.driver(rpc_urls=(proxy.url,), quorum=1) for proxy in bench.proxies)
        bench.proxies[0].fault = silent()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_expect_dead, dead)
                for _ in range(20):
                    assert await alive.balance(bench.key.address) == 10 * 10**18
        [status] = dead.endpoints()
        assert not status.healthy
        assert "did not answer within" in status.problem


async def _expect_dead(driver: Erc20Driver) -> None:
    with pytest.raises((NetworkError, DeadlineError)):
        await driver.balance(YOU)


async def test_nothing_is_asked_that_nobody_wants_to_know() -> None:
    async with open_bench() as bench:
        driver = bench.driver()
        assert sum(p.requests for p in bench.proxies) == 0
        await driver.head()
        # Of two the chain id, and all questions of the first contact in one request; of the third, of which nothing is
        # known yet, the chain id and the head.
        assert [p.requests for p in bench.proxies] == [2, 2, 2]
        asked = sum(p.requests for p in bench.proxies)
        for _ in range(50):
            await driver.head()
        assert sum(p.requests for p in bench.proxies) <= asked + 1, "the head is shared within half a poll"


async def test_an_endpoint_that_takes_no_batches_is_asked_one_by_one() -> None:
    async with open_bench(1) as bench:
        bench.proxies[0].batches = False
        driver = bench.driver()
        assert await driver.balance(bench.key.address) == 10 * 10**18
        assert bench.proxies[0].calls["eth_getCode"] == 3
        assert bench.proxies[0].requests == 8, "the chain id, the batch, its five questions, the balance"
