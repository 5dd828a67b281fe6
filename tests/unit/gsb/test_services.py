"""Names, their owners and their sockets: waiting for one, changing it, losing it."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from golemp2p import limits
from golemp2p.errors import DeadlineError, GoneError, NotFoundError, PolicyError, RemoteError, UsageError
from golemp2p.gsb.channel import ChannelClosedError
from golemp2p.gsb.services import Service
from tests.unit.gsb.program import READING, WRITING, World, file_of

NAME = "/public/gftp/a"


def never(_component: str, _payload: dict[str, Any]) -> Any:
    raise TimeoutError


def bind(world: World, name: str = NAME, *, shared: bool = False) -> Service:
    return world.services.bind(name, READING, owner="key", shared=shared)


async def test_an_id_is_the_name_in_base64_and_the_owners_alone(world: World) -> None:
    service = bind(world)
    assert service.services_id == "L3B1YmxpYy9nZnRwL2E"
    assert world.services.find(service.services_id, "key") is service
    with pytest.raises(NotFoundError):
        world.services.find(service.services_id, "another key")
    for wrong in ("", "!", "L3B1", "ä" * 10):
        with pytest.raises((NotFoundError, UsageError)):
            world.services.find(wrong, "key")


@pytest.mark.parametrize("name", ["", "/", "a", "/a b", "/a\n", "/" + "a" * limits.GSB_NAME_CHARS])
async def test_a_malformed_name_is_refused(world: World, name: str) -> None:
    with pytest.raises(UsageError, match="no service name"):
        bind(world, name)


async def test_a_name_is_taken_until_it_is_unbound(world: World) -> None:
    service = bind(world)
    for shared in (False, True):
        with pytest.raises(UsageError, match="bound already"):
            bind(world, shared=shared)
    world.services.unbind(service)
    world.services.unbind(service)
    first, second = bind(world, shared=True), bind(world, shared=True)
    assert world.services.serving(NAME) == [first, second]
    with pytest.raises(UsageError, match="bound already"):
        bind(world)
    with pytest.raises(NotFoundError):  # REST cannot take it from gftp
        world.services.find(first.services_id, "key")


async def test_another_app_key_cannot_share_a_name_that_is_written_to(world: World) -> None:
    read, write = ["GetMetadata", "GetChunk"], ["UploadChunk", "UploadFinished"]
    world.services.bind("/public/gftp/file", read, owner="one", shared=True)
    world.services.bind("/public/gftp/file", read, owner="two", shared=True)
    world.services.bind("/public/gftp/slot", write, owner="one", shared=True)
    world.services.bind("/public/gftp/slot", write, owner="one", shared=True)
    for components in (write, read):
        with pytest.raises(UsageError, match="bound already"):
            world.services.bind("/public/gftp/slot", components, owner="two", shared=True)
    with pytest.raises(UsageError, match="bound already"):
        world.services.bind("/public/gftp/file", write, owner="three", shared=True)


async def test_names_and_components_have_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GSB_MAX_SERVICES", 2)
    bind(world, "/1")
    bind(world, "/2")
    with pytest.raises(PolicyError, match="services already"):
        bind(world, "/3")
    with pytest.raises(UsageError, match="components"):
        world.services.bind("/4", ["c"] * 100, owner="key")


async def test_a_question_waits_for_the_programs_socket(world: World, autojump_clock: trio.testing.MockClock) -> None:
    service = bind(world)
    async with trio.open_nursery() as nursery:

        async def connect_late() -> None:
            await trio.sleep(limits.GSB_SOCKET_WAIT_S - 1)
            world.start(service, file_of(b"abc"))

        nursery.start_soon(connect_late)
        assert await service.call("GetMetadata", {}, repeatable=True) == {"fileSize": 3}


async def test_a_program_that_never_connects_or_never_answers_is_given_up(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    service, started = bind(world), trio.current_time()
    with pytest.raises(DeadlineError, match="no program connected"):
        await service.call("GetMetadata", {}, repeatable=True)
    assert trio.current_time() - started == pytest.approx(limits.GSB_SOCKET_WAIT_S)
    world.start(service, never)
    with pytest.raises(DeadlineError, match="did not answer GetMetadata"):
        await service.call("GetMetadata", {}, repeatable=True)


async def test_a_newer_socket_takes_over_the_questions_that_can_be_repeated(world: World) -> None:
    service = world.services.bind(NAME, (*READING, *WRITING), owner="key")
    old = world.start(service, never)
    failures: list[ChannelClosedError] = []
    answers: list[object] = []

    async def read() -> None:
        answers.append(await service.call("GetMetadata", {}, repeatable=True))

    async def write() -> None:
        try:
            await service.call("UploadChunk", {}, repeatable=False)
        except ChannelClosedError as exc:
            failures.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert len(old.asked) == 2
        new = world.start(service, file_of(b"abc"))
    assert answers == [{"fileSize": 3}]
    assert [exc.sent for exc in failures] == [True]
    assert [component for component, _ in new.asked] == ["GetMetadata"]
    assert old.channel.by_policy
    service.detach(old.channel)  # the old socket's end changes nothing any more
    assert service.channel is new.channel


async def test_deleting_a_service_ends_its_socket_and_its_questions(world: World) -> None:
    service = bind(world)
    program = world.start(service, never)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(GoneError, match="not served any more"):
                await service.call("GetMetadata", {}, repeatable=True)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        world.services.unbind(service)
    assert program.channel.closed_why
    with pytest.raises(GoneError):
        await service.call("GetMetadata", {}, repeatable=True)
    late = world.start(service, never)  # its socket was being opened when the service was deleted
    assert late.channel.closed_why


async def test_what_the_program_does_not_serve_is_not_asked(world: World) -> None:
    service = bind(world)
    program = world.start(service, file_of(b""))
    with pytest.raises(PolicyError, match="does not serve UploadChunk"):
        await service.call("UploadChunk", {}, repeatable=False)
    assert not program.asked


async def test_a_programs_error_is_its_text(world: World) -> None:
    service = bind(world)

    def fail(_component: str, _payload: dict[str, Any]) -> Any:
        raise KeyError("no such disk")

    world.start(service, fail)
    with pytest.raises(RemoteError, match="ReadError: no such disk"):
        await service.call("GetMetadata", {}, repeatable=True)


async def test_a_service_without_a_program_is_forgotten(world: World, autojump_clock: trio.testing.MockClock) -> None:
    idle, used = bind(world), bind(world, "/used")
    program = world.start(used, never)
    await trio.sleep(limits.GSB_ORPHAN_S + 1)
    assert bind(world) is not idle
    assert world.services.serving("/used") == [used]
    used.detach(program.channel)
    await trio.sleep(limits.GSB_ORPHAN_S - 1)
    bind(world, "/another")
    assert world.services.serving("/used") == [used]
    await trio.sleep(2)
    bind(world, "/one-more")
    assert not world.services.serving("/used")


async def test_questions_to_one_program_have_a_bound(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GSB_MAX_WAITING", 3)
    service = bind(world)
    world.start(service, never)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lambda: service.call("GetMetadata", {}, repeatable=True))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(PolicyError, match="unanswered"):
            await service.call("GetMetadata", {}, repeatable=True)
        nursery.cancel_scope.cancel()
