"""For all tests."""

from __future__ import annotations

from golemp2p.recursion import recursion_limit_kept

# Some tests import eth_account, and with it py_ecc: it must not raise the limit of the process under test.
with recursion_limit_kept():
    import eth_account  # noqa: F401
