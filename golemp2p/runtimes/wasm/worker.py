"""The process in which a program is compiled or run: ``python -I -m golemp2p.runtimes.wasm.worker FD``.

It reads one JSON line (the order) from the socket FD, obeys, writes one JSON line (the outcome) and leaves. The guest
writes to the inherited stdout and stderr pipes, so the reader's speed is its speed. When the socket closes the node
is gone or wants us gone: a watchdog thread kills the whole process, whatever the guest does. (PR_SET_PDEATHSIG would
fire with the *thread* that started us.) Nothing but the standard library, wasmtime and this package's small modules is
imported: start-up is the cost of every run. All of it is imported before the fence closes the file system.
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
from typing import Any

from golemp2p.runtimes.wasm import deterministic, fence, guest

THREAD_STACK_BYTES = 256 * 1024  # the default of 8 MiB would count against RLIMIT_DATA


def peak_bytes(status: int) -> int:
    """VmHWM, from an open /proc/self/status. Not ru_maxrss: that inherits the parent's peak across exec (measured)."""
    os.lseek(status, 0, os.SEEK_SET)
    for line in os.read(status, 16_384).splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _watch(control: socket.socket) -> None:
    """Wait for the node to close its end, then die with everything in our process group."""
    with contextlib.suppress(OSError):
        while control.recv(1):
            pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    import wasmtime.component

    del wasmtime  # loaded while we wait for the order, so that a waiting worker is a warm one
    _ = deterministic.WASI
    status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    control = socket.socket(fileno=int(sys.argv[1]))
    buffered = control.makefile("rb")
    line = buffered.readline()
    if not line.endswith(b"\n"):
        return  # the node changed its mind
    order: dict[str, Any] = json.loads(line)
    fence.limit_resources(
        {
            resource.RLIMIT_DATA: order["data_bytes"],
            resource.RLIMIT_CPU: order["cpu_s"],
            resource.RLIMIT_FSIZE: order["file_bytes"],
            resource.RLIMIT_NOFILE: order["open_files"],
        }
    )
    fences = fence.confine(order["readable"], order["writable"])
    threading.stack_size(THREAD_STACK_BYTES)
    threading.Thread(target=_watch, args=(control,), daemon=True).start()
    if order["op"] == "compile":
        outcome = guest.compile_program(order)
    else:
        outcome = guest.run_program(order, lambda: peak_bytes(status))
    outcome["fences"] = fences
    control.sendall(json.dumps(outcome).encode() + b"\n")
    os._exit(0)  # without tearing the interpreter down; the guest's output is unbuffered


if __name__ == "__main__":
    main()
