"""A program of a few words, behind a channel: what a client with a WebSocket is to the services."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import trio

from golemp2p.core.ids import PeerId
from golemp2p.errors import RemoteProtocolError
from golemp2p.gsb.channel import Channel
from golemp2p.gsb.files import PREFIX, ServedFiles
from golemp2p.gsb.services import Service, Services
from golemp2p.wire import gsb as wire

PEER, STRANGER = PeerId("provider"), PeerId("stranger")
READING, WRITING = ("GetMetadata", "GetChunk"), ("UploadChunk", "UploadFinished")
Answer = Callable[[str, dict[str, Any]], Any]


class Program:
    """Answers with what ``answer`` returns; a str that it raises as KeyError becomes the program's error."""

    def __init__(self, answer: Answer) -> None:
        self.channel = Channel()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._answer = answer

    async def run(self) -> None:
        async for frame in self.channel.frames:
            request = wire.decode(frame)
            component, payload = str(request["component"]), request["payload"]
            assert isinstance(payload, dict)
            self.asked.append((component, payload))
            try:
                answer: dict[str, Any] = {"id": request["id"], "payload": self._answer(component, payload)}
            except KeyError as exc:
                answer = {"id": request["id"], "error": {"ReadError": str(exc.args[0])}}
            except TimeoutError:
                continue  # it never answers
            self.channel.take(wire.answer_of(wire.decode(wire.encode(answer))))


def file_of(content: bytes) -> Answer:
    def answer(component: str, payload: dict[str, Any]) -> Any:
        if component == "GetMetadata":
            return {"fileSize": len(content)}
        offset, size = wire.whole_number(payload["offset"]), wire.whole_number(payload["size"])
        return {"content": content[offset : offset + size], "offset": offset}

    return answer


class Appender:
    """golem-js's way to receive: what comes is appended, whatever its offset."""

    def __init__(self) -> None:
        self.content, self.finished = b"", ""

    def __call__(self, component: str, payload: dict[str, Any]) -> None:
        if component == "UploadChunk":
            self.content += payload["chunk"]["content"]
        else:
            self.finished = payload["hash"]
            if hashlib.sha3_256(self.content).hexdigest() != self.finished:
                raise RemoteProtocolError("the program was told a wrong hash")


class World:
    """Services, files made of them, and programs that run in ``nursery``."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.services = Services()
        self.files = ServedFiles(self.services, lambda peer: peer == PEER)
        self._nursery = nursery

    def start(self, service: Service, answer: Answer) -> Program:
        program = Program(answer)
        service.attach(program.channel)
        self._nursery.start_soon(program.run)
        return program

    def serve(self, name: str, answer: Answer, *, shared: bool = False, anybody: bool = False) -> Program:
        components = WRITING if isinstance(answer, Appender) else READING
        service = self.services.bind(PREFIX + name, components, owner="key", shared=shared, anybody=anybody)
        return self.start(service, answer)

    async def read(self, name: str, offset: int = 0, peer: PeerId = PEER) -> bytes:
        found = bytearray()

        async def take(block: bytes) -> None:
            found.extend(block)

        await (await self.files.file(name, peer)).pour(offset, take)
        return bytes(found)
