"""`golemp2p payment init|fund|send|settle`: the owner's account and its networks."""

from __future__ import annotations

import os
import re
import tomllib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from golemp2p.cli.common import (
    ApiUrl,
    AppKeyOption,
    AsJson,
    DataDir,
    ExitCode,
    echo,
    echo_json,
    facts,
    locations_of,
    say,
    table,
    with_client,
)
from golemp2p.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from golemp2p.client import NodeClient
    from golemp2p.wire.rest.wallet import Deployment, OwnTransaction, PlannedTransaction

WAIT_S = 600.0
_POLL_S = 60.0
Network = Annotated[
    str | None, typer.Option("--network", help="Payment network; default: the only one.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show exactly what would be sent, and send nothing.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is final.")]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="Name of this request (8 to 100 letters, digits, . _ -): given twice, sent once. Default: a new one.",
        show_default=False,
    ),
]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: golemp2p payment init --network amoy --rpc env:AMOY_RPC")(init)
    app.command(epilog="Example: golemp2p payment fund --network amoy")(fund)
    app.command(epilog="Example: golemp2p payment send --to 0x… --amount 1.5 --network polygon --dry-run")(send)
    app.command(epilog="Example: golemp2p payment settle --now --network polygon")(settle)
    app.command(epilog="Example: golemp2p payment cancel send-rent-2026-11")(cancel)
    app.command(epilog="Example: golemp2p payment deploy --network amoy --dry-run")(deploy)


def init(
    network: Annotated[str, typer.Option("--network", help="A network that golemp2p knows: polygon, amoy, …")],
    rpc: Annotated[
        list[str] | None,
        typer.Option(
            "--rpc", help="URL of an RPC endpoint, or env:NAME of a variable with it; instead of public ones."
        ),
    ] = None,
    token: Annotated[str | None, typer.Option("--token", help="The token's address, where none is built in.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a payment network into the settings; the node reads them when it starts."""
    from golemp2p.networks import builtin_profile

    where = locations_of(data_dir)
    if not where.config.parent.is_dir():
        raise UsageError(f"there is no node in {where.data}", hint="make one with: golemp2p init")
    added = add_network(where.config, network, rpc or [], token)
    running = where.running.exists()
    if as_json:
        echo_json({"network": network, "added": added, "config": where.config, "restart": added and running})
        return
    say(f"{network} is in {where.config}" + ("" if added else " already"))
    if added:
        say("start the node again to use it" if running else "golemp2p run uses it")
        known = builtin_profile(network)
        if known is not None and known.mint is not None:
            say(f"then: golemp2p payment fund --network {network}")
        if known is not None and known.faucet_hint:
            say(known.faucet_hint)


def add_network(config: Path, network: str, urls: list[str], token: str | None) -> bool:
    """Append the entry, checked as the node will check it. False: it is there already. Raises UsageError.

    Appended as text: what a person wrote there, comments too, stays as it is.
    """
    import tomli_w

    from golemp2p.config import PaymentSection, read_file
    from golemp2p.networks import NetworkEntry, builtin_profile, merge

    present = read_file(config)
    if any(entry.get("name") == network for entry in present.get("payment", {}).get("networks", [])):
        return False
    entry: dict[str, Any] = {"name": network}
    if urls:
        entry["rpc_urls"] = urls
    if token is not None:
        entry["token"] = token
    known = builtin_profile(network)
    if known is not None and token is None and set(known.token[2:]) == {"0"}:
        raise UsageError(
            f"network {network} has a token of its own each time", hint="golemp2p localnet, or --token ADDRESS"
        )
    try:
        merge(NetworkEntry.model_validate(entry))
    except ValueError as exc:  # pydantic's
        raise UsageError(f"network {network}: {first_message(exc)}") from exc
    text = config.read_text() if config.exists() else "version = 1\n"
    text = f"{text.rstrip()}\n\n[[payment.networks]]\n{tomli_w.dumps(entry)}"
    try:
        PaymentSection.model_validate(tomllib.loads(text).get("payment", {}))
    except ValueError as exc:
        raise UsageError(
            f"{config} cannot take an entry at its end: {first_message(exc)}",
            hint=f"add {network} by hand to the networks that are there",
        ) from exc
    _write(config, text)
    return True


def first_message(error: ValueError) -> str:
    """In one line, and without what was given: it may be a URL with a key."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        why = first["msg"].removeprefix("Value error, ")
        return f"{'.'.join(map(str, first['loc']))}: {why}".lstrip(": ")
    return str(error)


def fund(
    network: Network = None,
    amount: Annotated[str | None, typer.Option("--amount", help="Tokens, where the network lets us choose.")] = None,
    key: Key = None,
    no_wait: NoWait = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Take test tokens, where a network gives them away; says where its coin for fees comes from."""

    request = _request(key)

    async def mint(client: NodeClient) -> OwnTransaction:
        chosen = network
        if chosen is None:
            chosen = next((n.network for n in await client.wallet.networks() if "mint" in n.contracts), None)
        made = await client.wallet.mint(key=request, network=chosen, amount=amount)
        return await _finished(client, made, no_wait=no_wait)

    _show_result(with_client(data_dir, api_url, app_key, mint), as_json=as_json)


def send(
    to: Annotated[str, typer.Option("--to", help="Address that gets the tokens.")],
    amount: Annotated[str, typer.Option("--amount", help="Tokens, e.g. 1.5")],
    network: Network = None,
    dry_run: DryRun = False,
    key: Key = None,
    no_wait: NoWait = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Send tokens of the node's account, through the settlement engine and within the spending caps."""
    request = _request(key)
    if dry_run:
        planned = with_client(
            data_dir, api_url, app_key, lambda c: c.wallet.preview_send(to, amount, key=request, network=network)
        )
        _show_planned([planned], as_json=as_json)
        return

    async def order(client: NodeClient) -> OwnTransaction:
        made = await client.wallet.send(to, amount, key=request, network=network)
        if not no_wait:
            say(f"{made.what}: ordered as {made.id}")
        return await _finished(client, made, no_wait=no_wait)

    _show_result(with_client(data_dir, api_url, app_key, order), as_json=as_json)


def _request(key: str | None) -> str:
    """The caller's name of a request, or a new one. Raises UsageError."""
    if key is not None and not re.fullmatch(r"[A-Za-z0-9._-]{8,100}", key):
        raise UsageError(f"--key {key[:100]!r} is not 8 to 100 letters, digits, dots, underscores, dashes")
    return key or str(uuid.uuid4())


def cancel(
    transaction: Annotated[str, typer.Argument(help="Its id, as send and history show it.")],
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw a transaction that was ordered and not sent yet."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.wallet.cancel(transaction))
    if as_json:
        echo_json(found.to_json())
    else:
        say(f"{found.what}: withdrawn")


def settle(
    network: Network = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for due dates and sizes.")] = False,
    dry_run: DryRun = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Pay all that is owed now, or show what that would send."""
    if now == dry_run:
        raise UsageError("settle does something with --now or --dry-run", hint="debts are paid by themselves when due")
    planned = with_client(data_dir, api_url, app_key, lambda c: c.wallet.settle(network=network, dry_run=dry_run))
    _show_planned(planned, as_json=as_json)


def deploy(
    network: Network = None,
    dry_run: DryRun = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Put the batch payer and the voucher channels on a chain, if nobody has; write where they are into the settings.

    Anybody may, once for each token; the addresses are the same whoever does it. Takes about 2 M gas.
    """
    where = locations_of(data_dir)

    async def go(client: NodeClient) -> tuple[list[Deployment], list[PlannedTransaction]]:
        planned = []
        for found in await client.wallet.deployments(network=network):
            if not found.deployed and dry_run:
                planned.append(await client.wallet.preview_deploy(found.contract, network=network))
            elif not found.deployed:
                made = await client.wallet.deploy(found.contract, key=str(uuid.uuid4()), network=network)
                say(f"{made.what}: ordered as {made.id}")
                made = await _finished(client, made, no_wait=False)
                if made.state != "final":
                    raise PolicyError(f"{made.what}: {made.state} {made.problem or ''}".rstrip())
        return await client.wallet.deployments(network=network), planned

    contracts, planned = with_client(data_dir, api_url, app_key, go)
    if dry_run:
        _show_planned(planned, as_json=as_json)
        return
    wanted: dict[str, str] = {d.contract: d.address for d in contracts if d.deployed and not d.configured}
    name = network or with_client(data_dir, api_url, app_key, _only_network)
    added = bool(wanted) and set_contracts(where.config, name, wanted)
    if as_json:
        echo_json({"contracts": [d.to_json() for d in contracts], "added": added, "config": where.config})
        return
    table(("contract", "address", "deployed"), [(d.contract, d.address, d.deployed) for d in contracts])
    if added:
        say(f"the addresses are in {where.config}; start the node again to use them")


async def _only_network(client: NodeClient) -> str:
    return (await client.wallet.networks())[0].network


def set_contracts(config: Path, network: str, addresses: dict[str, str]) -> bool:
    """Write addresses into the entry of a network. Raises UsageError. Inserted as text, as :func:`add_network` does."""
    from golemp2p.config import PaymentSection

    text = config.read_text() if config.exists() else ""
    entry = re.compile(rf"""^\[\[payment\.networks\]\][^\[]*?^name\s*=\s*["']{re.escape(network)}["'][^\n]*$""", re.M)
    found = entry.search(text)
    lines = "".join(f'\n{kind} = "{address}"' for kind, address in addresses.items())
    by_hand = UsageError(
        f"{config} has no [[payment.networks]] entry of {network} that can be added to", hint=f"add by hand:{lines}"
    )
    if found is None:
        raise by_hand
    text = text[: found.end()] + lines + text[found.end() :]
    try:
        PaymentSection.model_validate(tomllib.loads(text).get("payment", {}))
    except ValueError as exc:
        raise by_hand from exc
    _write(config, text)
    return True


def _write(config: Path, text: str) -> None:
    part = config.with_name(config.name + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.rename(config)


async def _finished(client: NodeClient, made: OwnTransaction, *, no_wait: bool) -> OwnTransaction:
    """When it is final or failed, or WAIT_S are over."""
    import trio

    with trio.move_on_after(0 if no_wait else WAIT_S):
        while made.state not in ("final", "failed"):
            made = await client.wallet.transaction(made.id, timeout_s=_POLL_S)
    return made


def _show_result(made: OwnTransaction, *, as_json: bool) -> None:
    if as_json:
        echo_json(made.to_json())
    else:
        where = made.explorer or made.transaction
        shown = [("what", made.what), ("state", made.state), ("transaction", where or "-"), ("id", made.id)]
        facts([*shown, *([("problem", made.problem)] if made.problem else [])])
    if made.state == "failed":
        raise typer.Exit(ExitCode.FAILED)


def _show_planned(planned: list[PlannedTransaction], *, as_json: bool) -> None:
    if as_json:
        echo_json([p.to_json() for p in planned])
        return
    if not planned:
        echo("nothing to send")
    for p in planned:
        facts(
            [
                ("platform", p.platform),
                ("nonce", p.nonce),
                ("from", p.sender),
                ("to", p.to),
                ("call", f"{p.call} ({p.mode})"),
                ("data", p.data if len(p.data) <= 400 else f"{p.data[:400]}… ({len(p.data) // 2 - 1} bytes)"),
                ("amount", f"{p.amount} {p.symbol}"),
                ("gas", f"at most {p.gas}"),
                ("fee", f"at most {p.max_fee_gwei:g} gwei per gas, tip {p.tip_gwei:g}"),
                ("cost", f"at most {p.max_cost} {p.coin}"),
            ]
        )
        if p.legs:
            legs = [(leg.payee, leg.amount, ", ".join(leg.agreements)) for leg in p.legs]
            table(("payee", "amount", "agreements"), legs)
    if len(planned) > 1:
        from golemp2p.core.money import format_amount, parse_amount

        total = format_amount(parse_amount("0") + sum(parse_amount(p.amount) for p in planned))
        echo(f"total  {total} {planned[0].symbol} in {len(planned)} transactions")
