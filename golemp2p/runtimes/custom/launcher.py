"""``python -I -S launcher.py LIMITS PROGRAM ARGUMENTS…``: set limits of resources, then become the program.

Run as a file, with the standard library alone. ``LIMITS`` is JSON: ``{"cpu_s": n, "file_bytes": n, "data_bytes": n}``.
The program dies with the node's thread that started it, which is the main one.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

_KINDS = {"cpu_s": resource.RLIMIT_CPU, "file_bytes": resource.RLIMIT_FSIZE, "data_bytes": resource.RLIMIT_DATA}
_PR_SET_PDEATHSIG = 1
CANNOT_START = 127


def main() -> None:
    for name, value in {**json.loads(sys.argv[1])}.items():
        if value is None:
            continue
        kind = _KINDS[name]
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        # SIGXCPU at the soft limit tells the CPU limit apart from a kill.
        ceiling = value + 2 if kind == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else value
        resource.setrlimit(kind, (value, ceiling))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - fewer imports
        file.write("1000")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - becoming the program is the purpose
    except OSError as exc:
        sys.stderr.write(f"{sys.argv[2]}: {exc.strerror}\n")
        sys.exit(CANNOT_START)


main()
