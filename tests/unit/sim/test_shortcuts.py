"""What is computed once for all nodes is judged as each of them would."""

from __future__ import annotations

from dataclasses import replace

import pytest

from golemp2p import limits
from golemp2p.core import records
from golemp2p.core.eip712 import Domain
from golemp2p.core.records import (
    ExpiredRecordError,
    RecordKind,
    UntimelyRecordError,
    make_record,
    new_subscription_id,
)
from golemp2p.identity import NodeKey
from golemp2p.market import sync
from golemp2p.sim.shortcuts import computed_once, was_verified

DOMAIN = Domain("t", 1)
NOW = 1_800_000_000.0


def test_a_known_signature_does_not_change_what_a_nodes_clock_says() -> None:
    key = NodeKey(b"\x07" * 32)
    made = make_record(RecordKind.OFFER, new_subscription_id(key.peer_id), key.peer_id, {}, "()", now=NOW, sequence=1)
    record = replace(made, signature=key.sign(made.digest(DOMAIN)))
    early, late = NOW - limits.MAX_CLOCK_SKEW_S - 1, record.expires_at
    for verify in (records.verify_record, None):
        with computed_once():
            check = verify or vars(sync)["verify_record"]  # as the service finds it
            check(record, DOMAIN, now=NOW)
            with pytest.raises(UntimelyRecordError):
                check(record, DOMAIN, now=early)
            with pytest.raises(ExpiredRecordError):
                check(record, DOMAIN, now=late)
    assert was_verified(record, DOMAIN)
