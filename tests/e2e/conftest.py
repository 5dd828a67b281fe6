"""One network for the tests that leave it whole, one for those that kill nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.net import Net, open_net

# Long enough for slow machines, short enough that nobody waits for the node's own acceptance.
AUTO_ACCEPT_S = 1.0


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    directory = tmp_path_factory.mktemp("net")
    with open_net(
        directory, providers=2, provider={"max_activities": 4, "memory_gib": 0.125, "price_start": 0.001}
    ) as found:
        yield found


@pytest.fixture(scope="module")
def fragile_net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Its nodes may be killed; a test starts again what it killed."""
    with open_net(
        tmp_path_factory.mktemp("fragile"),
        providers=2,
        provider={"max_activities": 4, "price_start": 0.01},
        payment={"auto_accept_after_s": AUTO_ACCEPT_S},
    ) as found:
        yield found
