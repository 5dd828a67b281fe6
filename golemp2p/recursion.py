"""Python's recursion limit is a safety fence; two libraries take it down when they are imported.

py_ecc (of eth-keyfile and web3) raises it to 100,000. From then on deeply nested JSON from a peer or a REST client no
longer ends in RecursionError but overflows the C stack: a segmentation fault, the whole node gone. Import them inside
``with recursion_limit_kept()``. tests/unit/test_recursion.py tells when py_ecc leaves the limit alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def recursion_limit_kept() -> Iterator[None]:
    """Inside, nobody can change the limit: not even for a moment, since other threads are parsing."""
    change = sys.setrecursionlimit
    sys.setrecursionlimit = lambda _limit: None
    try:
        yield
    finally:
        sys.setrecursionlimit = change
