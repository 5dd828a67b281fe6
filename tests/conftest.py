"""For all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from golemp2p.recursion import recursion_limit_kept
from tests.engine import Engine, open_engine

# Some tests import eth_account, and with it py_ecc: it must not raise the limit of the process under test.
with recursion_limit_kept():
    import eth_account  # noqa: F401


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """A Docker engine of our own for all tests; a machine that cannot have one fails them."""
    with open_engine() as engine:
        yield engine
