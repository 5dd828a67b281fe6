"""`golemp2p payment`: what is owed, what is paid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from golemp2p.cli.common import ApiUrl, AppKeyOption, AsJson, DataDir, echo_json, table, with_client

if TYPE_CHECKING:
    from golemp2p.client import NodeClient
    from golemp2p.wire.rest.payment import Balance, PlatformStatus

app = typer.Typer(help="Balances, invoices and payments.", no_args_is_help=True)


@app.command(epilog="Example: golemp2p payment status")
def status(
    data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None, as_json: AsJson = False
) -> None:
    """Balances, and what settlement is doing on each platform."""

    async def fetch(client: NodeClient) -> tuple[list[Balance], list[PlatformStatus]]:
        return await client.payment.balances(), await client.payment.status()

    balances, states = with_client(data_dir, api_url, app_key, fetch)
    by_platform = {s.platform: s for s in states}
    if as_json:
        echo_json([{**b.to_json(), **by_platform[b.platform].to_json()} for b in balances])
        return
    rows = []
    for balance in balances:
        state = by_platform[balance.platform]
        problem = state.problem or balance.problem or "-"
        rows.append((balance.platform, balance.amount or "?", balance.gas or "?", state.owed, state.in_flight, problem))
    table(("platform", "balance", "gas", "owed", "in flight", "problem"), rows)


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


@app.command(epilog="Example: golemp2p payment history")
def history(
    data_dir: DataDir = None, api_url: ApiUrl = None, app_key: AppKeyOption = None, as_json: AsJson = False
) -> None:
    """Payments, made and received, with their transactions."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.payment.payments())
    if as_json:
        echo_json([p.to_json() for p in found])
    else:
        rows = [(p.status, p.amount, p.payer_addr, p.payee_addr, p.transaction) for p in found]
        table(("status", "amount", "payer", "payee", "transaction"), rows)
