"""yapapi from PyPI, unmodified: the low-level API, the Task model, the Service model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.compat.clients import PythonClient, python_client, tracks
from tests.compat.support import agent_env, python, run
from tests.e2e.net import Net, check_journal


def test_offers_are_seen_with_the_types_that_yapapi_insists_on(net: Net, yapapi: PythonClient, tmp_path: Path) -> None:
    """It drops an offer in silence when a coefficient is no float."""
    said = run(python(yapapi, "yapapi_offers.py", "3"), agent_env(net), tmp_path)
    offers = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {offer["issuer"] for offer in offers} == {provider.address for provider in net.providers}
    for offer in offers:
        props = offer["props"]
        coeffs, usage = props["golem.com.pricing.model.linear.coeffs"], props["golem.com.usage.vector"]
        assert [type(c) for c in coeffs] == [float] * (len(usage) + 1)
        assert "erc20-holesky-tglm" in str([name for name in props if ".platform." in name])
        assert "vpn" in props["golem.runtime.capabilities"]


@pytest.mark.parametrize("track", tracks("yapapi"))
def test_twenty_tasks_on_three_providers_send_and_fetch_files(net: Net, track: str, tmp_path: Path) -> None:
    client = python_client("yapapi", track)
    said = run(python(client, "yapapi_tasks.py", "20", "3", "0.4"), agent_env(net), tmp_path)
    result = json.loads(said.splitlines()[-1])
    assert result["done"] == list(range(20))
    assert set(result["providers"]) == {provider.name for provider in net.providers}
    for node in (net.requestor, net.providers[0]):
        assert check_journal(node, tmp_path).accounts


def test_a_service_instance_is_stopped_and_another_takes_its_place(
    net: Net, yapapi: PythonClient, tmp_path: Path
) -> None:
    said = run(python(yapapi, "yapapi_service.py"), agent_env(net), tmp_path)
    steps = [line for line in said.splitlines() if line.startswith(("running", "stopped"))]
    assert steps[0] == "running one two"
    assert steps[1:3] == ["stopped one: bye", "running three"]
    assert sorted(steps[3:]) == ["stopped three: bye", "stopped two: bye"]
    counting = dict(re.findall(r"^(\w+) counts from \d+ to \d+ on (\S+)$", said, re.M))
    assert set(counting) == {"one", "two", "three"}
    assert counting["one"] != counting["two"]
