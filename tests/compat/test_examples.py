"""The clients' own example files, unmodified. They are in no package, only in the clients' repositories.

`GOLEMP2P_CLIENT_SOURCES=DIRECTORY pytest tests/compat/test_examples.py` with checkouts named yapapi, golem-js and
golem-core-python below it. Without that setting there is nothing here to run: the other files of this folder do the
same with what the registries have. The images that the Python examples name cannot be had offline; the network runs its
test image in their place, with the hash check off (see support.HELLO_HASH).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.compat.clients import JsClient, PythonClient, python_client
from tests.compat.support import HERE, agent_env, javascript, run
from tests.e2e.net import Net

SOURCES = Path(os.environ.get("GOLEMP2P_CLIENT_SOURCES", ""))
YAPAPI = {
    "low-level-api/list-offers.py": "golem.com.pricing.model.linear.coeffs",
    "hello-world/hello.py": "UTC",
    "hello-world/hello_service.py": "Instance 0 is running on provider-",
}
CORE = {
    "core_example.py": "Got expected exception",
    "managers/basic_composition.py": "'hello golem",
    "managers/flexible_negotiation.py": "hello golem",
}
JS = {
    "rental-model/basic/one-of.ts": "Hello, Golem!",
    "rental-model/basic/many-of.ts": "Hello",
    "rental-model/basic/run-and-stream.ts": "stdout> Hello from stdout yet again",
    "rental-model/basic/transfer.ts": "Message from requestor. Hello",
    "rental-model/basic/vpn.ts": "Created network",
    "core-api/step-by-step.ts": "Result of the command",
    "core-api/manual-pools.ts": "Finalized payment process",
}

if os.environ.get("GOLEMP2P_CLIENT_SOURCES"):

    def _env(net: Net) -> dict[str, str]:
        return agent_env(net, PYTHONPATH=str(HERE / "site"))

    @pytest.mark.timeout(200)  # the service example works for a minute
    @pytest.mark.parametrize("example", YAPAPI)
    def test_an_unmodified_example_of_yapapi_runs_with_a_substituted_image(
        net: Net, yapapi: PythonClient, example: str, tmp_path: Path
    ) -> None:
        arguments = ["--subnet-tag", "public"] if "list-offers" in example else []
        program = SOURCES / "yapapi" / "examples" / example
        said = run([yapapi.python, "-u", program, *arguments], _env(net), tmp_path, 150)
        assert YAPAPI[example] in said

    @pytest.mark.parametrize("example", CORE)
    def test_an_unmodified_example_of_golem_core_runs_with_a_substituted_image(
        net: Net, example: str, tmp_path: Path
    ) -> None:
        client = python_client("golem-core", "pinned")
        said = run([client.python, "-u", SOURCES / "golem-core-python" / "examples" / example], _env(net), tmp_path)
        assert CORE[example] in said

    @pytest.mark.parametrize("example", JS)
    def test_an_unmodified_example_of_golem_js_runs(net: Net, golem_js: JsClient, example: str, tmp_path: Path) -> None:
        said = run(javascript(golem_js, SOURCES / "golem-js" / "examples" / example), agent_env(net), tmp_path)
        assert JS[example] in said
        assert "GolemWorkError" not in said
