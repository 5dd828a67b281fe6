"""Golem's own clients on a network of real nodes: three providers with containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.compat.clients import JsClient, PythonClient, js_client, python_client
from tests.compat.support import ALPINE, BLENDER_HASH, HELLO_HASH
from tests.debian import debian_gvmi
from tests.e2e.net import Net, open_net
from tests.engine import Engine

PAGE_PORT = 9917
PAGE_ORIGIN = f"http://127.0.0.1:{PAGE_PORT}"  # of the browser test's page


@pytest.fixture(scope="session")
def net(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """For programs that leave it whole."""
    with open_compat_net(docker_engine, tmp_path_factory, "compat", providers=3) as found:
        yield found


@pytest.fixture(scope="module")
def fragile_net(docker_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """For tests that kill nodes and programs."""
    with open_compat_net(docker_engine, tmp_path_factory, "fragile", providers=2, agent_silence_s=6.0) as found:
        yield found


@contextmanager
def open_compat_net(engine: Engine, paths: pytest.TempPathFactory, name: str, **options: object) -> Iterator[Net]:
    image = str(debian_gvmi())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.url)
        with open_net(
            paths.mktemp(name),
            runtimes=["vm/docker"],
            network_name="holesky",  # what yapapi and golem-js ask for by default
            images={ALPINE: image, HELLO_HASH: image, BLENDER_HASH: image},
            origins=[PAGE_ORIGIN],
            provider={"max_activities": 4, "memory_gib": 2.0},
            payment={"auto_accept_after_s": 2.0},
            **options,
        ) as net:
            yield net


@pytest.fixture(scope="session", params=["pinned"])
def yapapi(request: pytest.FixtureRequest) -> PythonClient:
    return python_client("yapapi", request.param)


@pytest.fixture(scope="session", params=["pinned"])
def golem_js(request: pytest.FixtureRequest) -> JsClient:
    return js_client(request.param)
