"""Exe scripts: what the three clients send, what is refused, and that nothing else can happen."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p import limits
from golemp2p.core.exescript import (
    Capture,
    CaptureMode,
    CapturePart,
    Command,
    Deploy,
    Run,
    ScriptError,
    Sign,
    Start,
    Terminate,
    Transfer,
    parse_script,
)


def one(command: object) -> Command:
    (parsed,) = parse_script(json.dumps([command]))
    return parsed


def test_what_yapapi_sends() -> None:
    script = [
        {"deploy": {}},
        {"start": {"args": []}},
        {"transfer": {"from": "gftp://0xaa/bb", "to": "container:/golem/work/x"}},
        {
            "run": {
                "entry_point": "/bin/sh",
                "args": ["-c", "date"],
                "capture": {"stdout": {"stream": {}}, "stderr": {"stream": {}}},
            }
        },
        {"terminate": {}},
    ]
    stream = Capture(CaptureMode.STREAM)
    assert parse_script(json.dumps(script)) == (
        Deploy(),
        Start(),
        Transfer(source="gftp://0xaa/bb", target="container:/golem/work/x"),
        Run(entry_point="/bin/sh", args=("-c", "date"), stdout=stream, stderr=stream),
        Terminate(),
    )


def test_what_golem_js_sends() -> None:
    deploy = one(
        {"deploy": {"progress": {"updateInterval": "500ms"}, "env": {"A": "b"}, "volumes": {"/v": {"ram": {}}}}}
    )
    assert deploy == Deploy(progress_s=0.5, env=(("A", "b"),), volumes=("/v",))
    assert one({"start": {}}) == Start()
    run = one(
        {
            "run": {
                "entry_point": "/bin/ls",
                "args": [],
                "env": {"X": 1},
                "capture": {"stdout": {"atEnd": {"format": "string"}}},
            }
        }
    )
    assert run == Run(entry_point="/bin/ls", stdout=Capture(CaptureMode.AT_END))
    assert one({"transfer": {"from": "a", "to": "b", "progress": {}}}) == Transfer(
        source="a", target="b", progress_s=limits.DEFAULT_PROGRESS_S
    )


def test_other_forms() -> None:
    assert one({"sign": {}}) == Sign()
    assert one({"deploy": {"volumes": ["/a/", "/b//c", "/a"], "net": []}}) == Deploy(volumes=("/a", "/b/c"))
    run = one({"run": {"entry_point": "x", "capture": {"stdout": {"atEnd": {"tail": 5, "format": "bin"}}}}})
    assert run == Run(entry_point="x", stdout=Capture(CaptureMode.AT_END, CapturePart.TAIL, 5, binary=True))


def test_the_command_goes_back_as_it_came() -> None:
    raw = {"run": {"entry_point": "x", "args": ["ü"], "custom": [1.0]}}
    assert one(raw).raw == raw


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("", "not JSON"),
        ("{}", "an object, not an array"),
        ("[]", "no command"),
        ("[1]", "command 0: must be an object"),
        ('[{"deploy": {}, "start": {}}]', "command 0: must be an object with one key"),
        ('[{"deploy": {}}, {"fly": {}}]', "command 1: there is no command 'fly'"),
        ('[{"run": {}}]', "command 0 (run): entry_point is missing"),
        ('[{"run": {"entry_point": 1}}]', "command 0 (run): entry_point is a number, not a string"),
        ('[{"run": {"entry_point": "a", "args": ["b", 2]}}]', "args[1] is a number"),
        ('[{"run": {"entry_point": "a", "args": "b"}}]', "args is a string, not an array"),
        ('[{"run": {"entry_point": "a\\u0000b"}}]', "NUL"),
        ('[{"run": {"entry_point": "\\ud800"}}]', "surrogate"),
        ('[{"run": {"entry_point": "a", "capture": {"stdout": {"tap": {}}}}}]', "capture.stdout must be"),
        ('[{"run": {"entry_point": "a", "capture": {"stdout": {"stream": {"limit": -1}}}}}]', "capture.stdout.limit"),
        (
            '[{"run": {"entry_point": "a", "capture": {"stderr": {"stream": {"format": "x"}}}}}]',
            "capture.stderr.format",
        ),
        ('[{"deploy": {"volumes": ["/a/../b"]}}]', "no absolute path"),
        ('[{"deploy": {"volumes": ["/"]}}]', "cannot be a volume"),
        (json.dumps([{"deploy": {"volumes": [f"/v{i}" for i in range(100)]}}]), "volumes has 100 entries"),
        ('[{"deploy": {"progress": {"updateInterval": "soon"}}}]', "progress.updateInterval"),
        ('[{"transfer": {"from": "a"}}]', "command 0 (transfer): to is missing"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_mistake_is_named_with_its_place(script: str, complaint: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parse_script(script)
    assert complaint in str(caught.value)


def test_scripts_have_limits() -> None:
    with pytest.raises(ScriptError, match="commands"):
        parse_script(json.dumps([{"sign": {}}] * (limits.MAX_SCRIPT_COMMANDS + 1)))
    with pytest.raises(ScriptError, match="too large"):
        parse_script(" " * (limits.MAX_SCRIPT_BYTES + 1))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    ["entry_point", "args", "capture", "from", "to", "format", "volumes", "env", "net", "progress"]
)
bodies = st.dictionaries(fields | st.text(max_size=5), json_values, max_size=5) | json_values
commands = st.dictionaries(
    st.sampled_from(["deploy", "start", "run", "transfer", "terminate", "sign"]) | st.text(max_size=5),
    bodies,
    max_size=2,
)


@given(st.lists(commands | json_values, max_size=4))
def test_any_json_parses_or_is_a_script_error(script: list[object]) -> None:
    try:
        parsed = parse_script(json.dumps(script))
    except ScriptError:
        return
    assert [command.raw for command in parsed] == script


@given(st.text())
def test_any_text_parses_or_is_a_script_error(text: str) -> None:
    with contextlib.suppress(ScriptError):
        parse_script(text)
