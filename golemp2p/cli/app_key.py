"""`golemp2p app-key`: the bearer keys of agents."""

from __future__ import annotations

from typing import Annotated

import typer

from golemp2p.cli.common import ApiUrl, AppKeyOption, AsJson, DataDir, echo, echo_json, say, table, with_client

ENVIRONMENT_KEYS = ("golemp2p_appkey", "yagna_autoconf_appkey")  # node.AUTO_KEY_ENV, which costs a second to import

app = typer.Typer(help="App-keys: what agents identify themselves with.", no_args_is_help=True)


@app.command(epilog="Example: export YAGNA_APPKEY=$(golemp2p app-key create my-app)")
def create(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    origin: Annotated[
        list[str] | None, typer.Option("--origin", help="Web origin that may use it; repeatable.")
    ] = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it."""
    made = with_client(data_dir, api_url, app_key, lambda c: c.node.create_app_key(name, origin or []))
    if as_json:
        echo_json(made)
    else:
        echo(made["key"])


@app.command("list", epilog="Example: golemp2p app-key list --json")
def list_keys(
    data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None, as_json: AsJson = False
) -> None:
    """All keys of the node."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.node.app_keys())
    if as_json:
        echo_json(found)
    else:
        table(("name", "key", "origins"), [(k["name"], k.get("key", "hidden"), " ".join(k["origins"])) for k in found])


@app.command(epilog="Example: golemp2p app-key drop my-app")
def drop(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
) -> None:
    """Remove a key; its agents are refused from now on."""
    with_client(data_dir, api_url, app_key, lambda c: c.node.remove_app_key(name))
    say(f"app-key {name} is gone")
    if name in ENVIRONMENT_KEYS:
        say(f"  it came from the node's environment and is back after a restart: unset {name.upper()} there")
