"""What vm/docker says of itself in offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from golemp2p.runtimes.docker.runtime import DockerRuntime, DockerSettings


@pytest.mark.parametrize(
    ("oci_runtime", "rung"),
    [("", "container"), ("crun", "container"), ("runsc", "gvisor"), ("kata-runtime", "microvm")],
)
def test_the_rung_is_that_of_the_engines_runtime(tmp_path: Path, oci_runtime: str, rung: str) -> None:
    runtime = DockerRuntime(DockerSettings(oci_runtime=oci_runtime), tmp_path, tmp_path)
    assert runtime.offer_properties()["golem.!exp.golemp2p.isolation"] == rung


def test_pulling_is_offered_where_the_owner_allows_it(tmp_path: Path) -> None:
    for pull, offered in (((), False), (("docker.io/library/",), True)):
        capabilities = DockerRuntime(DockerSettings(pull=pull), tmp_path, tmp_path).offer_properties()
        assert ("pull" in str(capabilities["golem.runtime.capabilities"])) is offered
