"""Why each patch of libp2p is there, and when it can go."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from golemp2p.errors import InternalError
from golemp2p.net.libp2p import patches

_PROBE = """
from golemp2p.net.libp2p import patches
assert patches.source_hashes() == patches.SOURCES, patches.source_hashes()
from libp2p.kad_dht import common
import libp2p.network.swarm, libp2p.pubsub.pubsub, libp2p.stream_muxer.yamux.yamux as yamux, inspect
import libp2p.network.connection.swarm_connection as swarm_connection
# Each line fails when libp2p has mended what the patch mends: then remove the patch.
assert common.PROTOCOL_ID == "/ipfs/kad/1.0.0"                                       # k
assert libp2p.network.swarm._HAPPY_EYEBALLS_DELAY == 0.25                            # h
assert libp2p.pubsub.pubsub.SUBSCRIPTION_CHANNEL_SIZE == 32                          # q
assert yamux.MAX_MESSAGE_SIZE == 64 * 1024                                           # a
assert "move_on_after(5.0)" in inspect.getsource(yamux.YamuxStream.write)            # w
assert "shield" not in inspect.getsource(yamux.Yamux._write_frame)                   # c
assert swarm_connection.logging.__name__ == "logging"                                # l
assert "wait_finished" in inspect.getsource(libp2p.network.swarm.Swarm._do_handle_inbound_connection)  # inbound.py
patches.apply()
assert patches.applied == patches.ALL
assert common.PROTOCOL_ID == patches.KAD_PROTOCOL
patches.apply()
"""
_LEAN = """
import sys
from golemp2p.net.libp2p import host
for name in ("aioquic", "httpx", "requests", "zeroconf", "trio_websocket", "miniupnpc", "dns", "fastecdsa"):
    assert name not in sys.modules, name
from golemp2p.net.libp2p.lean_import import UNUSED, NotIncludedError, _Placeholder
from libp2p.transport.quic.transport import QUICTransport
try:
    QUICTransport()
except NotIncludedError:
    pass
else:
    raise AssertionError("a placeholder worked")
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_libp2p_is_the_version_and_source_that_was_read() -> None:
    assert version("libp2p") == patches.VERSION
    run(_PROBE)


def test_what_golemp2p_never_runs_is_not_imported() -> None:
    run(_LEAN)


def test_libp2p_imported_whole_before_is_left_alone() -> None:
    run("import libp2p, sys; from golemp2p.net.libp2p import host; assert 'aioquic' in sys.modules")


def test_another_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "applied", None)
    monkeypatch.setitem(patches.SOURCES, "YamuxStream.write", "0" * 16)
    with pytest.raises(InternalError, match="differ"):
        patches.apply()
    monkeypatch.setattr(patches, "VERSION", "9.9.9")
    with pytest.raises(InternalError, match=r"9\.9\.9"):
        patches.apply()
