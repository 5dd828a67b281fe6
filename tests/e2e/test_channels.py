"""`golemp2p localnet --payment-mode channel`: an unmodified program is paid for by vouchers, from deposit to claim."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.net import golemp2p
from tests.integration.runtimes.wats import HELLO

# Both nodes' views, once the claim is final on both sides (the payer hears of it from the provider).
SCRIPT = """
set -e
golemp2p job run hello.wasm -- world > job.out
for node in requestor provider-1; do
  export GOLEMP2P_DATA_DIR=$PWD/net/$node
  unset YAGNA_APPKEY YAGNA_API_URL
  for _ in $(seq 50); do
    golemp2p payment invoices --json > $node.invoices
    grep -q SETTLED $node.invoices && break
    sleep 0.1
  done
  golemp2p payment channels list --json > $node.channels
  golemp2p audit export $node.journal > $node.exported
  golemp2p audit verify $node.journal > $node.verified
done
"""


def test_a_job_is_paid_through_a_channel_and_the_audit_agrees_on_both_sides(tmp_path: Path) -> None:
    (tmp_path / "hello.wasm").write_bytes(HELLO)
    line = ("localnet", "--providers", "1", "--payment-mode", "channel", "--dir", str(tmp_path / "net"), "--")
    done = golemp2p(*line, "bash", "-c", f"cd {tmp_path} && {SCRIPT}", timeout_s=90)
    assert done.returncode == 0, done.stderr
    for node, side in (("requestor", "payer"), ("provider-1", "payee")):
        (invoice,) = json.loads((tmp_path / f"{node}.invoices").read_text())
        assert invoice["status"] == "SETTLED", node
        (channel,) = json.loads((tmp_path / f"{node}.channels").read_text())
        assert (channel["side"], channel["deposit"], channel["state"]) == (side, "10", "live")
        assert channel["vouched"] == channel["claimed"] == invoice["amount"]
        assert channel["unclaimed"] == "0"
