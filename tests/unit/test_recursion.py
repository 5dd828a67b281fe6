from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_what_we_import_leaves_the_recursion_limit_alone() -> None:
    code = """
import sys
before = sys.getrecursionlimit()
from pathlib import Path
from tempfile import TemporaryDirectory
from golemp2p.identity import NodeKey, create_keystore
with TemporaryDirectory() as directory:
    create_keystore(Path(directory) / "key.json", NodeKey.generate(), "x", light=True)
from golemp2p.payment.chain import transport
transport.load()
assert "web3" in sys.modules and "py_ecc" in sys.modules
import json
try:
    json.loads("[" * 200_000)
except RecursionError:
    print(before == sys.getrecursionlimit())
"""
    assert run(code) == "True"


def test_py_ecc_still_raises_the_limit() -> None:
    """When this fails, golemp2p.recursion can go."""
    assert int(run("import sys, py_ecc; print(sys.getrecursionlimit())")) >= 100_000
