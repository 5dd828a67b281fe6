"""The second fence around a worker: what the process may do if the first one, wasmtime's sandbox, has a hole.

rlimits, then no capabilities (the node may be root's), then Landlock (files, TCP, abstract sockets, signals; kernel
5.13 and later, as much as it has), then a seccomp filter (no sockets, no programs, no looking into other processes,
nothing that is for administrators). What is missing on a machine is left out: the sandbox is what the offer promises.
Reading memory that the process already holds is not fenced by anything here; what it holds is the program, its files
and an empty environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

NICENESS = 5  # the node and its neighbours answer first on a busy host

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
# System call numbers: Landlock's are the same on all architectures.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_EXECUTE = 1 << 0
# Access rights to files by the Landlock version that brought them: 13, refer, truncate, ioctl on devices.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_NET_RIGHTS = 0b11  # bind and connect TCP, version 4
_SCOPES = 0b11  # abstract unix sockets and signals, version 6

_CAPABILITY_VERSION = 0x20080522

# AUDIT_ARCH value; numbers of socket, socketpair, connect, bind, listen, execve, execveat, fork, vfork, ptrace,
# process_vm_readv, process_vm_writev, bpf, perf_event_open, userfaultfd, keyctl, add_key, request_key, io_uring_setup;
# then of unshare, setns, mount, umount2, pivot_root, chroot, init_module, finit_module, delete_module, kexec_load,
# reboot, open_by_handle_at, settimeofday, clock_settime, swapon, sethostname.
_SECCOMP = {
    "x86_64": (
        0xC000003E,
        (41, 53, 42, 49, 50, 59, 322, 57, 58, 101, 310, 311, 321, 298, 323, 250, 248, 249, 425),
        (272, 308, 165, 166, 155, 161, 175, 313, 176, 246, 169, 304, 164, 227, 167, 170),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 199, 203, 200, 201, 221, 281, 117, 270, 271, 280, 241, 282, 219, 217, 218, 425),
        (97, 268, 40, 39, 41, 51, 105, 273, 106, 104, 142, 265, 170, 112, 224, 161),
    ),
}


def limit_resources(wanted: Mapping[int, int | None]) -> None:
    """rlimits of the process itself. Never raises a hard limit.

    RLIMIT_DATA counts what is writable, not what is reserved, so it bounds a memory bomb without getting in the way of
    wasmtime's 4 GiB reservations (RLIMIT_AS does, measured): memory.grow then answers -1.
    """
    for kind, value in {resource.RLIMIT_CORE: 0, **wanted}.items():
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


def confine(readable: Iterable[str], writable: Iterable[str]) -> tuple[str, ...]:
    """From now on only these files and directories (with all below) can be opened. What could be had: its names.

    Holds for this thread and those that it starts, so call it before there are others.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return ()
    done = []
    if libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)) == 0:
        done.append("capabilities")
    if _landlock(libc, readable, writable):
        done.append("landlock")
    if _seccomp(libc):
        done.append("seccomp")
    return tuple(done)


def _landlock(libc: ctypes.CDLL, readable: Iterable[str], writable: Iterable[str]) -> bool:
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        return False
    rights = sum(bits for since, bits in _FILE_RIGHTS.items() if version >= since)
    # A version of the structure that the kernel does not know yet must end in zeros, so all of it can always be given.
    attributes = struct.pack("=QQQ", rights, _NET_RIGHTS if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    try:
        allowed = [(path, (_READ_FILE | _READ_DIR) & rights) for path in readable]
        allowed += [(path, rights & ~_EXECUTE) for path in writable]
        return all(_allow(libc, ruleset, *rule) for rule in allowed) and (
            libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
        )
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> bool:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return True  # what is not there need not be allowed
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - pathlib is slower, and this is start-up
            rights &= _READ_FILE | 1 << 1 | 1 << 14  # of a file: read, write, truncate
        rule = struct.pack("=Qi", rights, descriptor)
        return bool(libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0) == 0)
    finally:
        os.close(descriptor)


def _seccomp(libc: ctypes.CDLL) -> bool:
    """A deny list: EPERM for what a program without network and children never asks for."""
    known = _SECCOMP.get(platform.machine())
    if known is None or struct.calcsize("P") != 8:
        return False
    architecture, denied = known[0], (*known[1], *known[2])
    load, jump_equal, jump_at_least, give = 0x20, 0x15, 0x35, 0x06
    kill, allow, refuse = 0x80000000, 0x7FFF0000, 0x00050001  # the last: EPERM
    count = len(denied)
    program = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (jump_equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # seccomp_data.nr
        (jump_at_least, count + 1, 0, 0x40000000),  # x32 calls have other numbers: refused
        *((jump_equal, count - at, 0, number) for at, number in enumerate(denied)),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0)
