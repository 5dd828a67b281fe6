"""`golemp2p payment`: what is owed, what is paid. Its commands that send something are in wallet.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from golemp2p.cli import channels, wallet
from golemp2p.cli.common import ApiUrl, AppKeyOption, AsJson, DataDir, echo, echo_json, table, with_client
from golemp2p.errors import UsageError

if TYPE_CHECKING:
    from golemp2p.client import NodeClient
    from golemp2p.wire.rest.payment import Balance
    from golemp2p.wire.rest.wallet import Endpoint, SettlementStatus

T = TypeVar("T")
app = typer.Typer(help="Balances, bills, payments, networks.", no_args_is_help=True)
app.add_typer(channels.app, name="channels")
Network = Annotated[str | None, typer.Option("--network", help="Only this payment network.", show_default=False)]
STATUS_CHAIN_S = 1.0  # a chain that takes longer is shown as it was; the first question loads web3, in 0.7 s


@app.command(epilog="Example: golemp2p payment status")
def status(
    network: Network = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """What is owed, under way and overdue on each network, what keeps it, and how the endpoints are."""

    async def fetch(client: NodeClient) -> tuple[list[Balance], list[SettlementStatus]]:
        balances = await client.payment.balances(timeout_s=STATUS_CHAIN_S)
        return balances, await client.wallet.status()

    balances, states = with_client(data_dir, api_url, app_key, fetch)
    by_platform = {s.platform: s for s in states}
    shown = _of([(b, by_platform[b.platform]) for b in balances if _fits(b.platform, network)], network)
    if as_json:
        echo_json([{**b.to_json(), **s.to_json(), **_problem(b, s)} for b, s in shown])
        return
    rows = [
        (s.platform, b.amount or "?", b.gas or "?", s.owed, s.in_flight, s.problem or b.problem or "-")
        for b, s in shown
    ]
    table(("platform", "balance", "gas", "owed", "in flight", "problem"), rows)
    for _, state in shown:
        _show_details(state)


def _problem(balance: Balance, state: SettlementStatus) -> dict[str, str]:
    problem = state.problem or balance.problem
    return {"problem": problem} if problem else {}


def _show_details(s: SettlementStatus) -> None:
    waiting = [f"{s.waiting} waits to be sent"] if s.waiting != "0" else []
    waiting += [f"{s.rolled_over} of it is too little yet"] if s.rolled_over != "0" else []
    waiting += [f"at the latest at {s.next_at:%Y-%m-%d %H:%M:%S %Z}"] if s.next_at else []
    waiting += [f"{s.orders} ordered"] if s.orders else []
    caps = [f"{s.spent_today} spent today of {s.cap_per_day}"] if s.cap_per_day else []
    caps += [f"at most {s.cap_per_agreement} under one agreement"] if s.cap_per_agreement else []
    for line in (waiting, caps):
        if line:
            echo(f"{s.platform}: {', '.join(line)}")
    if s.transactions:
        rows = [
            (t.nonce, t.mode, t.state, t.amount, t.payee or "several", t.versions, f"{t.max_fee_gwei:g}", t.transaction)
            for t in s.transactions
        ]
        columns = ("nonce", "mode", "state", "amount", "payee", "bids", "max gwei", "transaction")
        table(columns, rows, title=f"{s.platform}: under way")
    if s.overdue:
        bills = [(b.kind, b.document_id, b.amount, b.payer, f"{b.due:%Y-%m-%d %H:%M}") for b in s.overdue]
        table(("overdue", "id", "amount", "payer", "was due"), bills, title=f"{s.platform}: not paid in time")
    if s.endpoints and (s.problem or any(e.problem for e in s.endpoints)):
        table(
            ("endpoint", "head", "ms", "problem"),
            [(e.host, e.head or "-", f"{e.latency_ms:g}", _problem_of(e)) for e in s.endpoints],
            title=f"{s.platform}: endpoints",
        )


@app.command(epilog="Example: golemp2p payment balance --network polygon")
def balance(
    network: Network = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """What the node's account holds on each network."""
    found = _of(with_client(data_dir, api_url, app_key, lambda c: c.payment.balances(network=network)), network)
    if as_json:
        echo_json([b.to_json() for b in found])
    else:
        rows = [(b.platform, b.address, b.amount or "?", b.gas or "?", b.problem or "-") for b in found]
        table(("platform", "account", "balance", "gas", "problem"), rows)


@app.command(epilog="Example: golemp2p payment networks")
def networks(
    network: Network = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """The node's payment networks: token, contracts, endpoints, when a payment is final."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.wallet.networks())
    found = _of([n for n in found if _fits(n.platform, network)], network)
    if as_json:
        echo_json([n.to_json() for n in found])
        return
    for n in found:
        hosts = ", ".join(e.host + (f" ({_problem_of(e)})" if e.problem else "") for e in n.endpoints) or "-"
        rows = [
            ("chain", n.chain_id),
            ("account", n.address),
            ("token", f"{n.token} ({n.symbol})"),
            *((name, address) for name, address in n.contracts.items()),
            ("endpoints", hosts + (f"; {n.quorum} must agree" if n.quorum > 1 else "")),
            ("final", _blocks(n.confirmations) + (" and the chain's tag" if n.finality == "finalized" else "")),
            ("fee cap", f"{n.max_fee_gwei:g} gwei"),
            (f"{n.coin} and {n.symbol}", n.faucet_hint or "-"),
        ]
        table((n.network, n.platform), rows)


@app.command(epilog="Example: golemp2p payment invoices --json")
def invoices(
    data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None, as_json: AsJson = False
) -> None:
    """Invoices, issued and received."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.payment.invoices())
    if as_json:
        echo_json([i.to_json() for i in found])
    else:
        rows = [(i.invoice_id, i.status, i.amount, i.payer_addr, i.payee_addr, i.status_reason or "") for i in found]
        table(("invoice", "status", "amount", "payer", "payee", "reason"), rows)


@app.command(epilog="Example: golemp2p payment history --network polygon --json")
def history(
    network: Network = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="So many of the newest.")] = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Payments made and received and the owner's transactions, with what each transaction cost."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.wallet.history(network=network, limit=limit))
    if as_json:
        echo_json([m.to_json() for m in found])
        return
    rows = [
        (
            f"{m.timestamp:%Y-%m-%d %H:%M:%S}",
            m.direction,
            m.what if m.other is None else m.what.partition(" ")[0],  # the other side has a column
            m.amount,
            m.other or "-",
            m.state + (f": {m.problem}" if m.problem else ""),
            m.fee or "-",
            m.explorer or m.transaction or "-",
        )
        for m in found
    ]
    table(("time", "", "what", "amount", "other side", "state", "fee", "transaction"), rows)


def _of(found: list[T], network: str | None) -> list[T]:
    """Raises UsageError when a network was named and nothing fits it: an empty answer would look like "all is well"."""
    if network is not None and not found:
        raise UsageError(
            f"this node has no payment network {network}", hint="golemp2p payment networks shows those that it has"
        )
    return found


def _problem_of(endpoint: Endpoint) -> str:
    """Without the host, which stands beside it."""
    return (endpoint.problem or "-").removeprefix(f"{endpoint.host} ")


def _blocks(number: int) -> str:
    return f"{number} block" + ("s" if number > 1 else "")


def _fits(platform: str, network: str | None) -> bool:
    """``network``: a network's or a platform's name."""
    return network is None or platform == network or platform.split("-", 1)[1].rpartition("-")[0] == network


wallet.add_to(app)
