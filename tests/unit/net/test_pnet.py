"""The cipher of private networks against its paper and against another implementation (NaCl)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_secretbox

from golemp2p.net.libp2p.pnet import hsalsa20, prologue_of, xsalsa20


def test_the_example_of_the_nacl_paper() -> None:
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    first = hsalsa20(shared, bytes(16))
    assert first.hex() == "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389"
    second = hsalsa20(first, bytes.fromhex("69696ee955b62b73cd62bda875fc73d6"))
    assert second.hex() == "dc908dda0b9344a953629b733820778880f3ceb421bb61b91cbd4c3e66256ce4"


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=24, max_size=24),
    st.lists(st.binary(max_size=300), min_size=1),
)
def test_pieces_are_encrypted_as_nacl_encrypts_the_whole(key: bytes, nonce: bytes, pieces: list[bytes]) -> None:
    cipher = xsalsa20(key, nonce)
    cipher.encrypt(bytes(32))  # NaCl's box spends the first 32 bytes of the stream on its authenticator
    assert (
        b"".join(map(cipher.encrypt, pieces))
        == crypto_secretbox(b"".join(pieces), nonce, key)[-sum(map(len, pieces)) or 10**9 :]
    )


def test_networks_and_keys_have_different_prologues() -> None:
    one, other = bytes(32), bytes(31) + b"\x01"
    found = {prologue_of(name, psk) for name in ("a", "b") for psk in (None, one, other)}
    assert len(found) == 6
    assert all(one not in prologue and other not in prologue for prologue in found)
