"""One task, as in yapapi's first example: prints what `date` says on a provider."""

import asyncio
import os

from yapapi import Golem, Task
from yapapi.payload import vm


async def worker(context, tasks):
    async for task in tasks:
        script = context.new_script()
        result = script.run("/bin/sh", "-c", "date")
        yield script
        task.accept_result(result=await result)


async def main():
    package = await vm.repo(image_tag="golem/alpine:latest", repository_url=os.environ["GOLEM_REGISTRY_URL"])
    async with Golem(budget=1.0, subnet_tag="public") as golem:
        async for completed in golem.execute_tasks(worker, [Task(data=None)], payload=package):
            print(f"result: {completed.result.stdout.strip()}", flush=True)


asyncio.run(main())
