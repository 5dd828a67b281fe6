"""The kept OpenAPI document is the node's, and a real node answers as it says: schemathesis makes up the calls.

The network has an agreement, an activity and so on, and each call is made with those ids too, not with invented ones
alone: an error of every kind says little about what a call answers when all is well.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import trio
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from golemp2p.client import NodeClient
from tests.e2e.agent import deploy_and_run, negotiate
from tests.e2e.net import Net
from tests.integration.runtimes.wats import HELLO

ROOT = Path(__file__).parents[3]
# An event stream without end is no matter for a tool that waits for the whole answer.
SCHEMA = schemathesis.openapi.from_path(ROOT / "protocols" / "rest" / "openapi.json").exclude(path_regex="/_monitor$")
EXAMPLES = 2  # invented, beside those for the bounds of each parameter, which are many
AS_DOCUMENTED = [status_code_conformance, content_type_conformance, response_schema_conformance]
ENDS_WHAT_OTHERS_NEED = ("/terminate", "/cancel", "/reject")
Ids = Mapping[str, str]
Case = schemathesis.Case[Any]


@pytest.fixture(scope="module")
def known(rest_net: Net) -> Ids:
    """Ids that exist, by the name of the path parameter."""

    async def prepare() -> Ids:
        async with rest_net.requestor.client() as client:
            return await _prepare(client)

    return trio.run(prepare)


async def _prepare(client: NodeClient) -> Ids:
    deal = await negotiate(client, HELLO)
    activity = await deal.activity()
    batch = await client.activity.execute(activity, deploy_and_run())
    await client.activity.results(activity, batch, timeout_s=30)
    properties = {"golem.srv.comp.expiration": round(time.time() * 1000) + 10**6, "golem.node.debug.subnet": "public"}
    demand = await client.market.subscribe("demands", properties, "(golem.runtime.name=wasmtime)")
    (event, *_) = await client.market.events("demands", demand, timeout_s=10)
    assert event.proposal is not None
    scan = await client.session.request("POST", "/market-api/v1/scan", json={"type": "offer"})
    file = await client.files.publish(b"content")
    return {
        "agreement": deal.agreement,
        "activity_id": activity,
        "batch_id": batch,
        "allocation_id": deal.allocation,
        "subscription": demand,
        "proposal": event.proposal.proposal_id,
        "scan": str(scan),
        "sha3_256": file.sha3_256,
        "runtime": "wasmtime",
        "digest": file.sha3_256,
    }


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all calls."""
    with requests.Session() as opened:
        yield opened


def test_the_kept_document_is_the_nodes() -> None:
    found = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "openapi"), "--check"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
def test_a_node_answers_as_the_document_says(case: Case, rest_net: Net, known: Ids, session: requests.Session) -> None:
    _patient_for_a_moment(case)
    _call(case, rest_net, session)
    ends = case.method == "DELETE" or case.path.endswith(ENDS_WHAT_OTHERS_NEED)
    if known.keys() & case.path_parameters.keys() and not ends:
        case.path_parameters.update({name: known[name] for name in known.keys() & case.path_parameters.keys()})
        _call(case, rest_net, session)


def _call(case: Case, net: Net, session: requests.Session) -> None:
    response = case.call(
        base_url=net.requestor.facts["rest_url"],
        session=session,
        headers={"Authorization": f"Bearer {net.requestor.app_key}", "Accept": "application/json"},
        timeout=30,
    )
    assert response.status_code < 500 or response.status_code == 501, response.text
    case.validate_response(response, checks=AS_DOCUMENTED)


def _patient_for_a_moment(case: Case) -> None:
    """What waits for news would wait for the whole of an invented time."""
    if any(p["name"] == "timeout" for p in case.operation.definition.raw.get("parameters", [])):
        case.query["timeout"] = 0.01
