"""One network for the tests of the REST surface that need real nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.net import Net, open_net


@pytest.fixture(scope="session")
def rest_net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with open_net(tmp_path_factory.mktemp("rest"), providers=1) as net:
        yield net
