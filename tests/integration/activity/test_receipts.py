"""A deterministic run from the demand to `golemp2p verify`: two nodes, a real worker, the provider's own key."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from typer.testing import CliRunner

from golemp2p.activity.receipts import Notary
from golemp2p.cli.main import app
from golemp2p.core.activity import CommandResult
from golemp2p.core.agreement import Agreement
from golemp2p.core.eip712 import Domain
from golemp2p.core.receipt import Receipt, verify_receipt
from golemp2p.errors import RemoteProtocolError
from golemp2p.identity.keys import NodeKey
from golemp2p.net.memory import MemoryHub
from golemp2p.runtimes.wasm.runtime import WasmRuntime
from golemp2p.wire.p2p.activity import EventBody
from golemp2p.wire.rest.activity import result_body
from tests.integration.activity.harness import Pair, open_node
from tests.integration.runtimes import wats

DOMAIN = Domain("local", 1337)
RUN = {"run": {"entry_point": "main", "args": ["a"], "capture": {"stdout": {"stream": {}}, "stderr": {"stream": {}}}}}
KEY = NodeKey(b"\x09" * 32)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with open_receipts(tmp_path, Notary(KEY, DOMAIN, time.time)) as both:
        yield both


@asynccontextmanager
async def open_receipts(tmp_path: Path, notary: Notary) -> AsyncIterator[Pair]:
    hub = MemoryHub()
    async with (
        open_node(hub, tmp_path / "r", {}) as requestor,
        open_node(
            hub,
            tmp_path / "p",
            {"wasmtime": WasmRuntime(tmp_path / "cache" / "modules")},
            key=KEY,
            notary=notary,
        ) as provider,
    ):
        await requestor.network.connect(provider.network.addresses()[0])
        yield Pair(hub, requestor, provider)


async def run(pair: Pair, tmp_path: Path, program: bytes, *, deterministic: bool = True) -> CommandResult:
    url, _ = await pair.publish(program, tmp_path)
    demand = {"golem.!exp.golemp2p.deterministic": True} if deterministic else {}
    agreement = pair.agree(url, demand=demand)
    for node in (pair.requestor, pair.provider):
        known = node.agreements[agreement]
        node.agreements[agreement] = replace(known, offer={**known.offer, "golem.inf.mem.gib": 1.0})
    requestor = pair.requestor.service.requestor
    activity = await requestor.live_activity(await requestor.create(agreement, timeout_s=30))
    batch = activity.batch(activity.exec(json.dumps([{"deploy": {"env": {"A": "b"}}}, {"start": {}}, RUN])))
    results = await batch.results(30)
    assert len(results) == 3, results[-1].message
    receipt = results[2].receipt
    if receipt is not None:
        assert (receipt.agreement_id, receipt.activity_id, receipt.batch_id) == (agreement, activity.id, batch.id)
    await activity.destroy(5)
    return results[2]


async def test_a_receipt_comes_with_the_result_and_can_be_verified_by_anyone(pair: Pair, tmp_path: Path) -> None:
    result = await run(pair, tmp_path, wats.NOSY)
    receipt = result.receipt
    assert result.ok
    assert receipt is not None
    verify_receipt(receipt)
    assert (receipt.provider, receipt.command) == (pair.provider.key.peer_id, 2)
    assert (receipt.evidence.argv, receipt.evidence.env) == (("main", "a"), (("A", "b"),))
    again = await run(pair, tmp_path, wats.NOSY)
    assert again.receipt is not None
    assert again.receipt.content == receipt.content  # another activity, the same evidence to the byte

    document = tmp_path / "result.json"
    document.write_text(json.dumps(result_body(result)))
    program = tmp_path / "nosy.wasm"
    program.write_bytes(wats.NOSY)
    for extra in ([], ["--program", program.name]):  # nothing is compiled yet there, and the path is relative
        code, out = await command("verify", str(document), *extra, cache=tmp_path / "verifier")
        assert code == 0, out
        assert "verified: signed" in out


async def command(*arguments: str, cache: Path) -> tuple[int, str]:
    done = await trio.run_process(
        [sys.executable, "-m", "golemp2p.cli.main", *arguments],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        env={"GOLEMP2P_CACHE_DIR": str(cache), "HOME": str(cache)},
        cwd=cache.parent,
    )
    return done.returncode, done.stdout.decode()


async def test_without_the_wish_there_is_no_receipt(pair: Pair, tmp_path: Path) -> None:
    result = await run(pair, tmp_path, wats.HELLO, deterministic=False)
    assert result.receipt is None
    assert "receipt" not in result_body(result)


async def test_a_program_that_fails_gets_a_receipt_too(pair: Pair, tmp_path: Path) -> None:
    result = await run(pair, tmp_path, wats.EXIT_3)
    assert not result.ok
    assert result.receipt is not None
    assert (result.receipt.evidence.exit_code, result.receipt.evidence.reason) == (3, "exited")


class Liar(Notary):
    """Signs something else than what is asked for."""

    def sign(self, agreement: Agreement, *args: Any, **kwargs: Any) -> Receipt:
        honest = super().sign(agreement, *args, **kwargs)
        lie = self.lie(honest)
        return replace(lie, signature=self.signer.sign(lie.digest()))

    def lie(self, receipt: Receipt) -> Receipt:
        return receipt


class OfAnotherCommand(Liar):
    def lie(self, receipt: Receipt) -> Receipt:
        return replace(receipt, command=receipt.command + 1)


@pytest.mark.parametrize(
    "notary",
    [
        Notary(NodeKey(b"\x0a" * 32), DOMAIN, time.time),  # another key, another name
        OfAnotherCommand(KEY, DOMAIN, time.time),
    ],
)
async def test_a_receipt_that_is_not_the_providers_word_on_this_command_is_dropped(
    tmp_path: Path, notary: Notary
) -> None:
    async with open_receipts(tmp_path, notary) as pair:
        result = await run(pair, tmp_path, wats.HELLO)
        assert (result.ok, result.receipt) == (True, None)


async def test_a_forged_receipt_is_found_out(pair: Pair, tmp_path: Path) -> None:
    result = await run(pair, tmp_path, wats.HELLO)
    assert result.receipt is not None
    program = tmp_path / "hello.wasm"
    program.write_bytes(wats.HELLO)
    claimed = json.loads(result.receipt.content)
    lie = json.dumps({**claimed, "stdout": "0" * 64}).encode()
    unsigned = replace(result.receipt, content=lie)
    honest_signature_of_a_lie = replace(unsigned, signature=KEY.sign(unsigned.digest()))
    for receipt, words in (
        (unsigned, "is not signed by"),
        (honest_signature_of_a_lie, "standard output: the receipt says 0000"),
    ):
        document = tmp_path / "receipt.json"
        document.write_text(json.dumps(receipt.to_document()))
        code, out = await command("verify", str(document), "--program", str(program), cache=tmp_path / "cache")
        assert (code, words in out) == (1, True), out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "not a receipt"),
        ("[]", "a receipt is an object"),
        ('{"agreement": {}}', "agreement verify"),
        ('{"receipt": {"content": "x"}}', "provider is missing"),
    ],
)
def test_what_is_no_receipt_is_refused(tmp_path: Path, text: str, words: str) -> None:
    document = tmp_path / "x.json"
    document.write_text(text)
    result = CliRunner().invoke(app, ["verify", str(document)])
    assert result.exception is not None
    assert words in str(result.exception)


def test_a_receipt_from_the_wire_is_read_with_suspicion() -> None:
    body = EventBody(seq=0, index=0, at=1.0, kind="finished", receipt={"content": 3})
    with pytest.raises(RemoteProtocolError, match="content"):
        body.to_event()
