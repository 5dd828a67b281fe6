"""Network profiles: what is in one, where they are kept, and what a node makes of them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.config import load_settings
from golemp2p.errors import ConflictError, GolemError, NotFoundError, UsageError
from golemp2p.locations import Locations
from golemp2p.profiles import JoinedNetworks, NetworkProfile, create_profile, parse_profile

ADDRESS = "/ip4/192.0.2.7/tcp/4001/p2p/16Uiu2HAm9xUFW9KRRXzpZWZYCNqEtMdPdFFqAZjuSBHM1VXxLHcD"


@pytest.fixture
def where(tmp_path: Path) -> Locations:
    return Locations(tmp_path / "data", tmp_path / "cache")


def lab(*, private: bool = True) -> NetworkProfile:
    return create_profile("lab", private=private, bootstrap=[ADDRESS], subnet="public", payment=["amoy"])


def test_a_profile_is_read_as_it_was_written() -> None:
    profile = lab()
    assert parse_profile(profile.to_toml(), "it") == profile
    assert profile.private
    assert not lab(private=False).private


def test_each_private_network_has_a_key_of_its_own_that_is_not_shown() -> None:
    one, other = lab(), lab()
    assert one.psk != other.psk
    assert one.psk not in repr(one)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 'a b'", "name"),
        ("name = 'lab'\nbootstarp = []", "bootstarp"),
        ("name = 'lab'\nprotocol = 2", "speaks protocol 2"),
        ("name = 'lab'\nversion = 3", "version"),
        ("name = 'lab'\npsk = 'secret-but-no-hex'", "psk"),
        ("name = 'lab'\nbootstrap = ['127.0.0.1:4001']", "no address of a peer"),
        ("name = 'lab'\n[subnets]\ndefault = 'x'\nallowed = ['gpu-*']", "not among the allowed"),
        ("name = 'lab'\n[[payment.networks]]\nname = 'nowhere'", "payment.networks.0"),
        ("name = ", "no TOML"),
        ("#" * 70_000, "too large"),
    ],
    ids=range(10),
)
def test_a_profile_with_a_mistake_names_it(text: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_profile(text, "lab.toml")
    assert words in str(raised.value)
    assert "lab.toml" in str(raised.value) or "speaks protocol" in str(raised.value)
    assert "secret" not in str(raised.value)


@given(st.text(max_size=300))
def test_any_text_is_a_profile_or_a_usage_error(text: str) -> None:
    try:
        parse_profile(text, "it")
    except GolemError as error:
        assert isinstance(error, UsageError)


def test_joining_keeps_the_profile_closed_to_others_and_makes_it_active(where: Locations) -> None:
    joined = JoinedNetworks(where)
    assert joined.active() is None
    joined.join(lab())
    joined.join(create_profile("open", private=False, bootstrap=[], subnet="s", payment=[]))
    active = joined.active()
    assert active is not None
    assert (active.name, joined.names()) == ("open", ["lab", "open"])
    assert stat.S_IMODE((where.networks / "lab.toml").stat().st_mode) == 0o600


def test_another_network_of_the_same_name_is_not_taken_silently(where: Locations) -> None:
    joined, first, second = JoinedNetworks(where), lab(), lab()
    joined.join(first)
    joined.join(first)  # again is nothing
    with pytest.raises(ConflictError):
        joined.join(second)
    assert joined.get("lab") == first
    joined.join(second, replace=True)
    assert joined.get("lab") == second


def test_leaving_forgets_the_key(where: Locations) -> None:
    joined = JoinedNetworks(where)
    joined.join(lab())
    joined.leave("lab")
    assert (joined.active(), joined.names()) == (None, [])
    with pytest.raises(NotFoundError):
        joined.leave("lab")


def test_the_profile_gives_defaults_and_the_nodes_own_settings_count_more(where: Locations) -> None:
    where.data.mkdir()
    where.config.write_text('version = 1\n[net]\nsubnet = "mine"\n[rest]\nlisten = "127.0.0.1:1"\n')
    profile = lab()
    settings = load_settings(where.config, defaults=profile.settings())
    assert (settings.net.network, settings.net.subnet, settings.net.psk) == ("lab", "mine", profile.psk)
    assert settings.net.bootstrap == [ADDRESS]
    assert [entry.name for entry in settings.payment.networks] == ["amoy"]
    assert settings.rest.listen == "127.0.0.1:1"
    assert profile.psk not in repr(settings)


def test_a_subnet_that_the_network_does_not_allow_is_refused(where: Locations) -> None:
    profile = parse_profile("name = 'lab'\n[subnets]\ndefault = 'gpu-1'\nallowed = ['gpu-*']", "lab.toml")
    with pytest.raises(UsageError, match="does not allow subnet 'public'"):
        load_settings(where.config, {"net": {"subnet": "public"}}, defaults=profile.settings())
    assert load_settings(where.config, {"net": {"subnet": "gpu-9"}}, defaults=profile.settings()).net.subnet == "gpu-9"
