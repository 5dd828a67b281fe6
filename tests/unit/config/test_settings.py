from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from golemp2p.config import Settings, load_settings
from golemp2p.errors import UsageError
from golemp2p.locations import CACHE_ENV, DATA_ENV, Locations


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("GOLEMP2P_"):
            monkeypatch.delenv(name)
    return tmp_path / "config.toml"


def test_without_a_file_the_defaults_hold(file: Path) -> None:
    settings = load_settings(file)
    assert (settings.net.subnet, settings.rest.listen) == ("public", "127.0.0.1:7465")


def test_flags_beat_the_environment_beats_the_file_beats_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[net]\nnetwork = "from-file"\nsubnet = "from-file"\ndht = false\n[provider]\nthreads = 3\n')
    monkeypatch.setenv("GOLEMP2P_NET__NETWORK", "from-env")
    monkeypatch.setenv("GOLEMP2P_NET__SUBNET", "from-env")
    monkeypatch.setenv("GOLEMP2P_PROVIDER__PRICE_START", "0.5")
    settings = load_settings(file, {"net": {"subnet": "from-flag"}})
    assert (settings.net.subnet, settings.net.network, settings.net.dht) == ("from-flag", "from-env", False)
    assert (settings.provider.threads, settings.provider.price_start) == (3, 0.5)


def test_other_variables_of_golemp2p_are_no_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ENV, "/somewhere")
    monkeypatch.setenv("GOLEMP2P_PASSWORD", "secret")
    load_settings(file)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[net\n", "line 1"),
        ("[nte]\n", "nte"),
        ('[net]\nsubnett = "x"\n', "net.subnett"),
        ('[net]\nnetwork = "Not Allowed"\n', "net.network"),
        ("[provider]\nmax_activities = 0\n", "provider.max_activities"),
        ("version = 2\n", "version"),
        ("[payment]\nauto_accept_after_s = -1\n", "payment.auto_accept_after_s"),
        ('[payment.caps]\nper_day = "much"\n', "payment.caps.per_day: amount 'much' is not a decimal number"),
        ('[payment.channels]\ndeposit = "-1"\n', "payment.channels.deposit: amount '-1'"),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=re.escape(complaint)):
        load_settings(file)


def test_a_mistake_in_the_environment_or_a_flag_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="subnet"):
        load_settings(file, {"net": {"subnet": ""}})
    monkeypatch.setenv("GOLEMP2P_NET__NO_SUCH_THING", "1")
    with pytest.raises(UsageError, match=r"net\.no_such_thing"):
        load_settings(file)


def test_a_file_that_is_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read"):
        load_settings(file)


def test_all_paths_of_a_node_are_in_its_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ENV, str(tmp_path / "env"))
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    assert Locations.find().data == tmp_path / "env"
    found = Locations.find(tmp_path / "flag")
    assert found.data == tmp_path / "flag"
    for path in [*found.all().values(), found.lock, found.password]:
        assert path.is_relative_to(found.data) or path.is_relative_to(found.cache)


def test_the_settings_that_the_readme_shows_are_settings(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_RPC", "https://rpc.example/key")
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    blocks = re.findall(r"^```toml\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        file.write_text(f"version = 1\n{block}")
        assert load_settings(file) != Settings()
