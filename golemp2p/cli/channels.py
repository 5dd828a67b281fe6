"""`golemp2p payment channels`: voucher channels of the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from golemp2p.cli.common import ApiUrl, AppKeyOption, AsJson, DataDir, echo_json, say, table, with_client

if TYPE_CHECKING:
    from golemp2p.client import NodeClient

app = typer.Typer(help="Voucher channels: what is locked, vouched for and claimed.", no_args_is_help=True)
_STATES = {"retired": "closing", "done": "closed"}
Id = Annotated[str, typer.Argument(metavar="ID", help="The channel's id, or how it begins.")]


@app.command("list", epilog="Example: golemp2p payment channels list --all")
def list_channels(
    closed: Annotated[bool, typer.Option("--all", help="With those that are closed for good.")] = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Channels that this node pays through (payer) and is paid through (payee)."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.channels.channels(closed=closed))
    if as_json:
        echo_json([c.to_json() for c in found])
        return
    rows = [
        (
            c.id[:18],
            c.side,
            _STATES.get(c.state, c.state) if c.closes is None else f"closing, until {c.closes:%Y-%m-%d %H:%M %Z}",
            c.payee if c.side == "payer" else c.payer,
            c.deposit,
            c.vouched,
            c.claimed,
        )
        for c in found
    ]
    table(("channel", "we are", "state", "other side", "deposit", "vouched", "claimed"), rows)


@app.command(epilog="Example: golemp2p payment channels close 0x3d8cd8bb")
def close(channel: Id, data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None) -> None:
    """Ask for the rest of a channel back. The provider can still claim; after its time of grace the rest comes back."""

    async def ask(client: NodeClient) -> str:
        found = await _find(client, channel, "payer")
        await client.channels.close(found)
        return found

    say(f"closing {with_client(data_dir, api_url, app_key, ask)}")


@app.command(epilog="Example: golemp2p payment channels claim 0x3d8cd8bb")
def claim(channel: Id, data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None) -> None:
    """Turn the newest voucher of a channel into tokens now."""

    async def ask(client: NodeClient) -> str:
        found = await _find(client, channel, "payee")
        await client.channels.claim(found)
        return found

    say(f"claiming from {with_client(data_dir, api_url, app_key, ask)}")


async def _find(client: NodeClient, begins: str, side: str) -> str:
    """The whole id. Raises UsageError when none or several begin so."""
    from golemp2p.errors import UsageError

    found = [c.id for c in await client.channels.channels() if c.side == side and c.id.startswith(begins.lower())]
    if len(found) != 1:
        what = "no channel" if not found else f"more than one channel ({len(found)})"
        raise UsageError(
            f"{what} of this node as {side} begins with {begins[:80]}", hint="see: golemp2p payment channels list"
        )
    return found[0]
