"""For all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from golemp2p.recursion import recursion_limit_kept
from tests.engine import Engine, open_engine

ROOT = Path(__file__).parent

# Some tests import eth_account, and with it py_ecc: it must not raise the limit of the process under test.
with recursion_limit_kept():
    import eth_account  # noqa: F401


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """A Docker engine of our own for all tests; a machine that cannot have one fails them."""
    with open_engine() as engine:
        yield engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `pytest -n 2 --dist loadgroup`: end-to-end tests in one process, one after the other, integration tests in one.

    They share networks and engines among themselves, and wait more than they compute.
    """
    for item in items:
        kind = item.path.relative_to(ROOT).parts[0]
        if kind != "unit":
            item.add_marker(pytest.mark.xdist_group(kind))
