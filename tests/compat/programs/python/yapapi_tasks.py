"""The Task model: each task uploads its input, works, and downloads its result.

Usage: yapapi_tasks.py TASKS WORKERS [SLEEP_S [SCRIPT_TIMEOUT_S]]
Prints "task N done by PROVIDER" as tasks end, and at last one line of JSON.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

from yapapi import Golem, Task
from yapapi.payload import vm

providers: Counter = Counter()


async def worker(context, tasks):
    async for task in tasks:
        number = task.data
        source, result = Path(f"input-{number}.txt"), Path(f"result-{number}.txt")
        source.write_text(f"task {number}\n" * 100)
        script = context.new_script(timeout=timedelta(seconds=float(sys.argv[4]) if len(sys.argv) > 4 else 30))
        script.upload_file(str(source), "/golem/work/input.txt")
        script.upload_json({"number": number}, "/golem/work/number.json")
        pause = sys.argv[3] if len(sys.argv) > 3 else "0"
        work = "wc -l < input.txt > result.txt; cat number.json >> result.txt"
        script.run("/bin/sh", "-c", f"sleep {pause}; {work}")
        script.download_file("/golem/work/result.txt", str(result))
        echo = script.run("/bin/echo", str(number))
        print(f"task {number} starts on {context.provider_name}", flush=True)
        yield script
        if (await echo).stdout.strip() != str(number):
            task.reject_result("wrong echo")
            continue
        lines, made = result.read_text().split("\n", 1)
        assert (lines, json.loads(made)["number"]) == ("100", number), result.read_text()
        providers[context.provider_name] += 1
        task.accept_result(result=number)
        print(f"task {number} done by {context.provider_name}", flush=True)


async def main(count, workers):
    package = await vm.repo(image_tag="golem/alpine:latest", repository_url=os.environ["GOLEM_REGISTRY_URL"])
    done = []
    async with Golem(budget=1.0, subnet_tag="public") as golem:
        async for completed in golem.execute_tasks(
            worker,
            [Task(data=number) for number in range(count)],
            payload=package,
            max_workers=workers,
            timeout=timedelta(minutes=5),
        ):
            done.append(completed.result)
    print(json.dumps({"done": sorted(done), "providers": providers}))


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
