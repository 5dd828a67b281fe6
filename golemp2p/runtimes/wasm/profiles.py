"""How a program is compiled: three profiles. Imported by the worker, so nothing but the standard library at the top.

``plain`` counts nothing and is the fastest; ``metered`` counts fuel and can be interrupted from another thread (an
epoch), so that what a program used until its last function call is known even when its time is up (the rest is in a
register then, and lost); ``deterministic`` is metered, and every result is the same on every machine.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

MAGIC_MODULE = b"\0asm\x01\0\0\0"
MAGIC_COMPONENT = b"\0asm\x0d\0\x01\0"


class Profile(StrEnum):
    PLAIN = "plain"
    METERED = "metered"
    DETERMINISTIC = "deterministic"

    @property
    def metered(self) -> bool:
        return self is not Profile.PLAIN

    @property
    def config_id(self) -> str:
        """Names the settings below; a change of them needs a new number. Part of the cache key and of receipts."""
        return {"plain": "plain-2", "metered": "metered-2", "deterministic": "deterministic-1"}[self.value]


def engine_config(profile: Profile) -> Any:
    """The configuration that compiling and running must share.

    No epochs in ``plain``: a check at every loop costs a quarter (0.94 s for 0.74 s), and the node ends a program that
    runs too long by killing its process, which works whatever the program does, host calls included. With fuel they
    come almost for nothing (1.02 s for 1.01 s).
    """
    import wasmtime

    config = wasmtime.Config()
    if profile.metered:
        config.consume_fuel = True
        config.epoch_interruption = True
    if profile is Profile.DETERMINISTIC:
        # The bits of a NaN and the freedoms of relaxed SIMD are all that differs between processors.
        config.cranelift_nan_canonicalization = True
        config.wasm_relaxed_simd_deterministic = True
        config.wasm_threads = False
    return config
