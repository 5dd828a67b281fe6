"""From ``golemp2p image push`` at a real node to packages that providers fetch from each other."""

from __future__ import annotations

import json
import os
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from typer.testing import CliRunner

from golemp2p.activity.transfers import Transfers
from golemp2p.cli.image import app
from golemp2p.config import load_settings
from golemp2p.identity.keys import NodeKey
from golemp2p.images.inspecting import inspect_image
from golemp2p.locations import Locations
from golemp2p.net.data import DataService
from golemp2p.net.memory import MemoryHub, open_memory_network
from golemp2p.net.sharing import Sharing
from golemp2p.node import open_node
from golemp2p.storage.content import ContentStore
from tests.unit.activity.test_transfers import AGREEMENT


async def test_a_pushed_image_is_announced_and_providers_share_the_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLEMP2P_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("GOLEMP2P_CACHE_DIR", str(tmp_path / "cache"))
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/noise").write_bytes(os.urandom(12_000_000))
    cli, key, hub = CliRunner(), NodeKey.generate(), MemoryHub()
    assert cli.invoke(app, ["build", str(tree), "-t", "noise"]).exit_code == 0
    settings = load_settings(tmp_path / "none", {"rest": {"listen": "127.0.0.1:0"}, "net": {"subnet": "test"}})
    async with AsyncExitStack() as stack:
        network = await stack.enter_async_context(open_memory_network(hub, key))
        await stack.enter_async_context(open_node(settings, Locations.find(), key, network=network))
        pushed = await trio.to_thread.run_sync(lambda: cli.invoke(app, ["push", "noise", "--json"]))
        assert pushed.exit_code == 0, pushed.output
        said = json.loads(pushed.stdout)
        assert said["task_package"] == f"hash:sha3:{said['sha3_256']}:gftp://{key.address}/{said['sha3_256']}"
        with trio.fail_after(10):
            while f"sha3-256:{said['sha3_256']}" not in hub.providers:  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.01)

        demand = {"golem.srv.comp.task_package": said["task_package"]}
        agreement = replace(AGREEMENT, requestor=key.peer_id, demand=demand)
        sharers: list[Sharing] = []
        paths: list[Path] = []

        async def provide(number: int) -> None:
            one = await stack.enter_async_context(open_memory_network(hub, NodeKey.generate()))
            store = ContentStore(tmp_path / f"provider-{number}")
            data = DataService(one, store)
            data.serve()
            sharers.append(data.sharing)
            paths.append((await Transfers(agreement, store, data, staging=tmp_path).package()).path)

        for number in range(2):
            await provide(number)
        assert sharers[0].given_bytes > 4_000_000  # the first gave to the second
        for path in paths:
            assert inspect_image(path).config.env[0][0] == "PATH"
