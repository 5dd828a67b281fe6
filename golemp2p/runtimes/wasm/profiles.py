"""How a program is compiled: four profiles. Imported by the worker, so nothing but the standard library at the top.

``plain`` counts nothing and is the fastest; ``metered`` counts fuel; ``interruptible`` can also be stopped from another
thread (an epoch), so that what a program used until its last function call is known even when its time is up (the rest
is in a register then, and lost); ``deterministic`` is metered, and every result is the same on every machine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

MAGIC_MODULE = b"\0asm\x01\0\0\0"
MAGIC_COMPONENT = b"\0asm\x0d\0\x01\0"


class Profile(StrEnum):
    PLAIN = "plain"
    METERED = "metered"
    INTERRUPTIBLE = "interruptible"
    DETERMINISTIC = "deterministic"

    @property
    def metered(self) -> bool:
        return self is not Profile.PLAIN

    @property
    def config_id(self) -> str:
        """Names the settings below; a change of them needs a new number. Part of the cache key and of receipts."""
        return f"{self.value}-3"


def engine_config(profile: Profile) -> Any:
    """The configuration that compiling and running must share.

    Epochs only where they bring something: the check at every loop and call costs a fifth alone and 5 % beside fuel
    (CPython: 0.36 s plain, 0.44 with epochs, 0.52 with fuel, 0.55 with both), and the node ends a program that runs too
    long by killing its process, which works whatever the program does, host calls included.
    """
    import wasmtime

    config = wasmtime.Config()
    if profile.metered:
        config.consume_fuel = True
    if profile is Profile.INTERRUPTIBLE:
        config.epoch_interruption = True
    if profile is Profile.DETERMINISTIC:
        # The bits of a NaN and the freedoms of relaxed SIMD are all that differs between processors.
        config.cranelift_nan_canonicalization = True
        config.wasm_relaxed_simd_deterministic = True
        config.wasm_threads = False
    return config
