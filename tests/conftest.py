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
    """Of scripts/test: the clients' tests in one process, the end-to-end tests in one, the integration tests by area.

    They share networks and engines among themselves, and wait more than they compute. Unit tests fill what is left,
    file by file, so scripts/test keeps the order (--no-loadscope-reorder): the long ones first.
    """

    def _split_scope(self, nodeid: str) -> str:
        kind, _, rest = nodeid.removeprefix("tests/").partition("/")
        if kind == "integration":
            return f"{kind}/{rest.partition('/')[0]}"
        return kind if kind in ("e2e", "compat") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneProcessPerKind:
    return OneProcessPerKind(config, log)
