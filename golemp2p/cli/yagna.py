"""``yagna``: the commands that scripts for the Golem Network call, on a golemp2p node; ``--json`` in yagna's shapes.

Not a second interface: everything here goes through the commands and the client of golemp2p, and what yagna can and
golemp2p cannot is refused with what to use instead. Options that yagna takes anywhere (--json, --datadir …) are taken
anywhere here too. As yagna's, these commands need no app-key: they find the node by its data directory.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from golemp2p.cli.common import (
    ExitCode,
    echo,
    echo_json,
    exit_code_of,
    find_node,
    first_error,
    locations_of,
    run_async,
    say,
    table,
)
from golemp2p.errors import GolemError, NotFoundError, PolicyError, UsageError

if TYPE_CHECKING:
    from golemp2p.client import NodeClient
    from golemp2p.wire.rest.payment import Account, Balance

T = TypeVar("T")
DATADIR_ENV: Final = "YAGNA_DATADIR"
ORIGINS_ENV: Final = "GOLEMP2P_REST__ALLOWED_ORIGINS"
SECRET_ENV: Final = "YAGNA_AUTOCONF_ID_SECRET"  # noqa: S105 - the name of a variable
FUND_WAIT_S: Final = 60.0  # for a faucet's transaction
IGNORED_FLAGS: Final = ("--quiet", "--accept-terms")
IGNORED_OPTIONS: Final = ("-g", "--gsb-url")
INSTEAD: Final = {
    "payment enter": "there is no layer 2",
    "payment exit": "there is no layer 2",
    "payment transfer": "golemp2p payment send --to ADDRESS --amount X",
    "payment process": "golemp2p payment settle --now",
    "id create": "a node has one identity: golemp2p init --data-dir DIR makes another node's",
    "id update": "a node has one identity",
    "id drop": "a node has one identity",
    "id lock": "the key is unlocked while the node runs",
    "id unlock": "the key is unlocked while the node runs: golemp2p run --password-file FILE",
    "id export": "the key is a keystore V3 file: golemp2p paths",
    "id sign": "golemp2p signs agreements and notes only",
    "market": "golemp2p offers, golemp2p match",
    "extension": "there are no extensions; golemp2p --help",
    "consent": "nothing is sent to anybody",
    "service shutdown": "send SIGTERM to the node: golemp2p run ends in order",
}


@dataclass
class Globals:
    as_json: bool = False
    data_dir: Path | None = None


GIVEN: Final = Globals()
Account_ = Annotated[str | None, typer.Option("--account", envvar="YA_ACCOUNT", help="Wallet address.")]
Driver = Annotated[str, typer.Option("--driver", help="Payment driver.")]
Network = Annotated[str | None, typer.Option("--network", help="Payment network; default: the node's first.")]


def _group(name: str, about: str) -> typer.Typer:
    made = typer.Typer(help=about, no_args_is_help=True)
    app.add_typer(made, name=name)
    return made


app = typer.Typer(
    name="yagna",
    help="yagna's commands on a golemp2p node, for scripts. People: golemp2p --help. "
    "--json and --datadir are taken anywhere.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
service = _group("service", "The node.")
payment = _group("payment", "Accounts, balances, invoices.")
driver = typer.Typer(help="Payment drivers.", no_args_is_help=True)
payment.add_typer(driver, name="driver")
invoice = typer.Typer(help="Invoices.", no_args_is_help=True)
payment.add_typer(invoice, name="invoice")
app_key = _group("app-key", "Keys of agents.")
identity = _group("id", "Who this node is.")
version = _group("version", "Versions.")
net = _group("net", "The network.")
activity = _group("activity", "Activities.")


# --- the node ---------------------------------------------------------------------------------------------------------


@service.command()
def run(
    api_allow_origin: Annotated[list[str] | None, typer.Option(help="Web origin that may call.")] = None,
    debug: Annotated[bool, typer.Option("--debug")] = False,
    log_dir: Annotated[Path | None, typer.Option(help="Ignored: logs go to stderr.")] = None,
) -> None:
    """Run the node until Ctrl-C; the first time with a new key, which is left unlocked as yagna's is."""
    from golemp2p.cli.main import app as ours

    where = locations_of(GIVEN.data_dir)
    if not where.keystore.exists():
        _make_key()
    if api_allow_origin:
        os.environ[ORIGINS_ENV] = json.dumps(api_allow_origin)
    if debug:
        os.environ["GOLEMP2P_LOG__LEVEL"] = "debug"
    rest = os.environ.get("YAGNA_API_URL", "").partition("://")[2].strip("/")
    flags = ["--rest", rest] if rest else []
    ours(["run", "--data-dir", str(where.data), *flags], prog_name="golemp2p", standalone_mode=True)


def _make_key() -> None:
    from golemp2p.cli.main import app as ours

    arguments = ["init", "--auto-unlock", "--data-dir", str(locations_of(GIVEN.data_dir).data)]
    secret = os.environ.get(SECRET_ENV)
    if secret is None:
        ours(arguments, standalone_mode=False)
        return
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="golemp2p-key-") as file:  # only its owner can read it
        file.write(secret)
        file.flush()
        ours([*arguments, "--import", file.name], standalone_mode=False)


@version.command("show")
def version_show() -> None:
    """The version whose API the node serves."""
    found = _ask(lambda c: c.session.request("GET", "/version/get"))
    current = found["current"]
    _tell(found, lambda: echo(f"Running version: {current['version']} ({current['name']})"))


@net.command()
def sessions() -> None:
    """Peers that the node is connected to."""
    peers = [peer for peer in _ask(lambda c: c.node.peers()) if peer.connected]
    _rows(("peer", "address"), [(p.peer_id, p.addresses[0] if p.addresses else "") for p in peers])


@net.command("status")
def net_status() -> None:
    """Who the node is to others."""
    found = _ask(lambda c: c.node.status())
    _tell(
        {"nodeId": found.address, "listen": found.addresses, "sessions": found.peers},
        lambda: echo(f"{found.address}, {found.peers} sessions, {', '.join(found.addresses)}"),
    )


@activity.command("status")
def activity_status() -> None:
    """How many activities are in which state."""
    import time

    from golemp2p.wire.rest.base import from_iso_time

    found = _ask(lambda c: c.node.activities())
    last = max((from_iso_time(a.get("endedAt") or a["createdAt"]) for a in found), default=None)
    lately = [a for a in found if from_iso_time(a.get("endedAt") or a["createdAt"]) > time.time() - 3600]
    shown = {
        "last1h": Counter(a["state"] for a in lately),
        "total": Counter(a["state"] for a in found),
        "lastActivityTs": None if last is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last)),
    }
    _tell(shown, lambda: _rows(("state", "total"), list(shown["total"].items())))  # type: ignore[union-attr] # a Counter


# --- identity and keys ------------------------------------------------------------------------------------------------


@identity.command("show")
def id_show(node_or_alias: Annotated[str | None, typer.Argument()] = None) -> None:
    """The node's identity."""
    mine = _ask(lambda c: c.node.me())
    if node_or_alias not in (None, "default", "") and str(node_or_alias).lower() != mine:
        raise NotFoundError(f"this node has no identity {node_or_alias}", hint=f"it is {mine}")
    facts = {"alias": None, "nodeId": mine, "isLocked": False, "isDefault": True, "deleted": False}
    _tell({"Ok": facts}, lambda: echo("\n".join(f"{name}: {value}" for name, value in facts.items())))


@identity.command("list")
def id_list() -> None:
    """The node's one identity."""
    mine = _ask(lambda c: c.node.me())
    _rows(("default", "locked", "delete in progress", "alias", "address"), [("X", "", "", None, mine)])


@app_key.command("create")
def app_key_create(
    name: str,
    identity_: Annotated[str | None, typer.Option("--id", help="There is one identity only.")] = None,
    allow_origins: Annotated[list[str] | None, typer.Option("--allow-origins", "--allow-origin")] = None,
) -> None:
    """Make a key and print it."""
    made = _ask(lambda c: c.node.create_app_key(name, allow_origins or []))
    _tell(made["key"], lambda: echo(made["key"]))


@app_key.command("drop")
def app_key_drop(name: str, identity_: Annotated[str | None, typer.Option("--id")] = None) -> None:
    """Remove a key."""
    _ask(lambda c: c.node.remove_app_key(name))
    _tell(None)


@app_key.command("list")
def app_key_list(
    identity_: Annotated[str | None, typer.Option("--id")] = None,
    page: Annotated[int, typer.Option("--page", "-p", min=1)] = 1,
    per_page: Annotated[int, typer.Option(min=1)] = 10,
) -> None:
    """The node's keys."""
    keys = _ask(lambda c: c.node.app_keys())[(page - 1) * per_page : page * per_page]
    rows = [(k["name"], k.get("key"), k["id"], k["role"], k.get("created")) for k in keys]
    _rows(("name", "key", "id", "role", "created"), rows)


@app_key.command("show")
def app_key_show(name: str) -> None:
    """One key."""
    found = next((k for k in _ask(lambda c: c.node.app_keys()) if k["name"] == name), None)
    if found is None:
        raise NotFoundError(f"there is no app-key {name!r}")
    shown = {
        "name": name,
        "key": found.get("key"),
        "role": found["role"],
        "identity": found["id"],
        "allowOrigins": found["origins"],
    }
    _tell(shown, lambda: echo("\n".join(f"{key}: {value}" for key, value in shown.items())))


# --- payments ---------------------------------------------------------------------------------------------------------


@payment.command("accounts")
def payment_accounts() -> None:
    """Accounts, one a payment network."""
    found = _ask(lambda c: c.payment.accounts())
    if GIVEN.as_json:
        echo_json([a.to_json() for a in found])
        return
    rows = [(a.address, a.driver, a.network, a.token, a.send, a.receive) for a in found]
    _rows(("address", "driver", "network", "token", "send", "recv"), rows)


@payment.command("init")
def payment_init(
    account: Account_ = None,
    driver: Driver = "erc20",
    network: Network = None,
    sender: Annotated[bool, typer.Option("--sender")] = False,
    receiver: Annotated[bool, typer.Option("--receiver")] = False,
) -> None:
    """Nothing to do: an account of the settings is ready for both. Fails for one that is not there."""
    found = _ask(lambda c: _account(c, account, driver, network))
    _tell(None, lambda: say(f"{found.address} is ready on {found.platform}"))


@payment.command("fund")
def payment_fund(
    account: Account_ = None,
    driver: Driver = "erc20",
    network: Network = None,
    mint_only: Annotated[bool, typer.Option("--mint-only")] = False,
) -> None:
    """Fine when the account has tokens; else takes test tokens, where the network gives them away."""

    async def look(client: NodeClient) -> tuple[Account, str, str | None]:
        found = await _account(client, account, driver, network)
        balance = await _balance(client, found)
        if balance.amount is not None and float(balance.amount) <= 0:
            try:
                made = await client.wallet.mint(key=str(uuid.uuid4()), network=found.platform)
                await client.wallet.transaction(made.id, timeout_s=FUND_WAIT_S)
            except GolemError as exc:
                return found, "0", str(exc)
            balance = await _balance(client, found)
        return found, balance.amount or "0", balance.problem

    found, amount, problem = _ask(look)
    if float(amount) <= 0:
        raise PolicyError(
            f"{found.address} has no {found.token} on {found.network}{_because(problem)}",
            hint=f"send {found.token} and gas to it; golemp2p localnet has accounts with funds",
        )
    said = f"{found.address} has {amount} {found.token} on {found.network}"
    _tell(said, lambda: echo(said))


@payment.command("status")
def payment_status(
    account: Account_ = None,
    driver: Driver = "erc20",
    network: Network = None,
    last: Annotated[str | None, typer.Option(help="Ignored: all payments count.")] = None,
    precise: Annotated[bool, typer.Option("--precise", help="Balances are always exact.")] = False,
) -> None:
    """Balance and what was billed, accepted and paid, both ways."""
    shown = _ask(lambda c: _status(c, account, driver, network))
    if GIVEN.as_json:
        echo_json(shown)
        return
    token, gas = shown["token"], shown["gas"]
    echo(f"\nStatus for account: {shown.pop('account')}")
    echo(f"Payment Driver status: {shown.pop('problem') or 'OK'}")
    rows = []
    for n, (step, label) in enumerate((("accepted", "driver"), ("confirmed", "network"), ("requested", "token"))):
        first = [f"{shown['amount']} {token}", f"{shown['reserved']} {token}"] if n == 0 else ["", ""]
        sides = [f"{shown[side][step]['totalAmount']} {token}" for side in ("incoming", "outgoing")]
        last_cell = f"{gas['balance']} {gas['currency_short_name']}" if n == 0 and gas else ""
        rows.append((f"{label}: {shown[label]}", *first, step, *sides, last_cell))
    table(("platform", "total amount", "reserved", "amount", "incoming", "outgoing", "gas"), rows)


async def _status(client: NodeClient, account: str | None, driver: str, network: str | None) -> dict[str, Any]:
    """yagna's StatusResult; ``account`` and ``problem`` are for the table."""
    import time

    from golemp2p.core.money import format_amount, parse_amount

    found = await _account(client, account, driver, network)
    balance = next(b for b in await client.payment.balances() if b.platform == found.platform)
    allocations = await client.session.request("GET", "/payment-api/v1/allocations")
    state = next((s for s in await client.payment.status() if s.platform == found.platform), None)
    reserved = sum(parse_amount(a["remainingAmount"]) for a in allocations if a["paymentPlatform"] == found.platform)
    flows: dict[str, dict[str, dict[str, Any]]] = {}
    invoices = [i for i in await client.payment.invoices() if i.payment_platform == found.platform]
    for side, mine in (("outgoing", "payer_addr"), ("incoming", "payee_addr")):
        ours = [i for i in invoices if getattr(i, mine) == found.address]
        flows[side] = {}
        for step, states in (
            ("requested", None),
            ("accepted", {"ACCEPTED", "SETTLED"}),
            ("confirmed", {"SETTLED"}),
        ):
            counted = [i for i in ours if states is None or i.status in states]
            total = format_amount(sum(parse_amount(i.amount) for i in counted))
            flows[side][step] = {"totalAmount": total, "agreementsCount": len({i.agreement_id for i in counted})}
    gas = None if balance.gas is None else _gas(balance.gas)
    shown = {
        "amount": balance.amount or "0",
        "reserved": format_amount(reserved),
        **flows,
        "driver": found.driver,
        "network": found.network,
        "token": "tGLM" if found.token == "tglm" else found.token.upper(),  # noqa: S105 - a currency
        "gas": gas,
        "block_number": 0,
        "block_datetime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    problem = (state.problem if state is not None else None) or balance.problem
    return shown if GIVEN.as_json else {**shown, "account": found.address, "problem": problem}


def _gas(balance: str) -> dict[str, str]:
    return {"currency_short_name": "ETH", "currency_long_name": "Gas of the chain", "balance": balance}


@driver.command("list")
def driver_list() -> None:
    """Drivers with their networks and platforms."""
    shown: dict[str, Any] = {}
    for a in _ask(lambda c: c.payment.accounts()):
        of = shown.setdefault(a.driver, {"default_network": a.network, "networks": {}, "recv_init_required": False})
        of["networks"][a.network] = {"default_token": a.token, "tokens": {a.token: a.platform}}
    rows = [(d, n, t, p) for d, of in shown.items() for n, x in of["networks"].items() for t, p in x["tokens"].items()]
    _tell(shown, lambda: _rows(("driver", "network", "token", "platform"), rows))


@driver.command("status")
def driver_status(account: Account_ = None, driver: str | None = None, network: Network = None) -> None:
    """What keeps payments from going on."""
    params = {"driver": driver, "network": network}
    found = _ask(lambda c: c.session.request("GET", "/payment-api/v1/payments/status", params=params))
    _tell(found, lambda: echo("\n".join(f"{p['network']}: {p['message']}" for p in found) or "OK"))


@invoice.command("status")
def invoice_status(last: Annotated[str | None, typer.Option(help="Ignored: all invoices count.")] = None) -> None:
    """Invoices by role and state."""
    from golemp2p.core.money import format_amount, parse_amount

    async def fetch(client: NodeClient) -> tuple[str, list[Any]]:
        return await client.node.me(), list(await client.payment.invoices())

    mine, invoices = _ask(fetch)
    states = ("issued", "received", "accepted", "rejected", "failed", "settled", "cancelled")
    shown: dict[str, Any] = {"requestor": {}, "provider": {}}
    for role, is_ours in (("requestor", "recipient_id"), ("provider", "issuer_id")):
        for state in states:
            some = [i for i in invoices if getattr(i, is_ours) == mine and i.status.lower() == state]
            total = format_amount(sum(parse_amount(i.amount) for i in some))
            shown[role][state] = {"totalAmount": total, "agreementsCount": len(some)}
    rows = [(role, s, v["totalAmount"], v["agreementsCount"]) for role, of in shown.items() for s, v in of.items()]
    _tell(shown, lambda: _rows(("role", "state", "amount", "agreements"), rows))


@payment.command("release-allocations")
def release_allocations() -> None:
    """Free all budgets; what was accepted is still paid."""

    async def release(client: NodeClient) -> None:
        for allocation in await client.session.request("GET", "/payment-api/v1/allocations"):
            await client.payment.release_allocation(allocation["allocationId"])

    _ask(release)
    _tell(None)


async def _balance(client: NodeClient, account: Account) -> Balance:
    return (await client.payment.balances(network=account.platform))[0]


async def _account(client: NodeClient, account: str | None, driver: str, network: str | None) -> Account:
    """Raises UsageError for one that the node has not."""
    accounts = await client.payment.accounts()
    fitting = [a for a in accounts if a.driver == driver and network in (None, a.network)]
    known = ", ".join(f"{a.driver} on {a.network}" for a in accounts) or "none"
    if not fitting:
        raise UsageError(
            f"this node has no account of {driver} on {network or 'any network'}",
            hint=f"it has: {known}; more by [[payment.networks]] in the settings, golemp2p localnet --payment-network",
        )
    if account is not None and account.lower() != fitting[0].address:
        raise UsageError(f"this node has no key of {account}", hint=f"its account is {fitting[0].address}")
    return fitting[0]


def _because(problem: str | None) -> str:
    return f" ({problem})" if problem else ""


# --- output, the node, arguments --------------------------------------------------------------------------------------


def _ask(use: Callable[[NodeClient], Awaitable[T]]) -> T:
    """By the data directory, with its rights; else as any agent, by YAGNA_API_URL and YAGNA_APPKEY."""

    async def main() -> T:
        from golemp2p.client import connect

        try:
            url, key = find_node(GIVEN.data_dir, None, None)
        except GolemError:
            secret = os.environ.get("YAGNA_APPKEY")
            if secret is None:
                raise
            url, key = os.environ.get("YAGNA_API_URL", "http://127.0.0.1:7465"), secret
        async with connect(url, key) as client:
            return await use(client)

    return run_async(main)


def _tell(value: object, show: Callable[[], object] | None = None) -> None:
    """JSON when asked for, else what ``show`` prints."""
    if GIVEN.as_json:
        echo_json(value)
    elif show is not None:
        show()


def _rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; in JSON yagna writes a list of objects."""
    if GIVEN.as_json:
        echo_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        table(columns, [["" if cell is None else cell for cell in row] for row in rows])


def take_globals(arguments: Sequence[str]) -> list[str]:
    """Sets what yagna takes anywhere on its command line; the arguments without it."""
    left: list[str] = []
    data_dir = os.environ.get(DATADIR_ENV)
    waiting = iter(arguments)
    for argument in waiting:
        name, sign, value = argument.partition("=")
        if argument == "--json":
            GIVEN.as_json = True
        elif name in ("-d", "--datadir"):
            data_dir = value if sign else next(waiting, "")
        elif name in IGNORED_OPTIONS:
            _ = value if sign else next(waiting, "")
        elif argument not in IGNORED_FLAGS:
            left.append(argument)
    if data_dir:
        GIVEN.data_dir = Path(data_dir)
    return left


def main() -> None:
    arguments = take_globals(sys.argv[1:])
    if arguments in (["--version"], ["-V"]):
        from golemp2p import __version__
        from golemp2p.wire.rest.node import YAGNA_VERSION

        echo(f"yagna {YAGNA_VERSION} (golemp2p {__version__})")
        return
    for words in (" ".join(arguments[:2]), " ".join(arguments[:1])):
        if words in INSTEAD:
            say(f"yagna: golemp2p has no `yagna {words}`: {INSTEAD[words]}")
            sys.exit(ExitCode.USAGE)
    try:
        app(arguments)
    except (GolemError, BaseExceptionGroup) as raised:
        error = first_error(raised)
        if not isinstance(error, GolemError):
            raise
        say(f"yagna: {error.message}")
        if error.hint:
            say(f"  hint: {error.hint}")
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
