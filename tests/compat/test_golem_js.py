"""golem-js from npm, unmodified, in node and in a browser. The first two programs are its makers' own files."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from tests.compat.clients import JsClient, js_client, tracks
from tests.compat.conftest import PAGE_ORIGIN, PAGE_PORT
from tests.compat.support import ALPINE, agent_env, javascript, run
from tests.e2e.net import Net, check_journal


@pytest.mark.parametrize("track", tracks("@golem-sdk/golem-js"))
def test_the_program_in_its_readme_runs(net: Net, track: str, tmp_path: Path) -> None:
    client = js_client(track)
    readme = (client.package("@golem-sdk/golem-js") / "README.md").read_text()
    (program,) = [block for block in re.findall(r"```ts\n(.*?)```", readme, re.S) if "oneOf" in block]
    (tmp_path / "readme").mkdir()
    (tmp_path / "readme" / "hello.ts").write_text(program)
    said = run(javascript(client, tmp_path / "readme" / "hello.ts"), agent_env(net), tmp_path)
    assert "Hello, Golem!" in said
    assert "Failed" not in said


def test_the_project_that_golem_sdk_cli_makes_runs(net: Net, golem_js: JsClient, tmp_path: Path) -> None:
    """Its template for node and TypeScript: three rented machines at a time, then one more."""
    template = golem_js.package("@golem-sdk/cli") / "data" / "project-templates" / "ts-node-esm" / "src" / "index.ts"
    said = run(javascript(golem_js, template), agent_env(net), tmp_path)
    hello = re.findall(r"Hello Golem from provider (\S+)", said)
    assert len(hello) == 4, said
    assert set(hello[:3]) == {provider.name for provider in net.providers}
    assert "went wrong" not in said
    for node in (net.requestor, net.providers[0]):
        assert check_journal(node, tmp_path).accounts


def test_output_comes_while_the_command_runs(net: Net, golem_js: JsClient, tmp_path: Path) -> None:
    result = json.loads(run(javascript(golem_js, "stream.ts"), agent_env(net), tmp_path).splitlines()[-1])
    texts = {kind: "".join(s["text"] for s in result["seen"] if s["kind"] == kind) for kind in ("out", "err")}
    assert texts == {"out": "out 1\nout 2\nout 3\n", "err": "err 1\nerr 2\nerr 3\n"}
    times = [s["at"] for s in result["seen"] if s["kind"] == "out"]
    assert times[-1] - times[0] >= 700, "the lines are half a second apart"
    assert (result["result"], result["after"].strip()) == ("Error", "still there")
    assert "7" in result["message"]


def test_files_go_between_two_providers_and_us(net: Net, golem_js: JsClient, tmp_path: Path) -> None:
    result = json.loads(run(javascript(golem_js, "transfer.ts"), agent_env(net), tmp_path).splitlines()[-1])
    one, two = result["providers"]
    assert one != two
    assert result["lines"] == [f"from {one}", "from the requestor", f"from {two}"]
    assert result["there"]
    assert result["back"]
    assert result["json"] == {"kept": [1, 2.5, "three"]}


def test_activities_of_a_network_reach_each_other_and_we_reach_them(
    net: Net, golem_js: JsClient, tmp_path: Path
) -> None:
    env = agent_env(net, PROXY_PORT="9918")
    result = json.loads(run(javascript(golem_js, "network.ts"), env, tmp_path).splitlines()[-1])
    assert result["ips"] == ["192.168.7.2", "192.168.7.3"]
    assert result["within"] == "you said hello"
    assert result["answers"] == ["you said call 1", "you said call 2", "you said call 3"]


def test_the_market_is_scanned(net: Net, golem_js: JsClient, tmp_path: Path) -> None:
    said = run(javascript(golem_js, "scan.ts"), agent_env(net), tmp_path)
    assert json.loads(said.splitlines()[-1]) == [f"{provider.name} true" for provider in net.providers]


@contextmanager
def served(directory: Path) -> Iterator[None]:
    """As a web server of some project would."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Nothing on stderr."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", PAGE_PORT), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_browser_build_works_from_a_page_that_the_settings_allow(
    net: Net, golem_js: JsClient, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(golem_js.package("@golem-sdk/golem-js") / "dist" / "golem-js.min.js", site)
    shutil.copy(Path(__file__).parent / "programs" / "js" / "page.html", site)
    env = agent_env(net)
    image = httpx.get(f"{env['GOLEM_REGISTRY_URL']}/v1/image/info", params={"tag": ALPINE}, trust_env=False).json()
    query = urlencode(
        {
            "key": env["YAGNA_APPKEY"],
            "url": env["YAGNA_API_URL"],
            "network": env["PAYMENT_NETWORK"],
            "imageUrl": image["http"],
            "imageHash": image["sha3"],
        }
    )
    with served(site):
        said = run(javascript(golem_js, "browse.mjs", f"{PAGE_ORIGIN}/page.html?{query}"), env, tmp_path)
    lines = said.splitlines()
    assert "stdout hello browser" in lines
    assert "file SENT BY A PAGE" in lines
    assert "invoice true" in lines
    assert "done" in lines
