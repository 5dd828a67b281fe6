"""scripts/netlab refuses what it could not build before it builds anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NETLAB = Path(__file__).parents[3] / "scripts/netlab"


@pytest.mark.parametrize("spec", ["a-name-that-no-interface-has", "Boot", "alice@", "a b"], ids=range(4))
def test_a_name_that_no_interface_can_have_is_refused(spec: str) -> None:
    done = subprocess.run(
        [sys.executable, str(NETLAB), "--lab", "names", "up", spec],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"{spec}: names have" in done.stderr
    assert not Path("/run/netlab-names.json").exists()
