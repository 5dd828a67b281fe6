"""Connections of payloads to the outside, by the provider's whitelist and the demand's manifest: real containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.vpn.conftest import Docker
from tests.integration.vpn.outside import manifest, resolve, web_server
from tests.integration.vpn.world import PING, World, open_world

WHITELIST = ("api.test", "127.0.0.1", "inner.test")


async def test_a_payload_reaches_what_its_manifest_and_the_whitelist_name_and_nothing_else(
    docker: Docker, busybox_image: bytes, tmp_path: Path
) -> None:
    runtime = await docker("one")
    body = b"from the outside " * 10_000
    async with (
        web_server(body) as port,
        web_server(b"of another port") as other_port,
        open_world(
            tmp_path / "world", busybox_image, [{"vm/docker": runtime}], outbound=WHITELIST, resolve=resolve
        ) as world,
    ):
        demand = manifest(f"http://api.test:{port}/x", "http://inner.test")
        network = await world.network()
        activity = await world.start(world.providers[0], network, "192.168.7.2", demand=demand)
        assert await activity.ok(f"wget -q -O - http://api.test:{port}/ | wc -c") == f"{len(body)}\n"
        assert await activity.ok(
            f"for i in 1 2 3 4 5 6 7 8; do wget -q -O - http://api.test:{port}/ | wc -c; done"
        ) == (f"{len(body)}\n" * 8)
        for forbidden in (
            f"wget -q -O - http://other.test:{port}/",  # no such name in there
            f"wget -q -O - http://api.test:{other_port}/",  # another port
            "wget -q -O - http://inner.test/",  # a name that leads into the provider's own network
            f"wget -q -O - http://127.0.0.1:{port}/",  # the payload's own loopback
            "wget -q -O - http://10.255.255.1/",
            f"wget -q -O - http://198.18.0.99:{port}/",
            "ping -c 1 -W 1 api.test",
        ):
            done, text = await activity.sh(forbidden, timeout_s=20)
            assert "Segmentation" not in text  # busybox's, when it looks names up with a timeout
            # A made-up address is local to the payload, so its ping may answer; nothing leaves.
            assert not done or forbidden.startswith("ping"), (forbidden, text)
        # The private network goes on beside it.
        assert "0% packet loss" in await activity.ok(f"{PING} 192.168.7.1")


async def test_without_the_owners_rule_nothing_is_deployed(world: World) -> None:
    with pytest.raises(AssertionError, match="does not let payloads reach the internet"):
        await world.start(world.providers[0], demand=manifest("https://api.test"))
