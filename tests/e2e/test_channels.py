"""`golemp2p localnet --payment-mode channel`: a job is paid for by vouchers, from deposit to claim."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.net import golemp2p
from tests.integration.runtimes.wats import HELLO

SCRIPT = """
set -e
golemp2p job run hello.wasm -- world > job.out
for _ in 1 2 3 4 5 6 7 8 9 10; do
  golemp2p payment channels list --json > channels
  grep -q '"unclaimed": *"0"' channels && break  # the payer hears of the claim from the provider
done
"""


def test_a_job_is_paid_through_a_channel(tmp_path: Path) -> None:
    (tmp_path / "hello.wasm").write_bytes(HELLO)
    line = ("localnet", "--providers", "1", "--payment-mode", "channel", "--")
    done = golemp2p(*line, "bash", "-c", f"cd {tmp_path} && {SCRIPT}", timeout_s=90)
    assert done.returncode == 0, done.stderr
    (channel,) = json.loads((tmp_path / "channels").read_text())
    assert (channel["side"], channel["deposit"], channel["state"]) == ("payer", "10", "live")
    assert channel["vouched"] == channel["claimed"] != "0"
    assert channel["vouched"] in (tmp_path / "job.out").read_text() + done.stderr  # what the job has cost
