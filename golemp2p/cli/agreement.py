"""`golemp2p agreement`: contracts and their signatures."""

from __future__ import annotations

from typing import Annotated

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
    say,
    table,
    with_client,
)

app = typer.Typer(help="Agreements of this node.", no_args_is_help=True)


@app.command("list", epilog="Example: golemp2p agreement list --json")
def list_agreements(
    state: Annotated[str | None, typer.Option("--state", help="e.g. Approved, Terminated.")] = None,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """All agreements, newest first."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.market.agreements(state))
    if as_json:
        echo_json(found)
    else:
        rows = [(a["id"], a["role"], a["state"], a["timestamp"]) for a in found]
        table(("agreement", "we are", "state", "made"), rows)


@app.command(epilog="Example: golemp2p agreement show ID --verify")
def show(
    agreement: Annotated[str, typer.Argument(help="Id of the agreement.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check both signatures; exit code 1 if one is wrong.")
    ] = False,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """One agreement. --verify recomputes both EIP-712 signatures here, from the signed bytes alone."""
    found = with_client(data_dir, api_url, app_key, lambda c: c.node.agreement(agreement))
    checks = _verify(found) if verify else None
    if as_json:
        echo_json({**found, "verified": checks} if verify else found)
    else:
        parts = found["agreement"]
        facts(
            [
                ("agreement", parts["agreementId"]),
                ("state", parts["state"]),
                ("requestor", parts["demand"]["requestorId"]),
                ("provider", parts["offer"]["providerId"]),
                ("made", parts["timestamp"]),
                ("approved", parts.get("approvedDate", "-")),
                ("runtime", parts["offer"]["properties"].get("golem.runtime.name", "-")),
                ("end", (found["endReason"] or {}).get("message", "-")),
            ]
        )
        for side, good in (checks or {}).items():
            echo(f"{side}'s signature: {'valid' if good else 'NOT VALID'}")
    if checks is not None and not all(checks.values()):
        say("a signature is missing or wrong")
        raise typer.Exit(ExitCode.FAILED)


def _verify(found: dict[str, object]) -> dict[str, bool]:
    """From the document alone: who the parties are, the signed bytes, the signatures."""
    from golemp2p.core.agreement import AGREEMENT_STRUCT
    from golemp2p.core.eip712 import Domain, digest, keccak256
    from golemp2p.core.peer import address_of, recover_address
    from golemp2p.errors import RemoteProtocolError

    sides = {"requestor": address_of(str(found["requestor"])), "provider": address_of(str(found["provider"]))}
    parts = found["agreement"]
    assert isinstance(parts, dict)
    message: dict[str, str | bytes | int | bool | list[str]] = {
        "id": str(parts["agreementId"]),
        **sides,
        "content": keccak256(str(found["content"]).encode()),
        "createdAt": int(str(found["createdAtMs"])),
        "validTo": int(str(found["validToMs"])),
    }
    signed = digest(Domain(str(found["network"]), int(str(found["chainId"]))), AGREEMENT_STRUCT, message)
    checks = {}
    for side, address in sides.items():
        try:
            checks[side] = recover_address(signed, bytes.fromhex(str(found[f"{side}Signature"]))) == address
        except RemoteProtocolError:
            checks[side] = False
    return checks
