"""The requestor's library: run many tasks on many providers. Works on trio and on asyncio.

    from golemp2p.sdk import Golem, wasm

    async def worker(ctx, tasks):
        async for task in tasks:
            script = ctx.new_script()
            script.upload_file(task.data, "in.svg")
            script.run("resvg", "in.svg", "out.png")
            picture = script.download_bytes("out.png")
            yield script                      # runs it; a failing command raises here
            task.accept(await picture)

    async with Golem(budget="1.0") as golem:
        payload = await wasm("resvg.wasm")
        async for result in golem.execute_tasks(worker, pictures, payload=payload):
            save(result.data, result.value)   # .value raises if the task failed for good; see .ok, .error
        await golem.settled()
        for row in golem.report():
            print(row.task, row.provider_name, row.seconds, row.price, row.transaction)

**Payloads** are made by ``wasm`` (a program), ``vm`` (a container or VM image: a file or a link) and ``custom`` (for a
third party's runtime). Scripts move files and whole directories; output comes live to ``on_output``.

**The worker** is an async generator. It takes tasks from ``tasks``, yields scripts, and answers every task with
``task.accept(value)`` or ``task.reject(reason)`` before it takes the next. It runs once per provider; one activity
(and its files) is used for all its tasks, so scripts should overwrite or name their files by task.

**Failures.** A command that fails raises CommandFailedError at ``yield``; not caught, it is a failed attempt at the
task, which is repeated (elsewhere if possible) up to ``max_attempts`` times. A provider that falls silent costs the
task nothing: it goes to another one. An exception that is no GolemError is taken for a bug in the worker: it ends the
job and comes out of the loop over the results.

**Money.** Bills are accepted when they fit the agreed price and the budget; the job is stopped before it costs more
than the budget.
"""

from golemp2p.sdk.errors import (
    BudgetError,
    CommandFailedError,
    NoOffersError,
    ProviderLostError,
    SetupFailedError,
    TaskRejectedError,
    TaskTimeoutError,
    WorkerBugError,
)
from golemp2p.sdk.golem import Golem, Results
from golemp2p.sdk.payload import Payload, custom, vm, wasm
from golemp2p.sdk.report import ReportRow
from golemp2p.sdk.script import CommandOutput, Handle, Script
from golemp2p.sdk.task import Task, TaskResult, WorkContext

__all__ = [
    "BudgetError",
    "CommandFailedError",
    "CommandOutput",
    "Golem",
    "Handle",
    "NoOffersError",
    "Payload",
    "ProviderLostError",
    "ReportRow",
    "Results",
    "Script",
    "SetupFailedError",
    "Task",
    "TaskRejectedError",
    "TaskResult",
    "TaskTimeoutError",
    "WorkContext",
    "WorkerBugError",
    "custom",
    "vm",
    "wasm",
]
