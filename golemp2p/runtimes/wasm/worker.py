"""The process in which a module is compiled or run: ``python -I -m golemp2p.runtimes.wasm.worker FD``.

It reads one JSON line (the order) from the socket FD, obeys, writes one JSON line (the outcome) and leaves. The guest
writes to the inherited stdout and stderr pipes, so the reader's speed is its speed. When the socket closes the node
is gone or wants us gone: a watchdog thread kills the whole process, whatever the guest does. (PR_SET_PDEATHSIG would
fire with the *thread* that started us.) Nothing but the standard library and wasmtime is imported: start-up is the
cost of every run.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

UNLIMITED_FUEL = 2**62
MAGIC_MODULE = b"\0asm\x01\0\0\0"
MAGIC_COMPONENT = b"\0asm\x0d\0\x01\0"
TABLE_ELEMENTS = 1_000_000  # 8 MB; CPython's module has about 10 000
THREAD_STACK_BYTES = 256 * 1024  # the default of 8 MiB would count against RLIMIT_DATA
NICENESS = 5  # the node and its neighbours answer first on a busy host


def engine_config(metered: bool) -> Any:
    """The configuration that compiling and running must share; its facts are part of the cache key."""
    import wasmtime

    config = wasmtime.Config()
    config.consume_fuel = metered
    return config


def compile_module(order: dict[str, Any]) -> dict[str, Any]:
    """Check ``package``, compile it and write the serialized module to ``output``."""
    import wasmtime

    code = Path(order["package"]).read_bytes()
    if code.startswith(MAGIC_COMPONENT):
        return {"error": "the package is a WebAssembly component; this runtime takes WASI preview 1 modules"}
    if not code.startswith(MAGIC_MODULE):
        return {"error": f"the package is no WebAssembly module (it starts with {code[:8].hex() or 'nothing'})"}
    engine = wasmtime.Engine(engine_config(order["metered"]))
    try:
        module = wasmtime.Module(engine, code)
    except wasmtime.WasmtimeError as exc:
        return {"error": f"the module is not valid: {_first_lines(exc)}"}
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    unknown = []
    for item in module.imports:
        try:
            linker.get(store, item.module, item.name)
        except wasmtime.WasmtimeError:
            unknown.append(f"{item.module}.{item.name}")
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        return {"error": f"the module imports what this runtime does not have: {', '.join(unknown[:5])}{more}"}
    try:
        linker.instantiate_pre(module)
    except wasmtime.WasmtimeError as exc:
        return {"error": f"the module's imports do not fit: {_first_lines(exc)}"}
    if not any(item.name == "_start" for item in module.exports):
        return {"error": "the module exports no _start function: it is a library, not a command"}
    with Path(order["output"]).open("wb") as file:
        file.write(module.serialize())
        file.flush()
        os.fsync(file.fileno())
    return {}


def run_module(order: dict[str, Any]) -> dict[str, Any]:
    """Run the serialized module to its end and say how it ended and what it used."""
    import wasmtime

    engine = wasmtime.Engine(engine_config(order["metered"]))
    try:
        module = wasmtime.Module.deserialize_file(engine, order["module"])
    except wasmtime.WasmtimeError as exc:
        return {"stale": f"the compiled module does not load: {_first_lines(exc)}"}
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=order["memory_bytes"], table_elements=TABLE_ELEMENTS, memories=1)
    budget = order["fuel"] or UNLIMITED_FUEL
    if order["metered"]:
        store.set_fuel(budget)
    wasi = wasmtime.WasiConfig()
    wasi.argv = order["argv"]
    wasi.env = order["env"]
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    for host, guest in order["dirs"]:
        wasi.preopen_dir(host, guest)
    store.set_wasi(wasi)
    outcome: dict[str, Any] = {"code": 0, "trap": None, "message": ""}
    memory = None
    try:
        exports = linker.instantiate(store, module).exports(store)
        memory = exports.get("memory")
        exports["_start"](store)
    except wasmtime.ExitTrap as exc:
        outcome["code"] = exc.code
    except wasmtime.Trap as exc:
        outcome |= {"trap": exc.trap_code.name if exc.trap_code else "UNKNOWN", "message": _first_lines(exc)}
    except wasmtime.WasmtimeError as exc:
        outcome |= {"trap": "ERROR", "message": _first_lines(exc)}
    outcome["fuel"] = budget - store.get_fuel() if order["metered"] else 0
    outcome["linear_bytes"] = memory.data_len(store) if isinstance(memory, wasmtime.Memory) else 0
    outcome["memory_peak_bytes"] = _peak_bytes()
    return outcome


def _first_lines(exc: Exception) -> str:
    """wasmtime's text without the backtrace: the last line holds the cause."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    if len(lines) > 1 and "Caused by:" in lines:
        at = lines.index("Caused by:")
        lines = ([] if "backtrace" in lines[0] else lines[:1]) + lines[at + 1 :]
    return "; ".join(lines[:3])[:500]


def _peak_bytes() -> int:
    """VmHWM. Not ru_maxrss: that inherits the parent's peak across exec (measured)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _fence(order: dict[str, Any]) -> None:
    """Limits of the process itself, in case the sandbox's own are not enough. Never raises a hard limit.

    RLIMIT_DATA counts what is writable, not what is reserved, so it bounds a memory bomb without getting in the way of
    wasmtime's 4 GiB reservations (RLIMIT_AS does, measured): memory.grow then answers -1.
    """
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: order["data_bytes"],
        resource.RLIMIT_CPU: order["cpu_s"],
        resource.RLIMIT_FSIZE: order["file_bytes"],
        resource.RLIMIT_NOFILE: order["open_files"],
    }
    for kind, value in wanted.items():
        if value is None:
            continue
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # SIGXCPU at the soft limit tells the CPU limit apart from a kill.
        ceiling = value + 2 if kind == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else value
        resource.setrlimit(kind, (value, ceiling))
    with contextlib.suppress(OSError):  # a convenience: the kernel takes us before the node
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError):
        os.nice(NICENESS)


def _watch(control: socket.socket) -> None:
    """Wait for the node to close its end, then die with everything in our process group."""
    with contextlib.suppress(OSError):
        while control.recv(1):
            pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    import wasmtime  # noqa: F401 - loaded while we wait for the order, so that a waiting worker is a warm one

    control = socket.socket(fileno=int(sys.argv[1]))
    buffered = control.makefile("rb")
    line = buffered.readline()
    if not line.endswith(b"\n"):
        return  # the node changed its mind
    order = json.loads(line)
    _fence(order)
    threading.stack_size(THREAD_STACK_BYTES)
    threading.Thread(target=_watch, args=(control,), daemon=True).start()
    outcome = compile_module(order) if order["op"] == "compile" else run_module(order)
    control.sendall(json.dumps(outcome).encode() + b"\n")
    os._exit(0)  # without tearing the interpreter down; the guest's output is unbuffered


if __name__ == "__main__":
    main()
