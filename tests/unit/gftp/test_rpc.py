"""gftp's lines: JSON-RPC in, one line out for each, whatever comes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golemp2p.gftp.commands import VERSION, Commands
from golemp2p.gftp.main import answer_line, serve


def nowhere() -> tuple[str, str]:
    return "http://127.0.0.1:9", "key"


def ask(request: object) -> dict[str, Any]:
    return answer_line(json.dumps(request), Commands(nowhere))[0]


def rpc(method: str, params: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 12_345_678_901_234_567_890, "method": method, "params": params}


def test_the_version_needs_no_node() -> None:
    answer = ask(rpc("version", {}))
    assert answer == {"jsonrpc": "2.0", "id": 12_345_678_901_234_567_890, "result": VERSION}
    assert tuple(map(int, VERSION.split()[0].split("."))) >= (0, 7, 3)  # or yapapi never closes what it published


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param([], -32600, id="list"),
        pytest.param({"id": 1}, -32600, id="no-method"),
        pytest.param({"jsonrpc": "1.0", "id": 1, "method": "version"}, -32600, id="another-version"),
        pytest.param(rpc("steal"), -32601, id="unknown-method"),
        pytest.param(rpc("version", [1]), -32602, id="parameters-by-place"),
        pytest.param(rpc("publish"), -32602, id="no-parameters"),
        pytest.param(rpc("publish", {"files": []}), -32602, id="no-files"),
        pytest.param(rpc("publish", {"files": [5]}), -32602, id="file-is-a-number"),
        pytest.param(rpc("receive", {"output_file": ""}), -32602, id="no-name"),
        pytest.param(rpc("close", {"urls": "a"}), -32602, id="urls-is-text"),
        pytest.param(rpc("publish", {"files": ["/missing"]}), -32000, id="missing-file"),
        pytest.param(rpc("publish", {"files": [__file__]}), -32000, id="no-node"),
        pytest.param(rpc("download", {"url": "gftp://0x1/a"}), -32602, id="no-output"),
        pytest.param(rpc("download", {"url": "gftp://0x1/a", "output_file": "a"}), -32000, id="download-no-node"),
        pytest.param(rpc("upload", {"url": "gftp://0x1/a", "file": "/missing"}), -32000, id="upload-missing-file"),
        pytest.param(rpc("receive", {"output_file": "/proc/nothing/here"}), -32000, id="unwritable"),
    ],
)
def test_what_cannot_be_is_an_error_with_its_code(request_: object, code: int) -> None:
    answer = ask(request_)
    assert answer["error"]["code"] == code
    assert answer["error"]["message"]
    assert "result" not in answer


def test_closing_what_was_never_published_is_no_failure() -> None:
    assert ask(rpc("close", {"urls": ["gftp://0x1/a", "gftp://0x1/b"]}))["result"] == ["error", "error"]


@given(st.text(max_size=200))
def test_any_line_has_an_answer(line: str) -> None:
    answer, over = answer_line(line, Commands(nowhere))
    assert "error" in answer
    assert not over
    assert "\n" not in json.dumps(answer)


def test_the_server_ends_with_its_input_or_a_shutdown() -> None:
    out = io.StringIO()
    serve(io.StringIO(json.dumps(rpc("version")) + "\n\nnonsense\n"), out, Commands(nowhere))
    assert [list(json.loads(line))[-1] for line in out.getvalue().splitlines()] == ["result", "error"]
    out = io.StringIO()
    serve(io.StringIO(json.dumps(rpc("shutdown")) + "\n" + json.dumps(rpc("version")) + "\n"), out, Commands(nowhere))
    assert [json.loads(line)["result"] for line in out.getvalue().splitlines()] == ["ok"]
