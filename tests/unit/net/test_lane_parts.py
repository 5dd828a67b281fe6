"""The parts of a bulk lane that need no network."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.errors import RemoteProtocolError, UsageError
from golemp2p.net.directfile import DirectFile, aligned_buffer, hash_direct
from golemp2p.net.lanehash import Written, follow
from golemp2p.net.laneoffer import NAME_BYTES, TOKEN_BYTES, Offer, hosts_of, is_dialable, places_to_try
from golemp2p.net.lanes import listen_place
from golemp2p.net.lanetls import context_for, make_certificate
from golemp2p.net.sending import tag_of

OFFER = Offer(b"cert", bytes(NAME_BYTES), bytes(TOKEN_BYTES), (("192.0.2.1", 7), ("2001:db8::1", 7)))
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.binary(max_size=40)),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=10,
)


def test_an_offer_survives_its_journey() -> None:
    assert Offer.unpack(OFFER.pack()) == OFFER


@given(ANYTHING)
def test_any_other_offer_is_the_peers_mistake(fields: Any) -> None:
    with suppress(RemoteProtocolError):
        assert isinstance(Offer.unpack(fields), Offer)


@pytest.mark.parametrize(
    "place",
    [
        ["example.com", 1],
        ["192.0.2.1", 0],
        ["192.0.2.1", 65_536],
        ["224.0.0.1", 1],
        ["0.0.0.0", 1],
        ["::", 1],
        ["1", "1"],
        [],
    ],
    ids=["name", "port-0", "port-65536", "multicast", "any", "any-6", "text", "empty"],
)
def test_places_that_nobody_dials_are_refused(place: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        Offer.unpack([OFFER.cert, OFFER.name, OFFER.token, [place]])


def test_hosts_are_those_of_direct_addresses() -> None:
    addresses = [
        "/ip4/192.0.2.1/tcp/1/p2p/Qm",
        "/ip4/192.0.2.1/tcp/2",
        "/ip6/2001:db8::1/tcp/1",
        "/dns4/example.com/tcp/1",
        "/ip4/192.0.2.9/tcp/1/p2p/Qm/p2p-circuit/p2p/Qn",
        "/memory/7",
    ]
    assert hosts_of(addresses) == ["192.0.2.1", "2001:db8::1"]
    assert not is_dialable("fe80::1%eth0")


def test_what_libp2p_knows_is_tried_first_and_nothing_without_end() -> None:
    assert places_to_try(OFFER, ["192.0.2.7"])[0] == ("192.0.2.7", 7)
    assert places_to_try(OFFER, ["192.0.2.1"]).count(("192.0.2.1", 7)) == 1
    assert len(places_to_try(OFFER, [f"192.0.2.{n}" for n in range(20)])) == limits.LANE_MAX_PLACES
    assert places_to_try(Offer(b"", b"", b"", ()), ["192.0.2.7"]) == []


def test_where_lanes_listen() -> None:
    assert listen_place("", ["/ip4/0.0.0.0/tcp/11155"]) == (("0.0.0.0", 11_156), False)
    assert listen_place("", ["/ip4/127.0.0.1/tcp/0"]) == (("127.0.0.1", 0), False)
    assert listen_place("192.0.2.1:99", []) == (("192.0.2.1", 99), True)
    assert listen_place("[::1]:99", []) == (("::1", 99), True)
    for wrong in ("99", "name:99", "192.0.2.1:", "192.0.2.1:99999", "192.0.2.1:²"):
        with pytest.raises(UsageError):
            listen_place(wrong, [])


@pytest.mark.parametrize("der", [b"", b"junk", bytes(limits.LANE_MAX_CERT_BYTES + 1)], ids=["empty", "junk", "long"])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        context_for(make_certificate(), der, server=True)


def test_certificates_are_small_and_differ() -> None:
    one, other = make_certificate(), make_certificate()
    assert one.der != other.der
    assert len(one.der) < limits.LANE_MAX_CERT_BYTES


def test_a_hash_follows_what_is_written_and_ends_with_it(tmp_path: Path) -> None:
    path, data = tmp_path / "file", os.urandom(3 * limits.LANE_BLOCK_BYTES + 5)
    path.touch()
    written, found = Written(0), list[str | None]()
    thread = threading.Thread(target=lambda: found.append(follow(path, "sha256", written)))
    thread.start()
    with path.open("ab", buffering=0) as file:
        for start in range(0, len(data), 700_000):
            file.write(data[start : start + 700_000])
            written.advance(min(start + 700_000, len(data)))
    written.end(whole=True)
    thread.join(30)
    assert found == [hashlib.sha256(data).hexdigest()]
    broken = Written(5)
    broken.end(whole=False)
    assert follow(path, "sha256", broken) is None


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, limits.LANE_BLOCK_BYTES + 3])
def test_direct_files_take_and_give_any_length(tmp_path: Path, size: int) -> None:
    path, data = tmp_path / "file", os.urandom(size)
    path.touch()
    buffer = aligned_buffer()
    with DirectFile(path, 0) as file:
        for start in range(0, size, len(buffer)):
            piece = data[start : start + len(buffer)]
            buffer[: len(piece)] = piece
            file.write(buffer[: len(piece)])
        assert file.position == size
    assert path.read_bytes() == data
    assert hash_direct(path, ("sha256",)) == {"sha256": hashlib.sha256(data).hexdigest()}
    with DirectFile(path, 1) as file:  # at no page's beginning, from memory that is not aligned
        file.write(memoryview(b"x" * 10))
    assert path.read_bytes()[1:11] == b"x" * 10


def test_a_tag_tells_files_apart(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    data = os.urandom(2_000_000)
    one.write_bytes(data)
    other.write_bytes(data)
    assert tag_of(one, len(data)) == tag_of(other, len(data))
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert tag_of(one, len(data)) != tag_of(one, len(data) - 1)
    assert len(tag_of(other, len(data))) == 64
