import pytest
import trio

from golemp2p.sim.clock import VirtualClock
from golemp2p.sim.determinism import deterministic
from golemp2p.sim.disk import Disk, Disks, SimStorage
from golemp2p.sim.model import Deliveries, Links, Wires
from golemp2p.storage.engine import StorageError


def test_a_year_passes_while_nobody_waits_for_it() -> None:
    async def wait() -> float:
        await trio.sleep(365 * 24 * 3_600)
        return trio.current_time()

    assert trio.run(wait, clock=VirtualClock()) == 365 * 24 * 3_600


def test_deliveries_come_in_the_order_of_their_times_and_then_of_their_sending() -> None:
    heard: list[tuple[str, int]] = []

    def hear(what: str, _: object) -> None:
        heard.append((what, round(trio.current_time() * 1000)))

    async def run() -> None:
        deliveries = Deliveries()
        async with trio.open_nursery() as nursery:
            for tick, what in ((30, "late"), (10, "first"), (10, "second"), (20, "between")):
                deliveries.at(tick, hear, what, None)
            nursery.start_soon(deliveries.run)
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=VirtualClock())
    assert heard == [("first", 10), ("second", 10), ("between", 20), ("late", 30)]


def test_latency_is_between_the_bounds_and_the_same_both_ways() -> None:
    wires = Wires(Links(latency_s=(0.01, 0.1)), seed=3)
    for _ in range(50):
        wires.add_place()
    ways = [(wires.base_s(a, b), wires.base_s(b, a)) for a in range(50) for b in range(50)]
    assert all(there == back and 0.01 <= there <= 0.1 for there, back in ways)


def test_large_messages_wait_for_the_way_out() -> None:
    wires = Wires(Links(jitter=0.0, bandwidth_bytes_per_s=1_000.0), seed=1)
    wires.add_place()
    assert wires.delay_s(0.05, 0, 500, 0.0) == 0.55
    assert wires.delay_s(0.05, 0, 500, 0.0) == 1.05


async def test_a_disk_at_rest_has_what_was_written_and_a_crashed_machine_writes_no_more() -> None:
    disks = Disks()
    disk = Disk(disks)
    storage = SimStorage(disk)
    await storage.run(lambda c: c.exec_driver_sql("CREATE TABLE kept (x INTEGER)"))
    await storage.run(lambda c: c.exec_driver_sql("INSERT INTO kept VALUES (7)"))
    disk.park()
    assert await storage.run(lambda c: c.exec_driver_sql("SELECT x FROM kept").scalar()) == 7
    storage.crashed = True
    with pytest.raises(StorageError):
        await storage.run(lambda c: c.exec_driver_sql("INSERT INTO kept VALUES (8)"))
    assert disk.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM kept").scalar()) == 1
    disks.close()


async def test_a_failed_job_leaves_nothing_behind() -> None:
    disks = Disks()
    disk = Disk(disks)
    disk.run(lambda c: c.exec_driver_sql("CREATE TABLE kept (x INTEGER)"))

    def fail(connection: object) -> None:
        connection.exec_driver_sql("INSERT INTO kept VALUES (1)")  # type: ignore[attr-defined] # an sqlalchemy one
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        disk.run(fail)
    assert disk.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM kept").scalar()) == 0
    disks.close()


def test_ids_and_choices_repeat_with_the_seed_and_are_chance_again_afterwards() -> None:
    import random
    import secrets
    import uuid

    def draw(seed: int) -> tuple[str, str, float]:
        with deterministic(seed):
            return secrets.token_hex(8), str(uuid.uuid4()), random.random()

    assert draw(1) == draw(1) != draw(2)
    assert secrets.token_hex(8) != secrets.token_hex(8)
