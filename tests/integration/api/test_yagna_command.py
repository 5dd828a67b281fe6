"""`yagna` as scripts call it: golem-js's docker scripts, golem-core's examples, golem_cli."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.net import Net, environment, wait_until

YAGNA = [sys.executable, "-m", "golemp2p.cli.yagna"]


def yagna(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*YAGNA, *arguments], env=environment(**env), capture_output=True, text=True, timeout=60, check=False
    )


def on(net: Net, *arguments: str) -> str:
    """What it prints on the requestor's node."""
    done = yagna(*arguments, YAGNA_DATADIR=str(net.requestor.data_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


def json_on(net: Net, *arguments: str) -> Any:
    return json.loads(on(net, *arguments, "--json"))


def test_the_identity_is_told_as_golem_cli_reads_it(rest_net: Net) -> None:
    assert json_on(rest_net, "id", "show")["Ok"]["nodeId"] == rest_net.requestor.address
    assert json.loads(on(rest_net, "--json", "id", "show"))["Ok"]["isDefault"] is True
    (listed,) = json_on(rest_net, "id", "list")
    assert (listed["default"], listed["address"]) == ("X", rest_net.requestor.address)
    assert rest_net.requestor.address in on(rest_net, "id", "show")


def test_app_keys_are_made_listed_and_dropped_without_a_key(rest_net: Net) -> None:
    secret = on(rest_net, "app-key", "create", "golem-cli", "--allow-origin", "https://app.example").strip()
    assert len(secret) == 32
    keys = {key["name"]: key for key in json_on(rest_net, "app-key", "list")}
    assert keys["golem-cli"].keys() == {"name", "key", "id", "role", "created"}
    assert keys["golem-cli"]["key"] == secret
    assert json_on(rest_net, "app-key", "show", "golem-cli")["allowOrigins"] == ["https://app.example"]
    me = httpx.get(f"{rest_net.requestor.facts['rest_url']}/me", headers={"Authorization": f"Bearer {secret}"})
    assert me.json()["name"] == "golem-cli"
    assert on(rest_net, "app-key", "drop", "golem-cli") == ""
    assert "golem-cli" not in {key["name"] for key in json_on(rest_net, "app-key", "list")}


def test_fund_init_and_status_as_the_clients_readmes_say(rest_net: Net) -> None:
    on(rest_net, "payment", "init", "--sender", "--network", "local", "--driver", "erc20")
    on(rest_net, "payment", "init", "--receiver", "--account", rest_net.requestor.address)
    assert "1000 tglm" in on(rest_net, "payment", "fund", "--network", "local")
    status = json_on(rest_net, "payment", "status", "--network", "local")
    assert (status["amount"], status["driver"], status["network"], status["token"]) == (
        "1000",
        "erc20",
        "local",
        "tGLM",
    )
    assert status["incoming"]["accepted"] == {"totalAmount": "0", "agreementsCount": 0}
    assert float(status["gas"]["balance"]) > 0
    assert "1000 tGLM" in on(rest_net, "payment", "status")
    (account,) = json_on(rest_net, "payment", "accounts")
    assert (account["address"], account["platform"]) == (rest_net.requestor.address, "erc20-local-tglm")
    assert json_on(rest_net, "payment", "driver", "status") == []
    assert json_on(rest_net, "payment", "driver", "list")["erc20"]["default_network"] == "local"
    assert json_on(rest_net, "payment", "invoice", "status")["requestor"]["settled"]["agreementsCount"] == 0
    assert json_on(rest_net, "payment", "release-allocations") is None


def test_versions_sessions_and_activities_are_told(rest_net: Net) -> None:
    assert json_on(rest_net, "version", "show")["current"]["version"] == "0.17.3"
    assert len(json_on(rest_net, "net", "sessions")) == 1
    assert json_on(rest_net, "net", "status")["nodeId"] == rest_net.requestor.address
    assert json_on(rest_net, "activity", "status").keys() == {"last1h", "total", "lastActivityTs"}


def test_by_url_and_key_alone_it_is_an_agent_like_any_other(rest_net: Net, tmp_path: Path) -> None:
    env = {
        "GOLEMP2P_DATA_DIR": str(tmp_path / "none"),
        "YAGNA_API_URL": str(rest_net.requestor.facts["rest_url"]),
        "YAGNA_APPKEY": rest_net.requestor.app_key,
    }
    assert json.loads(yagna("id", "show", "--json", **env).stdout)["Ok"]["nodeId"] == rest_net.requestor.address
    refused = yagna("app-key", "create", "x", **env)
    assert refused.returncode == 5
    assert "may not make" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("payment", "init", "--network", "mars"), 2, "it has: erc20 on local"),
        (("payment", "status", "--account", "0x" + "1" * 40), 2, "no key of"),
        (("payment", "transfer", "--amount", "1"), 2, "golemp2p payment send"),
        (("payment", "process", "now"), 2, "golemp2p payment settle"),
        (("id", "create", "x"), 2, "golemp2p init"),
        (("market", "scan"), 2, "golemp2p offers"),
        (("extension", "list"), 2, "no extensions"),
        (("id", "show", "0x" + "1" * 40), 3, "no identity"),
        (("app-key", "show", "nobody"), 3, "nobody"),
        (("bogus",), 2, "No such command"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_is_refused_with_what_to_use(
    rest_net: Net, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = yagna(*arguments, "--datadir", str(rest_net.requestor.data_dir))
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_service_run_makes_a_node_with_the_key_and_the_origins_of_its_environment(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = environment(
        YAGNA_AUTOCONF_APPKEY="try_golem",
        YAGNA_AUTOCONF_ID_SECRET="11" * 32,
        YAGNA_API_URL=f"http://127.0.0.1:{port}",
        GOLEMP2P_NET__LISTEN='["/ip4/127.0.0.1/tcp/0"]',
    )
    command = [*YAGNA, "service", "run", "--api-allow-origin=*", "-d", str(tmp_path / "y")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log)
    try:
        wait_until((tmp_path / "y" / "running.json").exists, what="the node to be ready")
        headers = {"Authorization": "Bearer try_golem", "Origin": "https://any.example"}
        me = httpx.get(f"http://127.0.0.1:{port}/me", headers=headers)
        assert me.headers["access-control-allow-origin"] == "https://any.example"
        assert me.json()["identity"] == "0x19e7e376e7c213b7e7e7e46cc70a5dd086daff2a"  # of that secret
        assert httpx.get(f"http://127.0.0.1:{port}").status_code == 401  # what golem-js's health check looks for
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=30)
    assert code == 130
    again = yagna("id", "show", "-d", str(tmp_path / "y"))
    assert again.returncode == 4
    assert "no node is running" in again.stderr
