"""Networks as data: what is built in, what a person may change, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from golemp2p.cli.wallet import add_network
from golemp2p.config import Settings, load_settings
from golemp2p.errors import UsageError
from golemp2p.networks import NetworkEntry, builtin_names, merge
from golemp2p.networks.schema import check_address, check_url, checksummed
from golemp2p.node import payment_networks
from golemp2p.payment.networks import PaymentNetwork, of_profile
from golemp2p.wiring import domain_of

TOKEN = "0x" + "11" * 20


def network(**entry: object) -> PaymentNetwork:
    return of_profile(merge(NetworkEntry.model_validate(entry)), {})


@pytest.mark.parametrize(
    ("name", "chain_id", "platform"),
    [
        ("polygon", 137, "erc20-polygon-glm"),
        ("amoy", 80002, "erc20-amoy-tglm"),
        ("mainnet", 1, "erc20-mainnet-glm"),
        ("hoodi", 560048, "erc20-hoodi-tglm"),
        ("holesky", 17000, "erc20-holesky-tglm"),
        ("sepolia", 11155111, "erc20-sepolia-tglm"),
        ("local", 31337, "erc20-local-tglm"),
    ],
)
def test_the_built_in_networks_have_golems_names_and_everything_that_paying_needs(
    name: str, chain_id: int, platform: str
) -> None:
    assert name in builtin_names()
    found = network(name=name)
    assert (found.chain_id, found.platform) == (chain_id, platform)
    assert found.token_symbol.lower() == found.symbol
    assert found.rpc_urls
    assert 1 <= found.quorum <= len(found.rpc_urls)
    if name != "local":
        assert (found.finality, found.deep_confirmations) == ("finalized", 256)
        assert found.max_head_age_s > 0
        assert found.explorer.endswith("/tx/")
        assert found.cycle.interval_s > 0
        assert all(url.startswith("https://") for url in found.rpc_urls)


def test_no_profile_has_a_key_that_the_schema_does_not_know() -> None:
    """As Golem's own file had: an Amoy block whose keys begin with a minus, a list without commas."""
    for bad in ({"-priority": 0}, {"rpc_urls": "https://a.example https://b.example"}, {"confirmation": 3}):
        with pytest.raises(ValidationError):
            NetworkEntry.model_validate({"name": "amoy", **bad})


def test_a_built_in_network_takes_changes_and_keeps_the_rest() -> None:
    changed = network(
        name="polygon", rpc_urls=["https://mine.example/key"], max_fee_gwei=99, cycle={"max_total": "7.5"}
    )
    base = network(name="polygon")
    assert changed.rpc_urls == ("https://mine.example/key",)
    assert changed.quorum == 1, "never more than there are"
    assert changed.max_fee_wei == 99 * 10**9
    assert changed.cycle.max_total == 7_500_000_000_000_000_000
    assert changed.cycle.interval_s == base.cycle.interval_s
    assert changed.token == base.token


def test_a_chain_of_ones_own_under_a_known_name_inherits_no_address() -> None:
    """A local chain that is called "holesky" for an example of Golem's: Holesky's contracts are not there."""
    own = network(name="holesky", chain_id=31337, token=TOKEN, symbol="tglm", rpc_url="http://127.0.0.1:8545")
    assert own.platform == "erc20-holesky-tglm"
    assert (own.multi, own.lock, own.mint, own.finality, own.max_head_age_s) == (None, None, None, "depth", 0.0)


def test_local_settings_of_the_first_version_still_work_and_mint_at_their_token() -> None:
    old = network(
        name="local", chain_id=31337, token=TOKEN, symbol="tglm", rpc_url="http://127.0.0.1:8545", confirmations=1
    )
    assert old.rpc_urls == ("http://127.0.0.1:8545",)
    assert (old.mint, old.mint_kind) == (TOKEN, "token")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "mars"}, "have no chain_id"),
        ({"name": "mars", "chain_id": 5, "rpc_url": "https://a.example"}, "token"),
        ({"name": "mars", "chain_id": 5, "token": TOKEN}, "rpc_urls is missing"),
    ],
    ids=["unknown name", "no token", "no endpoint"],
)
def test_an_incomplete_network_is_refused_with_what_is_missing(entry: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        merge(NetworkEntry.model_validate(entry))


def test_urls_are_https_or_loopback_and_never_told_in_errors() -> None:
    for good in (
        "https://x.example/secret",
        "http://127.0.0.1:8545",
        "http://localhost:1",
        "http://[::1]:1",
        "env:RPC",
    ):
        assert check_url(good) == good
    for bad in ("http://x.example/secret", "ftp://x.example/secret", "x.example/secret", "https://", "env:", "env:a b"):
        with pytest.raises(ValueError, match=r"http|URL|env") as caught:
            check_url(bad)
        assert "secret" not in str(caught.value)


def test_a_key_in_a_url_is_not_in_the_error_of_wrong_settings(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[[payment.networks]]\nname = "amoy"\nrpc_urls = ["http://x.example/secret-key"]\n')
    with pytest.raises(UsageError, match=r"payment\.networks\.0\.rpc_urls") as caught:
        load_settings(path)
    assert "secret-key" not in str(caught.value)
    path.write_text('[[payment.networks]]\nname = "mars"\nrpc_urls = ["https://x.example/secret-key"]\n')
    with pytest.raises(UsageError, match="mars") as caught:
        load_settings(path)
    assert "secret-key" not in str(caught.value)


def test_endpoints_may_come_from_the_environment() -> None:
    entry = merge(NetworkEntry.model_validate({"name": "amoy", "rpc_urls": ["env:AMOY_RPC", "https://c.example"]}))
    found = of_profile(entry, {"AMOY_RPC": "https://a.example/key, https://b.example"})
    assert found.rpc_urls == ("https://a.example/key", "https://b.example", "https://c.example")
    assert found.quorum == 2
    with pytest.raises(UsageError, match="AMOY_RPC is not set"):
        of_profile(entry, {})
    with pytest.raises(UsageError, match="the URL in AMOY_RPC") as caught:
        of_profile(entry, {"AMOY_RPC": "http://a.example/key"})
    assert "key" not in str(caught.value).replace("keys", "")


@given(st.binary(min_size=20, max_size=20))
def test_addresses_have_the_capitals_of_their_checksum_or_none(raw: bytes) -> None:
    plain = "0x" + raw.hex()
    proper = checksummed(plain)
    assert proper == to_checksum_address(plain)
    assert check_address(plain) == check_address(proper) == plain
    swapped = "0x" + proper[2:].swapcase()
    if swapped not in (proper, plain):
        with pytest.raises(ValueError, match="checksum"):
            check_address(swapped)


def test_settings_name_networks_and_the_first_one_is_in_every_signature() -> None:
    settings = Settings.model_validate({"payment": {"networks": [{"name": "polygon"}, {"name": "hoodi"}]}})
    assert [n.name for n in payment_networks(settings)] == ["polygon", "hoodi"]
    assert domain_of(settings).chain_id == 137
    with pytest.raises(ValidationError, match="same name"):
        Settings.model_validate({"payment": {"networks": [{"name": "polygon"}, {"name": "polygon"}]}})


def test_init_appends_an_entry_and_leaves_what_a_person_wrote(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    written = "version = 1  # mine\n\n[provider]\nprice_per_hour = 0.5 # GLM\n"
    config.write_text(written)
    assert add_network(config, "amoy", ["env:AMOY_RPC"], None)
    assert not add_network(config, "amoy", [], None), "it is there"
    assert add_network(config, "polygon", [], None)
    text = config.read_text()
    assert text.startswith(written)
    assert config.stat().st_mode & 0o777 == 0o600
    assert tomllib.loads(text)["payment"]["networks"] == [
        {"name": "amoy", "rpc_urls": ["env:AMOY_RPC"]},
        {"name": "polygon"},
    ]
    assert [n.name for n in load_settings(config).payment.networks] == ["amoy", "polygon"]


def test_init_refuses_what_the_node_would_refuse_and_writes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    inline = 'version = 1\n[payment]\nnetworks = [{ name = "polygon" }]\n'
    config.write_text(inline)
    for name, urls, said in (
        ("mars", [], "not built in"),
        ("amoy", ["http://x.example/secret"], "https"),
        ("local", [], "token of its own"),
        ("amoy", [], "by hand"),  # after an array that is written inline
    ):
        with pytest.raises(UsageError, match=said) as caught:
            add_network(config, name, urls, None)
        assert "secret" not in caught.value.message
    assert config.read_text() == inline


def test_the_tokens_are_the_researched_ones() -> None:
    """A changed digit is money lost: these stand twice."""
    tokens = {name: network(name=name).token for name in builtin_names() if name != "local"}
    assert tokens == {
        "polygon": "0x0b220b82f3ea3b7f6d9a1d8ab58930c064a2b5bf",
        "amoy": "0x2b60e60d3fb0b36a7ccb388f9e71570da4c4594f",
        "mainnet": "0x7dd9c5cba05e151c895fde1cf355c9a1d5da6429",
        "hoodi": "0x55555555555556acff9c332ed151758858bd7a26",
        "holesky": "0x8888888815bf4db87e57b609a50f938311eed068",
        "sepolia": "0x167b15ada84c63427c6c813b915a42efc72e7175",
    }
