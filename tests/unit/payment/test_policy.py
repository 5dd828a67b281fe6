"""Usage that no machine can have had is not paid by the node itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from golemp2p import limits
from golemp2p.core.ids import DocumentId
from golemp2p.core.money import linear_cost
from golemp2p.core.payment import Document, DocumentKind, Ledger, refusal_of_debit_note
from golemp2p.core.properties import PropertyValue
from golemp2p.identity.keys import NodeKey
from tests.unit.payment.world import ACTIVITY, COEFFS, PLATFORM, START, make_agreement

LIFE_S = 1_000.0


def refusal(duration_s: float, cpu_s: float, *, threads: PropertyValue, runtime: str = "vm") -> str:
    agreement = make_agreement(NodeKey.generate(), NodeKey.generate())
    offer = {**agreement.offer, "golem.inf.cpu.threads": threads, "golem.runtime.name": runtime}
    note = Document(
        kind=DocumentKind.DEBIT_NOTE,
        id=DocumentId("n"),
        agreement_id=agreement.id,
        activity_ids=(ACTIVITY,),
        payer=agreement.requestor_address,
        payee=agreement.provider_address,
        platform=PLATFORM,
        amount=linear_cost(COEFFS, [duration_s, cpu_s]),
        issued_at_ms=1,
        usage=f"[{duration_s}, {cpu_s}]",
    )
    return refusal_of_debit_note(note, replace(agreement, offer=offer), Ledger(), now=START + LIFE_S)


SLACK_S = limits.CPU_SLACK_S


@pytest.mark.parametrize(
    ("duration_s", "cpu_s", "threads", "runtime", "plausible"),
    [
        (100.0, 400.0, 4, "vm", True),
        (100.0, 400.0 + SLACK_S + 1, 4, "vm", False),
        (100.0, 100.0 + SLACK_S, 4, "wasmtime", True),
        (100.0, 101.0 + SLACK_S, 4, "wasmtime", False),
        (100.0, 100.0 * limits.MAX_BILLED_THREADS, 10**6, "vm", True),
        (100.0, 101.0 * limits.MAX_BILLED_THREADS, 10**400, "vm", False),
        (100.0, 200.0, float("nan"), "vm", False),
        (100.0, 200.0, "many", "vm", False),
        (LIFE_S + 100, 0.0, 4, "vm", False),
        (0.0, SLACK_S, 1, "wasmtime", True),
    ],
)
def test_cpu_time_fits_into_the_running_time_of_believable_threads(
    duration_s: float, cpu_s: float, threads: PropertyValue, runtime: str, plausible: bool
) -> None:
    assert (refusal(duration_s, cpu_s, threads=threads, runtime=runtime) == "") is plausible
