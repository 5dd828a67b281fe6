"""Entry point of ``gftp``: a JSON-RPC server on stdin and stdout, or one command. Nothing else goes to stdout."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import IO, Any, Final, NoReturn

from golemp2p.errors import GolemError, UsageError
from golemp2p.gftp.commands import VERSION, Commands, InvalidParamsError
from golemp2p.gftp.where import find_node

_PARSE, _INVALID, _METHOD, _PARAMS, _SERVER = -32700, -32600, -32601, -32602, -32000
_MAX_LINE_CHARS: Final = 4 * 1024 * 1024
_USAGE: Final = """usage: gftp [-v] COMMAND

  server                      JSON-RPC 2.0 on stdin and stdout, one object a line (what yapapi starts)
  publish FILE...             serve files until interrupted
  receive FILE                wait for a file until interrupted
  download URL FILE           get what another node publishes
  upload URL FILE             send a file to where another node waits for it
  version                     print the version

The node: YAGNA_API_URL and YAGNA_APPKEY, else the one of this user's data directory."""


def main() -> None:
    arguments = sys.argv[1:]
    out = _take_stdout()
    _raise_open_files()
    signal.signal(signal.SIGTERM, _stop)
    verbose = any(flag in arguments for flag in ("-v", "--verbose"))
    arguments = [each for each in arguments if each not in ("-v", "--verbose")]
    match arguments:
        case ["server"]:
            if not sys.stdin.isatty():
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that started us; it tells us
            commands = Commands(find_node)
            try:
                serve(sys.stdin, out, commands)
            finally:
                commands.close_all()
        case ["-V" | "--version"]:
            print(f"gftp {VERSION}", file=out, flush=True)
        case ["version"]:
            _once(out, "version", {}, verbose=verbose)
        case ["publish", _, *_]:
            _once(out, "publish", {"files": arguments[1:]}, verbose=verbose)
        case ["receive", file]:
            _once(out, "receive", {"output_file": file}, verbose=verbose)
        case ["download", url, file]:
            _once(out, "download", {"url": url, "output_file": file}, verbose=verbose)
        case ["upload", url, file]:
            _once(out, "upload", {"url": url, "file": file}, verbose=verbose)
        case ["-h" | "--help" | "help"]:
            with contextlib.suppress(BrokenPipeError):  # gftp --help | head -1
                print(_USAGE, file=out, flush=True)
        case _:
            print(_USAGE, file=sys.stderr)
            sys.exit(2)


def _take_stdout() -> IO[str]:
    """Our own way to stdout; whatever else writes there from now on lands on stderr."""
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    return out


def _raise_open_files() -> None:
    """Each published file is an open one."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _stop(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)


def serve(requests: IO[str], out: IO[str], commands: Commands) -> None:
    """Until the end of ``requests`` or a shutdown."""
    while line := requests.readline(_MAX_LINE_CHARS):
        if not line.strip():
            continue
        answer, over = answer_line(line, commands)
        try:
            out.write(json.dumps(answer) + "\n")
            out.flush()
        except BrokenPipeError:
            return
        if over:
            return


def answer_line(line: str, commands: Commands) -> tuple[dict[str, Any], bool]:
    """The answer to one line, and whether it was the last."""
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": None}
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return answer | {"error": {"code": _PARSE, "message": "this is no JSON"}}, False
    match request:
        case {"jsonrpc": "2.0", "method": str(method), **rest}:
            request_id, params = rest.get("id"), rest.get("params") or {}
        case _:
            return answer | {"error": {"code": _INVALID, "message": "this is no JSON-RPC 2.0 request"}}, False
    answer["id"] = request_id if isinstance(request_id, int | float | str) else None
    if method == "shutdown":
        return answer | {"result": "ok"}, True
    if not isinstance(params, dict):
        return answer | {"error": {"code": _PARAMS, "message": "parameters are given by name"}}, False
    try:
        return answer | {"result": commands.call(method, params)}, False
    except InvalidParamsError as exc:
        error = _PARAMS, str(exc)
    except LookupError as exc:
        error = _METHOD, str(exc.args[0])
    except (GolemError, OSError) as exc:
        error = _SERVER, str(exc)
    return answer | {"error": {"code": error[0], "message": error[1]}}, False


def _once(out: IO[str], method: str, params: dict[str, Any], *, verbose: bool) -> None:
    """One command; one that serves goes on until it is interrupted."""
    commands = Commands(find_node, anybody=True)
    try:
        result = commands.call(method, params)
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": None} if verbose else {}
        print(json.dumps(body | {"result": result}), file=out, flush=True)
        if method in ("publish", "receive"):
            signal.pause()
    except (UsageError, GolemError) as exc:
        print(f"gftp: {exc}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        pass
    finally:
        commands.close_all()


if __name__ == "__main__":
    main()
