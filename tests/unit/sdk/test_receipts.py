"""A receipt arrives in CommandOutput, by the event stream and by the poll, and a payload asks for what it takes."""

from __future__ import annotations

from golemp2p import sdk
from golemp2p.client.activity import BatchEvent
from golemp2p.sdk.activity import _Progress
from golemp2p.sdk.script import RunStep, Script

RECEIPT = {"content": "{}", "signature": "00"}


def a_step(*, check: bool = True) -> RunStep:
    script = Script()
    script.run("main", check=check)
    ((step,),) = script.batches()
    assert isinstance(step, RunStep)
    return step


async def test_a_receipt_comes_by_the_event_stream() -> None:
    for code in (0, 3):
        step = a_step(check=False)
        ended = {"return_code": code, "message": None, "receipt": RECEIPT}
        await _Progress(0, [step]).take(BatchEvent(1, 0, "finished", ended))
        output = await step.handle
        assert (output.exit_code, output.receipt) == (code, RECEIPT)


async def test_a_receipt_comes_by_the_poll() -> None:
    step = a_step()
    result = {"index": 0, "result": "Ok", "stdout": None, "stderr": None, "message": None, "receipt": RECEIPT}
    await _Progress(0, [step]).take_result(result)
    output = await step.handle
    assert (output.exit_code, output.receipt) == (0, RECEIPT)


async def test_most_runs_have_none() -> None:
    step = a_step()
    await _Progress(0, [step]).take(BatchEvent(1, 0, "finished", {"return_code": 0, "message": None}))
    assert (await step.handle).receipt is None


async def test_a_deterministic_payload_demands_the_capability_and_the_memory() -> None:
    payload = await sdk.payload.wasm(b"\0asm\1\0\0\0", deterministic=True)
    assert dict(payload.demand)["golem.!exp.golemp2p.deterministic"] is True
    assert "(golem.runtime.capabilities=deterministic)" in payload.constraints
    assert any(clause.startswith("(golem.inf.mem.gib>=0.5") for clause in payload.constraints)
