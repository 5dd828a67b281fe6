"""The short form of scripts/kill-test."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.integration.payment.kills import run


@pytest.mark.parametrize("reorgs", [0, 4])
async def test_a_payer_killed_at_random_steps_pays_everybody_exactly_once(reorgs: int, tmp_path: Path) -> None:
    """Issue: SIGKILL at every step, and again with reorganisations of two blocks: all balances exact."""
    seed = int(os.environ.get("GOLEMP2P_SEED") or random.randrange(2**32))
    print(f"seed {seed}: GOLEMP2P_SEED={seed} pytest {__file__}")
    outcome = await run(invoices=250, payees=50, kills=12, reorgs=reorgs, seed=seed, directory=tmp_path)
    assert outcome.kills >= 10, outcome
    assert outcome.reorgs == reorgs or reorgs == 0, outcome
