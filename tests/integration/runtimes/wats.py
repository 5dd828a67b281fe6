"""Small guest programs as WebAssembly text. Each is a WASI preview 1 command."""

from __future__ import annotations

from typing import Final

import wasmtime

_HEAD: Final = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func $write (param $fd i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
"""


def program(body: str) -> bytes:
    return bytes(wasmtime.wat2wasm(_HEAD + body + ")"))


HELLO: Final = program(
    '(data (i32.const 64) "hello\\n") (data (i32.const 80) "oops\\n")'
    '(func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 6))'
    " (call $write (i32.const 2) (i32.const 80) (i32.const 5)))"
)
EXIT_3: Final = program('(func (export "_start") (call $proc_exit (i32.const 3)))')
TRAP: Final = program('(func (export "_start") unreachable)')
LOOP: Final = program('(func (export "_start") (loop (br 0)))')
# Grows by 10 MiB until refused, touching what it got, then traps.
BOMB: Final = program(
    '(func (export "_start") (local $old i32) (loop $more'
    " (local.set $old (memory.grow (i32.const 160)))"
    " (if (i32.ne (local.get $old) (i32.const -1)) (then"
    " (memory.fill (i32.mul (local.get $old) (i32.const 65536)) (i32.const 1) (i32.const 10485760)) (br $more))))"
    " unreachable)"
)
# Writes all arguments, then all environment variables, NUL separated, to stdout.
ECHO: Final = program(
    '(func (export "_start")'
    " (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))"
    " (drop (call $args_get (i32.const 1024) (i32.const 8192)))"
    " (call $write (i32.const 1) (i32.const 8192) (i32.load (i32.const 20)))"
    " (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))"
    " (drop (call $environ_get (i32.const 1024) (i32.const 8192)))"
    " (call $write (i32.const 1) (i32.const 8192) (i32.load (i32.const 20))))"
)
# Says "tick\n" and then loops for ever.
TICK_LOOP: Final = program(
    '(data (i32.const 64) "tick\\n")'
    '(func (export "_start") (call $write (i32.const 1) (i32.const 64) (i32.const 5)) (loop (br 0)))'
)
# Writes 4 KiB blocks for ever.
FLOOD: Final = program(
    '(func (export "_start") (memory.fill (i32.const 4096) (i32.const 120) (i32.const 4096))'
    " (loop (call $write (i32.const 1) (i32.const 4096) (i32.const 4096)) (br 0)))"
)
# Writes 2048 blocks of 4 KiB: 8 MiB.
EIGHT_MIB: Final = program(
    '(func (export "_start") (local $i i32) (memory.fill (i32.const 4096) (i32.const 120) (i32.const 4096))'
    " (local.set $i (i32.const 2048))"
    " (loop (call $write (i32.const 1) (i32.const 4096) (i32.const 4096))"
    " (br_if 0 (local.tee $i (i32.sub (local.get $i) (i32.const 1))))))"
)
UNKNOWN_IMPORT: Final = bytes(
    wasmtime.wat2wasm('(module (import "env" "teleport" (func)) (memory (export "memory") 1) (func (export "_start")))')
)
LIBRARY: Final = bytes(wasmtime.wat2wasm('(module (func (export "add")))'))
TOO_MUCH_MEMORY: Final = bytes(
    wasmtime.wat2wasm('(module (memory (export "memory") 8192) (func (export "_start")))')  # 512 MiB at once
)

# Looks at all that differs between two runs elsewhere: 8 bytes of each clock, 16 random bytes, a wait of 10 s, the
# listing of the work directory (twice: whole, and in pieces of 64 bytes), the stat of a file by path and descriptor.
NOSY: Final = bytes(
    wasmtime.wat2wasm(
        _HEAD.replace(
            "(memory ",
            """(import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fstat (param i32 i32) (result i32)))
  (memory """,
            1,
        )
        + """
  (data (i32.const 528) "\\01") ;; a subscription: the monotonic clock, 10^10 ns
  (data (i32.const 536) "\\00\\e4\\0b\\54\\02\\00\\00\\00")
  (data (i32.const 600) "input")
  (func $clocks (local $id i32)
    (loop $more
      (drop (call $clock (local.get $id) (i64.const 1) (i32.const 64)))
      (call $write (i32.const 1) (i32.const 64) (i32.const 8))
      (br_if $more (i32.lt_u (local.tee $id (i32.add (local.get $id) (i32.const 1))) (i32.const 2)))))
  (func (export "_start") (local $cookie i64)
    (call $clocks)
    (drop (call $random (i32.const 64) (i32.const 16)))
    (call $write (i32.const 1) (i32.const 64) (i32.const 16))
    (drop (call $poll_oneoff (i32.const 512) (i32.const 700) (i32.const 1) (i32.const 740)))
    (call $write (i32.const 1) (i32.const 700) (i32.const 44))
    (call $clocks)
    (drop (call $readdir (i32.const 3) (i32.const 8192) (i32.const 8192) (i64.const 0) (i32.const 64)))
    (call $write (i32.const 1) (i32.const 8192) (i32.load (i32.const 64)))
    (drop (call $readdir (i32.const 3) (i32.const 8192) (i32.const 64) (i64.const 1) (i32.const 64)))
    (call $write (i32.const 1) (i32.const 8192) (i32.load (i32.const 64)))
    (drop (call $stat (i32.const 3) (i32.const 0) (i32.const 600) (i32.const 5) (i32.const 768)))
    (call $write (i32.const 1) (i32.const 768) (i32.const 64))
    (drop (call $fstat (i32.const 3) (i32.const 768)))
    (call $write (i32.const 1) (i32.const 768) (i32.const 64))))
"""
    )
)
# 0/0 has another sign on ARM than on x86 when nobody makes it canonical.
NAN: Final = program(
    '(func (export "_start") (local $zero f64)'
    " (f64.store (i32.const 64) (f64.div (local.get $zero) (local.get $zero)))"
    " (call $write (i32.const 1) (i32.const 64) (i32.const 8)))"
)
