"""On the PYTHONPATH of a client's program: its own fixed waits, for scripts/bench/hello.py. Changes nothing else.

Appends "START END PLACE" (seconds since the epoch) to the file $WAITS_FILE for each asyncio.sleep of 50 ms and more.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

_sleep = asyncio.sleep


async def sleep(delay, result=None):
    if delay < 0.05:
        return await _sleep(delay, result)
    caller = sys._getframe(1)
    began = time.time()
    try:
        return await _sleep(delay, result)
    finally:
        with Path(os.environ["WAITS_FILE"]).open("a") as file:
            file.write(f"{began} {time.time()} {caller.f_code.co_filename}:{caller.f_lineno}\n")


if "WAITS_FILE" in os.environ:
    asyncio.sleep = sleep
