"""golem-core and dapp-runner from PyPI, unmodified."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from tests.compat.clients import python_client, tracks
from tests.compat.support import ALPINE, agent_env, python, run, started
from tests.e2e.net import Net, check_journal, wait_until

DAPP = """\
payloads:
    web:
        runtime: "vm"
        params:
            image_url: "{url}"
            image_hash: "{sha3}"
nodes:
    http:
        payload: "web"
        init:
            - ["/bin/sh", "-c", "echo 'hello from a dapp' > /golem/work/index.html"]
            - ["/bin/sh", "-c", {server}]
        http_proxy:
            ports:
                - "80"
"""
SERVER = (
    'perl -MIO::Socket::INET -e \'$s = IO::Socket::INET->new(LocalAddr => "0.0.0.0", LocalPort => 80, Listen => 5, '
    "ReuseAddr => 1); while ($c = $s->accept) { while (<$c>) { last if /^\\s*$/ } $b = `cat /golem/work/index.html`; "
    'print $c "HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: " . length($b) . "\\r\\n\\r\\n$b"; '
    "close $c }' > /dev/null 2>&1 &"
)
CONFIG = """\
yagna:
  app_key: "$YAGNA_APPKEY"
  api_url: "$YAGNA_API_URL"
  subnet_tag: "public"
payment:
  budget: 1.0
  driver: "erc20"
  network: "holesky"
"""


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _image(net: Net) -> dict[str, str]:
    url = agent_env(net)["GOLEM_REGISTRY_URL"]
    found: dict[str, str] = httpx.get(f"{url}/v1/image/info", params={"tag": ALPINE}, trust_env=False).json()
    return found


@pytest.mark.parametrize("track", tracks("golem-core"))
def test_golem_cores_managers_hire_work_and_pay(net: Net, track: str, tmp_path: Path) -> None:
    image = _image(net)
    env = agent_env(net, IMAGE_URL=image["http"], IMAGE_HASH=image["sha3"])
    said = run(python(python_client("golem-core", track), "core_work.py"), env, tmp_path)
    assert json.loads(said.splitlines()[-1]) == ["hello core\n", "GOLEM-CORE\n"]
    assert check_journal(net.requestor, tmp_path).accounts


@pytest.mark.parametrize("track", tracks("dapp-runner"))
def test_dapp_runner_deploys_a_web_server_and_takes_it_down(net: Net, track: str, tmp_path: Path) -> None:
    image = _image(net)
    (tmp_path / "app.yaml").write_text(DAPP.format(url=image["http"], sha3=image["sha3"], server=json.dumps(SERVER)))
    (tmp_path / "config.yaml").write_text(CONFIG)
    client = python_client("dapp-runner", track)
    runner = client.directory / "bin" / "dapp-runner"
    command: list[str | Path] = [runner, "start", "--config", "config.yaml", "--data", "data", "app.yaml"]
    with started(command, agent_env(net), tmp_path) as program:
        wait_until(lambda: "local_proxy_address" in _text(tmp_path / "data"), what="the application's address")
        said = [json.loads(line) for line in _text(tmp_path / "data").splitlines() if line]
        (address,) = {line["http"]["local_proxy_address"] for line in said if "local_proxy_address" in line["http"]}
        page = httpx.get(address, trust_env=False, timeout=20)
        assert (page.status_code, page.text) == (200, "hello from a dapp\n")
        program.process.send_signal(signal.SIGINT)
        program.wait(60)
