"""Small guest programs as component text: WASI preview 2 commands (world ``wasi:cli/command``), no toolchain needed."""

from __future__ import annotations

from typing import Final

import wasmtime

_TEXT: Final = r"""
(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer 1 $error-type (type $e))
    (type $own-e (own $e))
    (type $why (variant (case "last-operation-failed" $own-e) (case "closed")))
    (export "stream-error" (type $stream-error (eq $why)))
    (type $written (result (error $stream-error)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $stream)) (param "contents" (list u8)) (result $written)))))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $o))
    (export "output-stream" (type $os (eq $o)))
    (export "get-stdout" (func (result (own $os))))))
  (import "wasi:cli/stderr@0.2.0" (instance $stderr
    (alias outer 1 $output-stream (type $o))
    (export "output-stream" (type $os (eq $o)))
    (export "get-stderr" (func (result (own $os))))))
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))
    (export "get-arguments" (func (result (list string))))))
  IMPORTS
  (core module $libc
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 8192))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $c (instantiate $libc))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $get-stderr (canon lower (func $stderr "get-stderr")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $c "memory")) (realloc (core func $c "realloc"))))
  (core func $exit-with (canon lower (func $exit "exit")))
  (core func $arguments (canon lower (func $environment "get-arguments")
    (memory (core memory $c "memory")) (realloc (core func $c "realloc"))))
  (core func $environ (canon lower (func $environment "get-environment")
    (memory (core memory $c "memory")) (realloc (core func $c "realloc"))))
  (core module $main
    (import "host" "stdout" (func $get-stdout (result i32)))
    (import "host" "stderr" (func $get-stderr (result i32)))
    (import "host" "write" (func $write-to (param i32 i32 i32 i32)))
    (import "host" "exit" (func $exit (param i32)))
    (import "host" "arguments" (func $arguments (param i32)))
    (import "host" "environ" (func $environ (param i32)))
    (import "libc" "memory" (memory 1))
    (data (i32.const 64) "hello\n") (data (i32.const 80) "oops\n") (data (i32.const 90) "tick\n")
    (data (i32.const 100) "=\00")
    (global $out (mut i32) (i32.const 0))
    (func $write (param $at i32) (param $size i32)
      (call $write-to (global.get $out) (local.get $at) (local.get $size) (i32.const 128)))
    (func $write-string (param $at i32)
      (call $write (i32.load (local.get $at)) (i32.load offset=4 (local.get $at))))
    (func (export "run") (result i32) (local $i i32) (local $end i32) (local $old i32)
      (global.set $out (call $get-stdout))
      BODY))
  (core instance $i (instantiate $main
    (with "host" (instance
      (export "stdout" (func $get-stdout)) (export "stderr" (func $get-stderr)) (export "write" (func $write))
      (export "exit" (func $exit-with)) (export "arguments" (func $arguments)) (export "environ" (func $environ))))
    (with "libc" (instance $c))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $command (export "run" (func $run)))
  (export "EXPORT" (instance $command)))
"""


def component(body: str, *, imports: str = "", export: str = "wasi:cli/run@0.2.0") -> bytes:
    """``body`` is the function ``run``: it leaves 0 (ok) or 1 (error) on the stack."""
    return bytes(wasmtime.wat2wasm(_TEXT.replace("BODY", body).replace("IMPORTS", imports).replace("EXPORT", export)))


HELLO: Final = component(
    "(call $write (i32.const 64) (i32.const 6))"
    " (call $write-to (call $get-stderr) (i32.const 80) (i32.const 5) (i32.const 128)) (i32.const 0)"
)
FAIL: Final = component("(i32.const 1)")
EXIT: Final = component("(call $exit (i32.const 1)) (i32.const 0)")
TRAP: Final = component("unreachable")
LOOP: Final = component("(loop (br 0)) (i32.const 0)")
TICK_LOOP: Final = component("(call $write (i32.const 90) (i32.const 5)) (loop (br 0)) (i32.const 0)")
FLOOD: Final = component("(loop (call $write (i32.const 4096) (i32.const 4096)) (br 0)) (i32.const 0)")
EIGHT_MIB: Final = component(
    "(local.set $i (i32.const 2048)) (loop (call $write (i32.const 4096) (i32.const 4096))"
    " (br_if 0 (local.tee $i (i32.sub (local.get $i) (i32.const 1))))) (i32.const 0)"
)
BOMB: Final = component(
    "(loop $more (local.set $old (memory.grow (i32.const 160)))"
    " (if (i32.ne (local.get $old) (i32.const -1)) (then"
    " (memory.fill (i32.mul (local.get $old) (i32.const 65536)) (i32.const 1) (i32.const 10485760)) (br $more))))"
    " unreachable"
)
# Arguments, then NAME=VALUE of the environment, NUL after each.
ECHO: Final = component(
    "(call $arguments (i32.const 32)) (local.set $i (i32.load (i32.const 32)))"
    " (local.set $end (i32.add (local.get $i) (i32.mul (i32.load (i32.const 36)) (i32.const 8))))"
    " (block $done (loop $next (br_if $done (i32.ge_u (local.get $i) (local.get $end)))"
    " (call $write-string (local.get $i)) (call $write (i32.const 101) (i32.const 1))"
    " (local.set $i (i32.add (local.get $i) (i32.const 8))) (br $next)))"
    " (call $environ (i32.const 32)) (local.set $i (i32.load (i32.const 32)))"
    " (local.set $end (i32.add (local.get $i) (i32.mul (i32.load (i32.const 36)) (i32.const 16))))"
    " (block $done (loop $next (br_if $done (i32.ge_u (local.get $i) (local.get $end)))"
    " (call $write-string (local.get $i)) (call $write (i32.const 100) (i32.const 1))"
    " (call $write-string (i32.add (local.get $i) (i32.const 8))) (call $write (i32.const 101) (i32.const 1))"
    " (local.set $i (i32.add (local.get $i) (i32.const 16))) (br $next))) (i32.const 0)"
)
UNKNOWN_IMPORT: Final = component(
    "(i32.const 0)", imports='(import "acme:teleport/beam@1.0.0" (instance (export "up" (func))))'
)
HTTP_IMPORT: Final = component("(i32.const 0)", imports='(import "wasi:http/types@0.2.0" (instance))')
LIBRARY: Final = component("(i32.const 0)", export="acme:adder/add@1.0.0")
