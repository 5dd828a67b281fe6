"""The process in which images are converted: ``python -I -m golemp2p.images.worker FD``.

It reads one JSON line (the order) from the socket FD, obeys, writes one JSON line (the outcome) and leaves. When the
socket closes the node is gone or wants us gone: a watchdog thread kills the whole process group, mksquashfs with it.
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
from typing import Any, Final

from golemp2p.images.converting import convert
from golemp2p.images.inspecting import inspect_image
from golemp2p.images.model import ImageError

_NICENESS: Final = 5  # the node and its neighbours answer first on a busy host


def obey(order: dict[str, Any]) -> dict[str, Any]:
    try:
        if order["op"] == "inspect":
            return {"config": inspect_image(Path(order["image"])).config.to_json()}
        config = convert(
            Path(order["image"]),
            Path(order["target"]),
            order["to"],
            name=order["name"],
            scratch=Path(order["scratch"]),
        )
    except ImageError as exc:
        return {"error": exc.message, "hint": exc.hint}
    except MemoryError:
        return {"error": "the image needs too much memory to convert", "hint": ""}
    except OSError as exc:
        return {"error": f"the image cannot be converted: {exc.strerror or exc}", "hint": "is the disk full?"}
    return {"config": config.to_json()}


def _fence(order: dict[str, Any]) -> None:
    """Limits of this process and of what it starts. Never raises a hard limit."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: order["memory_bytes"],
        resource.RLIMIT_CPU: order["cpu_s"],
        resource.RLIMIT_FSIZE: order["file_bytes"],
    }
    for kind, value in wanted.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file too large is an error to report
    with contextlib.suppress(OSError):  # a convenience: the kernel takes us before the node
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)


def _watch(control: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while control.recv(1):
            pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    line = control.makefile("rb").readline()
    if not line.endswith(b"\n"):
        return  # the node changed its mind
    order = json.loads(line)
    _fence(order)
    threading.Thread(target=_watch, args=(control,), daemon=True).start()
    control.sendall(json.dumps(obey(order)).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
