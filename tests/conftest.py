"""For all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from xdist.scheduler import LoadScopeScheduling

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


class OneProcessPerKind(LoadScopeScheduling):  # type: ignore[misc] # xdist ships no types
    """Of `pytest -n 2`: the end-to-end tests in one process, the integration tests in one, unit tests in both.

    The first two share networks and engines among themselves, and wait more than they compute.
    """

    def _split_scope(self, nodeid: str) -> str:
        kind = nodeid.removeprefix("tests/").partition("/")[0]
        return kind if kind in ("e2e", "integration", "compat") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneProcessPerKind:
    return OneProcessPerKind(config, log)
