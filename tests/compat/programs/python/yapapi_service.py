"""The Service model: two instances count up in the background; one is stopped and another spawned in its place.

Prints "running NAME", "stopped NAME", and for each instance "NAME counts from A to B on PROVIDER".
"""

import asyncio
import os

from yapapi import Golem
from yapapi.payload import vm
from yapapi.services import Service, ServiceState


class Counter(Service):
    def __init__(self, *args, title: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.title, self.counted = title, False

    @staticmethod
    async def get_payload():
        return await vm.repo(image_tag="golem/alpine:latest", repository_url=os.environ["GOLEM_REGISTRY_URL"])

    async def start(self):
        async for script in super().start():
            yield script
        script = self._ctx.new_script()
        script.run("/bin/sh", "-c", "i=0; while true; do i=$((i+1)); echo $i > /golem/work/count; sleep 0.2; done &")
        yield script

    async def count(self):
        script = self._ctx.new_script()
        result = script.run("/bin/sh", "-c", "sleep 0.5; cat /golem/work/count")
        return script, result

    async def run(self):
        first = None
        while True:
            script, result = await self.count()
            yield script
            now = int((await result).stdout)
            if first is not None and now > first:
                self.counted = True
                print(f"{self.title} counts from {first} to {now} on {self.provider_name}", flush=True)
            first = first or now

    async def shutdown(self):
        script = self._ctx.new_script()
        result = script.run("/bin/sh", "-c", "rm /golem/work/count; echo bye")
        yield script
        print(f"stopped {self.title}: {(await result).stdout.strip()}", flush=True)


async def until(condition, seconds=30):
    async def wait():
        while not condition():
            await asyncio.sleep(0.1)

    await asyncio.wait_for(wait(), seconds)


def counting(cluster, title):
    return any(i.title == title and i.state == ServiceState.running and i.counted for i in cluster.instances)


async def main():
    async with Golem(budget=1.0, subnet_tag="public") as golem:
        cluster = await golem.run_service(Counter, instance_params=[{"title": "one"}, {"title": "two"}])
        await until(lambda: counting(cluster, "one") and counting(cluster, "two"))
        print("running one two", flush=True)
        one = next(i for i in cluster.instances if i.title == "one")
        cluster.stop_instance(one)
        await until(lambda: one.state == ServiceState.terminated)
        cluster.spawn_instances(instance_params=[{"title": "three"}])
        await until(lambda: counting(cluster, "three"))
        print("running three", flush=True)
        cluster.stop()
        await until(lambda: all(i.state == ServiceState.terminated for i in cluster.instances))


asyncio.run(main())
