"""What `golemp2p payment status` and dry runs show."""

from __future__ import annotations

from pathlib import Path

import pytest

from golemp2p.cli import wallet
from golemp2p.cli.payment import _fits, _of, _show_details
from golemp2p.cli.wallet import _show_planned
from golemp2p.errors import UsageError
from golemp2p.wire.rest.wallet import PlannedTransaction, SettlementStatus

ENDPOINT = {"host": "rpc.example", "healthy": False, "problem": "rpc.example is busy", "latencyMs": 12.5, "head": 99}
STATUS = {
    "platform": "erc20-amoy-tglm",
    "owed": "12.5",
    "waiting": "2.5",
    "rolledOver": "0.5",
    "nextAt": "2026-11-22T12:00:00Z",
    "orders": 1,
    "inFlight": 1,
    "transactions": [
        {
            "nonce": 7,
            "mode": "batch",
            "state": "sent",
            "amount": "10",
            "transaction": "0x" + "ab" * 32,
            "versions": 3,
            "maxFeeGwei": 30.5,
            "since": "2026-11-22T11:00:00Z",
        }
    ],
    "spentToday": "10",
    "capPerDay": "50",
    "problem": "the chain asks 900 gwei",
    "endpoints": [ENDPOINT],
    "overdue": [
        {
            "kind": "invoice",
            "documentId": "i-1",
            "agreementId": "a-1",
            "platform": "erc20-amoy-tglm",
            "payer": "0x" + "cd" * 20,
            "amount": "3",
            "due": "2026-11-22T10:00:00Z",
        }
    ],
}
PLANNED = {
    "platform": "erc20-amoy-tglm",
    "mode": "batch",
    "nonce": 8,
    "sender": "0x" + "aa" * 20,
    "to": "0x" + "bb" * 20,
    "call": "pay 2 payees",
    "data": "0x" + "cc" * 300,
    "value": "0",
    "legs": [{"payee": "0x" + "dd" * 20, "amount": "1", "agreements": ["a-1", "a-2"]}],
    "amount": "1.5",
    "symbol": "tglm",
    "gas": 90000,
    "maxFeeGwei": 30.0,
    "tipGwei": 1.0,
    "maxCost": "0.0027",
    "coin": "POL",
}


def test_status_shows_what_waits_what_is_under_way_what_is_overdue_and_bad_endpoints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _show_details(SettlementStatus.model_validate(STATUS))
    shown = capsys.readouterr().out
    for words in (
        "2.5 waits to be sent, 0.5 of it is too little yet, at the latest at 2026-11-22 12:00:00 UTC, 1 ordered",
        "10 spent today of 50",
        "30.5",
        "0x" + "ab" * 32,
        "i-1",
        "is busy",
    ):
        assert words in shown


def test_a_platform_without_news_takes_one_line_only(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = {
        **STATUS,
        "waiting": "0",
        "rolledOver": "0",
        "nextAt": None,
        "orders": 0,
        "transactions": [],
        "overdue": [],
    }
    quiet |= {"capPerDay": None, "problem": None, "endpoints": [{**ENDPOINT, "problem": None}]}
    _show_details(SettlementStatus.model_validate(quiet))
    assert capsys.readouterr().out == ""


def test_a_dry_run_shows_nonce_call_legs_gas_fees_cost_and_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    _show_planned([PlannedTransaction.model_validate(PLANNED)] * 2, as_json=False)
    shown = capsys.readouterr().out
    for words in (
        "pay 2 payees (batch)",
        "(300 bytes)",
        "0x" + "dd" * 20,
        "a-1, a-2",
        "at most 90000",
        "at most 30 gwei per gas, tip 1",
        "at most 0.0027 POL",
        "total  3 tglm in 2 transactions",
    ):
        assert words in shown
    _show_planned([], as_json=False)
    assert capsys.readouterr().out == "nothing to send\n"


def test_an_unknown_network_is_an_error_not_an_empty_table() -> None:
    assert _of([], None) == []
    assert _of(["amoy"], "amoy") == ["amoy"]
    with pytest.raises(UsageError, match="no payment network amyo"):
        _of([], "amyo")


def test_a_network_cannot_be_added_where_there_is_no_node(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no node in") as caught:
        wallet.init(network="amoy", data_dir=tmp_path / "nowhere")
    assert "golemp2p init" in caught.value.hint


@pytest.mark.parametrize(("network", "told"), [("amoy", "payment fund"), ("polygon", "are bought")])
def test_init_says_where_tokens_and_coin_come_from(
    network: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wallet.init(network=network, data_dir=tmp_path)
    said = capsys.readouterr().err
    assert told in said
    assert ("payment fund" in said) == (network == "amoy"), "nobody gives GLM away"


@pytest.mark.parametrize("key", ["short", "with space", "x" * 101])
def test_a_key_of_a_request_that_the_node_would_refuse_is_explained(key: str) -> None:
    with pytest.raises(UsageError, match="8 to 100 letters"):
        wallet._request(key)


def test_a_network_is_named_by_itself_or_by_its_platform() -> None:
    assert _fits("erc20-amoy-tglm", None)
    assert _fits("erc20-amoy-tglm", "amoy")
    assert _fits("erc20-amoy-tglm", "erc20-amoy-tglm")
    assert _fits("erc20-my-net-glm", "my-net")
    assert not _fits("erc20-amoy-tglm", "polygon")
