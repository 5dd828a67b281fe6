"""A copy of an exported journal that differs in anything is refused, with a reason."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from golemp2p.cli.main import app
from golemp2p.core.payment.audit import Report, audit
from golemp2p.core.payment.auditfile import lines_of
from golemp2p.errors import RemoteProtocolError
from tests.unit.audit.exchange import full_exchange

EXCHANGE = full_exchange()
FILES = {side.value: "".join(line + "\n" for line in journal.lines).encode() for journal, side in EXCHANGE.both()}


def check(data: bytes) -> list[str]:
    """The reasons; none for a sound file."""
    try:
        return reasons(audit(lines_of(io.BytesIO(data))))
    except RemoteProtocolError as exc:
        return [exc.message]


def reasons(report: Report) -> list[str]:
    return [finding.reason for finding in report.findings]


@pytest.mark.parametrize("side", FILES)
def test_the_untouched_file_holds(side: str) -> None:
    assert check(FILES[side]) == []


def test_the_command_ends_with_1_and_says_what_is_wrong() -> None:
    tampered = FILES["payer"].replace(b"INCORRECT_AMOUNT", b"INCORRECT_AMOUNX")
    for data, reason in ((tampered, "hash is another"), (tampered[10:], "not canonical JSON")):
        result = CliRunner().invoke(app, ["audit", "verify", "-", "--json"], input=data)
        found = json.loads(result.stdout)
        assert (result.exit_code, found["ok"]) == (1, False)
        assert reason in found["findings"][0]["reason"]


@given(st.sampled_from(sorted(FILES)), st.data())
@settings(max_examples=150, deadline=None)
def test_any_changed_byte_is_refused_with_a_reason(side: str, data: st.DataObject) -> None:
    raw = bytearray(FILES[side])
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    found = check(bytes(raw))
    assert found
    assert all(found)


@given(st.sampled_from(sorted(FILES)), st.data())
@settings(max_examples=60, deadline=None)
def test_any_inserted_or_removed_byte_is_refused(side: str, data: st.DataObject) -> None:
    raw = FILES[side]
    place = data.draw(st.integers(0, len(raw) - 1))
    cut = raw[:place] + raw[place + 1 :]
    more = raw[:place] + data.draw(st.binary(min_size=1, max_size=3)) + raw[place:]
    assert check(cut)
    assert more == raw or check(more)


@pytest.mark.parametrize("place", range(1, len(EXCHANGE.payee.lines)))
def test_each_removed_entry_is_missed(place: int) -> None:
    lines = EXCHANGE.payee.lines
    found = reasons(audit(lines[:place] + lines[place + 1 :]))
    assert any("its header says" in reason for reason in found)
    last = place == len(lines) - 1
    assert last or any("stands after entry" in reason for reason in found)


@pytest.mark.parametrize("kept", range(1, len(EXCHANGE.payee.lines)))
def test_a_file_cut_at_its_end_is_refused(kept: int) -> None:
    found = reasons(audit(EXCHANGE.payee.lines[:kept]))
    assert any(reason.startswith(f"the file has {kept - 1} entries") for reason in found)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_entries_in_another_order_are_refused(data: st.DataObject) -> None:
    head, *entries = EXCHANGE.payee.lines
    moved = data.draw(st.permutations(entries))
    found = reasons(audit([head, *moved]))
    assert bool(found) is (moved != entries)


def test_an_entry_that_is_given_twice_is_refused() -> None:
    lines = EXCHANGE.payee.lines
    assert any("stands after entry" in reason for reason in reasons(audit([*lines[:5], lines[4], *lines[5:]])))


def test_entries_of_one_journal_under_the_header_of_another_are_refused() -> None:
    with_other_head = [EXCHANGE.payer.lines[0], *EXCHANGE.payee.lines[1:]]
    assert any("not those that the header was signed for" in reason for reason in reasons(audit(with_other_head)))


def test_a_header_that_counts_less_is_not_signed() -> None:
    header = json.loads(EXCHANGE.payee.lines[0])
    header["entries"] -= 1
    line = json.dumps(header, sort_keys=True, separators=(",", ":"))
    with pytest.raises(RemoteProtocolError, match="not signed by the node"):
        audit([line, *EXCHANGE.payee.lines[1:-1]])


def test_the_finding_names_the_entry_that_was_changed() -> None:
    lines = list(EXCHANGE.payee.lines)
    lines[4] = lines[4].replace('"seq":4', '"seq":4', 1).replace('"time":18', '"time":19', 1)
    findings = audit(lines).findings
    assert (findings[0].entry, findings[0].reason) == (4, "the entry was changed: its hash is another")


def test_the_same_data_in_another_spelling_is_refused() -> None:
    lines = list(EXCHANGE.payee.lines)
    lines[2] = json.dumps(json.loads(lines[2]))
    assert any("another spelling" in reason for reason in reasons(audit(lines)))


def test_the_printed_table_is_for_people() -> None:
    result = CliRunner().invoke(app, ["audit", "verify", "-"], input=FILES["payer"])
    assert result.exit_code == 0
    assert "we pay" in result.stdout
    assert "1.35" in result.stdout
    assert "verified: every hash, every signature" in result.stdout


@pytest.mark.parametrize("depth", [100_000])
def test_nesting_without_end_is_refused_not_followed(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    assert check(FILES["payer"] + b'{"a":' + deep.encode() + b"}\n")
