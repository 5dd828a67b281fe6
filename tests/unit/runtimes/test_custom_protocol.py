"""What an executable runtime prints is hostile until read."""

from __future__ import annotations

import contextlib
import json
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.runtimes.base import EndReason, Limits, RuntimeFailureError
from golemp2p.runtimes.custom.executable import judge
from golemp2p.runtimes.custom.protocol import parse_deploy, parse_offer_template
from golemp2p.runtimes.process import ChildExit

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.text(st.sampled_from("ab./\0"), max_size=6)


def test_an_answer_as_golems_own_runtimes_give_it() -> None:
    answer = parse_deploy(
        '{"startMode": "empty", "valid": {"Ok": "Success"}, "vols": [{"name": "vol-1", "path": "/golem/work/"}]}'
    )
    assert (answer.start_mode, answer.volumes) == ("empty", {"/golem/work": "vol-1"})
    assert parse_deploy("{}").volumes == {}
    assert parse_deploy('{"startMode": "Blocking"}').start_mode == "blocking"


@given(st.text(max_size=60) | JSONS.map(json.dumps))
def test_any_text_is_an_answer_or_refused(text: str) -> None:
    for parse in (parse_deploy, parse_offer_template):
        with contextlib.suppress(RuntimeFailureError):
            parse(text)


@given(st.sampled_from(["startMode", "valid", "vols", "properties"]), JSONS)
def test_anything_in_any_place_is_an_answer_or_refused(name: str, value: Any) -> None:
    for parse in (parse_deploy, parse_offer_template):
        with contextlib.suppress(RuntimeFailureError):
            parse(json.dumps({name: value}))


@given(NAMES, NAMES)
def test_no_volume_leads_out(name: str, path: str) -> None:
    with contextlib.suppress(RuntimeFailureError):
        for guest, host in parse_deploy(json.dumps({"vols": [{"name": name, "path": path}]})).volumes.items():
            assert "/" not in host
            assert host not in ("", ".", "..")
            assert guest.startswith("/")
            assert ".." not in guest.split("/")


def test_a_nested_offer_template_is_flattened() -> None:
    text = '{"properties": {"golem": {"runtime": {"capabilities": ["a", "b"]}}, "golem.x": 1.5}, "constraints": "()"}'
    assert parse_offer_template(text) == {"golem.runtime.capabilities": ["a", "b"], "golem.x": 1.5}


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (0, 0, EndReason.EXITED),
        (3, 3, EndReason.EXITED),
        (-signal.SIGXCPU, 152, EndReason.CPU_LIMIT),
        (128 + signal.SIGXCPU, 152, EndReason.CPU_LIMIT),  # a shell in between
        (-signal.SIGKILL, 137, EndReason.KILLED),
        (-signal.SIGSEGV, 139, EndReason.TRAP),
    ],
)
def test_how_a_command_ended(status: int, code: int, reason: EndReason) -> None:
    verdict = judge(ChildExit(status, 1.0), Limits(cpu_s=2.0))
    assert (verdict.code, verdict.reason) == (code, reason)


def test_a_code_that_only_looks_like_the_cpu_limit_is_the_programs_own() -> None:
    assert judge(ChildExit(152, 0.0), Limits()).reason is EndReason.EXITED
