"""The host's end against agents that lie, flood, fall silent or die."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from golemp2p import limits
from golemp2p.errors import UsageError
from golemp2p.runtimes.base import RuntimeFailureError
from golemp2p.runtimes.guest import protocol
from golemp2p.runtimes.guest.protocol import Ask, Tell
from golemp2p.runtimes.guest.session import GuestSession, open_session

HELLO = protocol.MAGIC + protocol.u32(protocol.VERSION) + protocol.text("kernel=test")
FILE = protocol.u32(ord("f"), 0o644) + protocol.u64(5, 0)
DIRECTORY = protocol.u32(ord("d"), 0o755) + protocol.u64(0, 0)
LINK = protocol.u32(ord("l"), 0o777) + protocol.u64(0, 0)
EXITED = protocol.u32(0, 0) + protocol.u64(1000, 1000, 1000)


class Agent:
    """The guest's end of the stream, played by a test."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._data = b""

    async def tell(self, kind: int, channel: int, body: bytes = b"") -> None:
        await self.stream.send_all(protocol.HEADER.pack(len(body), kind, channel) + body)

    async def hear(self) -> tuple[int, int, bytes]:
        """(kind, id, body) of the next request."""
        while True:
            if len(self._data) >= protocol.HEADER.size:
                size, kind, channel = protocol.HEADER.unpack_from(self._data)
                end = protocol.HEADER.size + size
                if len(self._data) >= end:
                    body, self._data = self._data[protocol.HEADER.size : end], self._data[end:]
                    return kind, channel, body
            more = await self.stream.receive_some(65_536)
            if not more:
                raise trio.EndOfChannel
            self._data += bytes(more)

    async def greet(self) -> None:
        assert (await self.hear())[0] == Ask.HELLO
        await self.tell(Tell.HELLO, 0, HELLO)


Play = Callable[[Agent], Awaitable[None]]


@asynccontextmanager
async def against(play: Play) -> AsyncIterator[GuestSession]:
    """A session whose agent greets and then does ``play``."""
    ours, theirs = trio.testing.memory_stream_pair()
    agent = Agent(theirs)

    async def act() -> None:
        await agent.greet()
        try:
            await play(agent)
        except (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act)
        session = await open_session(ours, nursery)
        yield session
        await session.aclose()
        nursery.cancel_scope.cancel()


async def ignore(_stream: str, _data: bytes) -> None:
    return


async def wait_for_the_end(agent: Agent) -> None:
    while True:
        await agent.hear()


async def run(session: GuestSession) -> None:
    await session.run(["x"], env={}, output=ignore)


@pytest.mark.parametrize(
    ("first", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "frame of"),
        (protocol.HEADER.pack(4, Tell.OK, 0) + b"fine", "no guest agent"),
        (protocol.HEADER.pack(12, Tell.HELLO, 0) + protocol.MAGIC + protocol.u32(9), "version 9"),
        (protocol.HEADER.pack(3, Tell.HELLO, 0) + b"G2P", "too short"),
        (protocol.HEADER.pack(len(HELLO), Tell.HELLO, 0) + HELLO + bytes(9), "unknown kind 0"),
    ],
)
async def test_who_is_no_agent_is_refused(first: bytes, complaint: str) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(first)
    async with trio.open_nursery() as nursery:
        with pytest.raises(RuntimeFailureError, match=complaint):
            await open_session(ours, nursery)
        assert nursery.child_tasks == frozenset()
    assert await theirs.receive_some(1) is not None  # our greeting
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"x")


async def test_silence_has_a_deadline(autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        with pytest.raises(RuntimeFailureError, match="within 3 s"):
            await open_session(ours, nursery, hello_timeout_s=3)
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_eof()
    async with trio.open_nursery() as nursery:
        with pytest.raises(RuntimeFailureError, match="closed the stream"):
            await open_session(ours, nursery)


async def test_an_agent_that_dies_in_a_run_is_an_error_and_a_reason() -> None:
    async def die(agent: Agent) -> None:
        _, channel, _ = await agent.hear()
        await agent.tell(Tell.OK, channel)
        await agent.stream.aclose()

    async with against(die) as session:
        with pytest.raises(RuntimeFailureError, match="the guest is gone: the guest agent has ended"):
            await run(session)
        assert await session.lost() == "the guest agent has ended"
        with pytest.raises(RuntimeFailureError, match="gone"):
            await session.usage()
        with pytest.raises(RuntimeFailureError, match="gone"):
            await run(session)


@pytest.mark.parametrize(
    ("kind", "body", "complaint"),
    [
        (99, b"", "unknown kind 99"),
        (Tell.EXITED, b"\0", "too short"),
        (Tell.EXITED, protocol.u32(0, 1000) + protocol.u64(0, 0, 0), "exit code 1000"),
        (Tell.END, b"", "sent END in a run"),
        (Tell.DATA, b"x", "sent DATA in a run"),
        (Tell.CREDIT, b"", "too short"),
    ],
)
async def test_nonsense_in_a_run_ends_the_session(kind: int, body: bytes, complaint: str) -> None:
    async def lie(agent: Agent) -> None:
        _, channel, _ = await agent.hear()
        await agent.tell(Tell.OK, channel)
        await agent.tell(kind, channel, body)
        await wait_for_the_end(agent)

    async with against(lie) as session:
        with pytest.raises(RuntimeFailureError, match=complaint):
            await run(session)
        assert complaint in await session.lost()


async def test_frames_of_requests_that_nobody_made_end_the_session() -> None:
    async def lie(agent: Agent) -> None:
        await agent.tell(Tell.STDOUT, 77, b"x")
        await wait_for_the_end(agent)

    async with against(lie) as session:
        assert "request 77" in await session.lost()


async def test_an_agent_that_ignores_its_window_is_cut_off() -> None:
    """What we hold for it never exceeds the window, however slow the reader is."""

    async def flood(agent: Agent) -> None:
        _, channel, _ = await agent.hear()
        await agent.tell(Tell.OK, channel)
        for _ in range(2 * limits.GUEST_WINDOW_BYTES // protocol.COST_MIN_BYTES):
            await agent.tell(Tell.STDOUT, channel, b"x")  # each costs 512
        await wait_for_the_end(agent)

    async def stuck(_stream: str, _data: bytes) -> None:
        await session.lost()

    async with against(flood) as session:
        with pytest.raises(RuntimeFailureError, match="faster than it may"):
            await session.run(["x"], env={}, output=stuck)


async def test_an_agent_that_answers_without_end_is_cut_off() -> None:
    async def chatter(agent: Agent) -> None:
        _, channel, _ = await agent.hear()
        for _ in range(100):
            await agent.tell(Tell.OK, channel)
        await wait_for_the_end(agent)

    async def never(_stream: str, _data: bytes) -> None:
        raise AssertionError

    async with against(chatter) as session:
        with pytest.raises(RuntimeFailureError):
            await session.run(["x"], env={}, output=never)
        assert await session.lost()


async def test_a_kill_that_is_not_obeyed_gives_the_instance_up(autojump_clock: MockClock) -> None:
    heard: list[int] = []

    async def ignore_it(agent: Agent) -> None:
        while True:
            kind, channel, _ = await agent.hear()
            heard.append(kind)
            if kind == Ask.EXEC:
                await agent.tell(Tell.OK, channel)

    async with against(ignore_it) as session:
        began = trio.current_time()
        with trio.move_on_after(1):
            await run(session)
        assert trio.current_time() - began == pytest.approx(1 + limits.GUEST_KILL_S)
        assert "was not dead after" in await session.lost()
    assert Ask.KILL in heard


async def test_a_cancelled_run_returns_when_the_agent_says_that_all_are_dead(autojump_clock: MockClock) -> None:
    async def obey_slowly(agent: Agent) -> None:
        while True:
            kind, channel, body = await agent.hear()
            if kind == Ask.EXEC:
                await agent.tell(Tell.OK, channel)
            elif kind == Ask.KILL:
                assert body == protocol.u32(1)
                await trio.sleep(3)
                await agent.tell(Tell.STDOUT, channel, b"late")
                await agent.tell(Tell.EXITED, channel, EXITED)

    async with against(obey_slowly) as session:
        began = trio.current_time()
        with trio.move_on_after(1):
            await run(session)
        assert trio.current_time() - began == pytest.approx(4)
        with trio.move_on_after(1):
            await run(session)  # the session lives
        assert not session.is_lost


async def test_a_command_that_fails_to_start_while_it_is_cancelled_is_no_loss(autojump_clock: MockClock) -> None:
    async def refuse_late(agent: Agent) -> None:
        while True:
            kind, channel, _ = await agent.hear()
            if kind == Ask.KILL:
                await agent.tell(Tell.ERROR, channel, protocol.u32(errno.ENOENT) + protocol.text("no such program"))

    async with against(refuse_late) as session:
        with trio.move_on_after(1):
            await run(session)
        assert not session.is_lost


async def test_an_agent_that_reads_nothing_delays_nobody_for_ever(autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    agent = Agent(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.greet)
        session = await open_session(ours, nursery)
        with pytest.raises(RuntimeFailureError, match="did not answer"):
            await session.usage()
        began = trio.current_time()
        await session.aclose()
        assert trio.current_time() - began <= limits.GUEST_CLOSE_S
        nursery.cancel_scope.cancel()


async def test_requests_under_way_are_bounded() -> None:
    async with against(wait_for_the_end) as session:
        for _ in range(limits.GUEST_CHANNELS):
            session.open_channel(0)
        with pytest.raises(RuntimeFailureError, match="under way already"):
            session.open_channel(0)


# --- files ------------------------------------------------------------------------------------------------------------


def entry(facts: bytes, name: str, link: str = "") -> bytes:
    return facts + protocol.text(name) + protocol.text(link)


def lister(*entries: bytes, content: bytes = b"hello") -> Play:
    """An agent whose every directory holds ``entries`` and whose every file is ``content``."""

    async def play(agent: Agent) -> None:
        while True:
            kind, channel, _ = await agent.hear()
            if kind in (Ask.LIST, Ask.GET):
                await agent.tell(Tell.OK, channel, FILE)
                await agent.tell(Tell.DATA, channel, content if kind == Ask.GET else b"".join(entries))
                await agent.tell(Tell.END, channel)

    return play


async def test_a_guest_that_lies_about_names_never_writes_elsewhere(tmp_path: Path) -> None:
    """A link and then a directory of the same name would lead the directory's files to the link's target."""
    outside = tmp_path / "outside"
    outside.mkdir()
    async with against(lister(entry(LINK, "a", str(outside)), entry(FILE, "a"))) as session:
        files = session.files(["/v"], spool_dir=tmp_path)
        with pytest.raises(RuntimeFailureError, match="twice"):
            await files.get_tree("/v", tmp_path / "copy", max_bytes=1000, max_files=10)
    async with against(lister(entry(FILE, "../outside/x"))) as session:
        files = session.files(["/v"], spool_dir=tmp_path)
        with pytest.raises(RuntimeFailureError, match="file name"):
            await files.get_tree("/v", tmp_path / "copy2", max_bytes=1000, max_files=10)
        assert session.is_lost
    assert list(outside.iterdir()) == []


async def test_a_tree_without_end_is_cut_by_depth_count_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_ACTIVITY_DIR_DEPTH", 20)
    async with against(lister(entry(DIRECTORY, "d"))) as session:
        files = session.files(["/v"], spool_dir=tmp_path)
        with pytest.raises(UsageError, match="nested deeper than 20"):
            await files.get_tree("/v", tmp_path / "a", max_bytes=1000, max_files=1000)
        with pytest.raises(UsageError, match="more than 5 files"):
            await files.get_tree("/v", tmp_path / "b", max_bytes=1000, max_files=5)
    async with against(lister(entry(FILE, "f"), content=bytes(2000))) as session:
        files = session.files(["/v"], spool_dir=tmp_path)
        with pytest.raises(UsageError, match="grows beyond 1000"):
            await files.get_tree("/v", tmp_path / "c", max_bytes=1000, max_files=5)


async def test_a_transfer_in_which_nothing_moves_fails(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def stall(agent: Agent) -> None:
        while True:
            kind, channel, _ = await agent.hear()
            if kind == Ask.GET:
                await agent.tell(Tell.OK, channel, FILE)

    async with against(stall) as session:
        files = session.files(["/v"], spool_dir=tmp_path)
        with pytest.raises(RuntimeFailureError, match="moved nothing"):
            async with files.reading("/v/f", max_bytes=10):
                pass
        big = tmp_path / "big"
        big.write_bytes(bytes(protocol.INBOUND_CREDIT_BYTES + 1))
        with pytest.raises(RuntimeFailureError, match="moved nothing"):
            await files.put("/v/f", big)
    assert [path.name for path in await trio.Path(tmp_path).iterdir()] == ["big"]
