"""What a node does before it runs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from golemp2p.errors import UsageError
from golemp2p.locations import Locations
from golemp2p.node import bind_rest
from golemp2p.wiring import only_one


def test_the_data_directory_and_settings_are_closed_to_others(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    where = Locations(data, data / "cache")
    where.config.write_text("version = 1")
    where.config.chmod(0o644)
    with only_one(where):
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert stat.S_IMODE(where.config.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "listen",
    ["nonsense", "", ":7465", "7465", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:" + "9" * 5000],
)
def test_a_rest_address_that_is_none_says_how_one_looks(listen: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        bind_rest(listen)


def test_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        bind_rest("a..b:0")
