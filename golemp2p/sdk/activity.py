"""One activity at one provider: sends batches, follows their events, tells whose fault a failure is."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

import anyio

from golemp2p import limits
from golemp2p.client import NodeClient
from golemp2p.client.activity import BatchEvent
from golemp2p.errors import GolemError, InternalError, NetworkError, UsageError
from golemp2p.sdk.errors import CommandFailedError, ProviderLostError, SetupFailedError, TaskTimeoutError
from golemp2p.sdk.log import get_logger
from golemp2p.sdk.payload import Payload
from golemp2p.sdk.script import RunStep, Script, Step

log = get_logger()

_DEAD: Final = frozenset({"Unresponsive", "Terminated"})


class Activity:
    """Single-flight: one script at a time. ``broken`` means that it can only be destroyed (a command may still run)."""

    def __init__(self, client: NodeClient, activity_id: str, payload: Payload) -> None:
        self.id = activity_id
        self.broken = False
        self._client = client
        self._payload = payload
        self._ready = False

    @classmethod
    async def create(cls, client: NodeClient, agreement: str, payload: Payload) -> Activity:
        """Raises ProviderLostError."""
        try:
            created = await client.activity.create(agreement, timeout_s=limits.SDK_CREATE_TIMEOUT_S)
        except GolemError as exc:
            raise ProviderLostError(f"the provider did not create an activity: {exc.message}") from exc
        return cls(client, created, payload)

    async def destroy(self, timeout_s: float) -> None:
        """Never raises for a provider that does not answer; the node goes on asking it."""
        self.broken = True
        try:
            await self._client.activity.destroy(self.id, timeout_s=timeout_s)
        except GolemError as exc:
            log.info("activity_not_destroyed", activity=self.id, error=str(exc))

    async def execute(self, script: Script, *, timeout_s: float) -> None:
        """Deploys first if need be.

        Raises CommandFailedError, SetupFailedError, ProviderLostError, TaskTimeoutError.
        """
        with anyio.move_on_after(timeout_s) as scope:
            for steps in script.batches():
                if self.broken:
                    raise ProviderLostError(f"activity {self.id} can run no more commands")
                await self._run_batch(steps)
        if scope.cancelled_caught:
            self.broken = True
            raise TaskTimeoutError("the task was not finished in time", hint="allow more with task_timeout_s")

    async def _run_batch(self, steps: list[Step]) -> None:
        setup: list[dict[str, Any]] = (
            [] if self._ready else [{"deploy": {"env": dict(self._payload.env)}}, {"start": {}}]
        )
        try:
            commands = setup + [await step.prepare(self._client) for step in steps]
            finished = _Progress(len(setup), steps)
            try:
                batch = await self._client.activity.execute(self.id, commands)
                await self._follow(batch, finished, len(commands))
            except UsageError as exc:  # not found, gone, conflict: the activity is not what we think it is
                await self._blame(exc.message)
                raise
            if len(finished.done) > len(setup):
                self._ready = True
            await self._judge(finished)
            for step in steps:
                await step.collect(self._client)
        finally:
            with anyio.move_on_after(limits.SDK_CLOSE_TIMEOUT_S, shield=True):
                for step in steps:
                    try:
                        await step.close(self._client)
                    except GolemError as exc:
                        log.debug("slot_not_closed", error=str(exc))

    async def _follow(self, batch: str, progress: _Progress, commands: int) -> None:
        """The event stream, taken up again after cuts; the results by poll when it does not work at all."""
        failures = 0
        while not progress.over(commands):
            known = progress.last_number
            try:
                await self._stream(batch, progress)
            except NetworkError as exc:
                log.info("event_stream_cut", activity=self.id, error=str(exc))
            failures = 0 if progress.last_number > known else failures + 1
            if progress.over(commands):
                return
            if failures > limits.SDK_STREAM_RETRIES:
                await self._poll(batch, progress)
                return
            if failures:
                await anyio.sleep(limits.SDK_RETRY_S)

    async def _stream(self, batch: str, progress: _Progress) -> None:
        failure: Exception | None = None
        async with self._client.activity.events(
            self.id, batch, after=progress.last_number, silence_s=limits.EVENT_SILENCE_S
        ) as events:
            # A generator left half read would be cleaned up who knows when: what fails here cancels the reading.
            with anyio.CancelScope() as scope:
                async for event in events:
                    try:
                        await progress.take(event)
                    except Exception as exc:  # noqa: BLE001 - the user's on_output; raised below
                        failure = exc
                        scope.cancel()
        if failure is not None:
            self.broken = True
            raise failure

    async def _poll(self, batch: str, progress: _Progress) -> None:
        """Without live output; the streams come whole, as far as they were not heard already."""
        while True:
            results = await self._client.activity.results(self.id, batch, timeout_s=limits.DEFAULT_LONG_POLL_S)
            if results and results[-1]["isBatchFinished"]:
                break
        for result in results[len(progress.done) :]:
            await progress.take_result(result)

    async def _judge(self, progress: _Progress) -> None:
        """Raises what the failed command means."""
        index, code, message = progress.done[-1]
        if code == 0:
            return
        step = progress.step(index)
        if isinstance(step, RunStep) and code > 0:
            if not step.check:
                return
            output = step.output(code, message)
            raise CommandFailedError(
                message or f"{step.name} exited with code {code}",
                exit_code=code,
                stdout=output.stdout_bytes,
                stderr=output.stderr_bytes,
            )
        await self._blame(message)
        if step is None:
            self.broken = True
            raise SetupFailedError(f"the payload could not be {'deployed' if index == 0 else 'started'}: {message}")
        raise CommandFailedError(f"{step.name} failed: {message}")

    async def _blame(self, message: str) -> None:
        """Raises ProviderLostError when the activity is dead."""
        try:
            state = str((await self._client.activity.state(self.id))["state"][0])
        except UsageError:
            state = "Terminated"
        if state in _DEAD:
            self.broken = True
            raise ProviderLostError(f"the activity is {state}: {message}")


class _Progress:
    """What is known of a running batch. ``done``: (index, return code, message) of each finished command."""

    def __init__(self, offset: int, steps: list[Step]) -> None:
        self.last_number = -1
        self.done: list[tuple[int, int, str]] = []
        self._offset = offset
        self._steps = steps

    def step(self, index: int) -> Step | None:
        """None for the deploy and start that we put first."""
        return self._steps[index - self._offset] if index >= self._offset else None

    def over(self, commands: int) -> bool:
        return bool(self.done) and (len(self.done) == commands or self.done[-1][1] != 0)

    async def take(self, event: BatchEvent) -> None:
        self.last_number = event.number
        if event.kind in ("stdout", "stderr"):
            await self._hear(event.index, event.kind, event.value)
        elif event.kind == "finished":
            told = event.value
            code, message = int(told["return_code"]), str(told.get("message") or "")
            self._finish(event.index, code, message, told.get("receipt"))

    async def take_result(self, result: dict[str, Any]) -> None:
        step = self.step(result["index"])
        for stream in ("stdout", "stderr"):
            if isinstance(step, RunStep) and result.get(stream) is not None:
                data = _bytes(result[stream])
                await step.hear(stream, data[len(step.kept[stream]) :])
        message = str(result.get("message") or "")
        code = 0 if result["result"] == "Ok" else _exit_code(message)
        self._finish(result["index"], code, message, result.get("receipt"))

    def _finish(self, index: int, code: int, message: str, receipt: Mapping[str, Any] | None) -> None:
        self.done.append((index, code, message))
        step = self.step(index)
        if isinstance(step, RunStep) and (code == 0 or (code > 0 and not step.check)):
            step.handle.resolve(step.output(code, _explanation(message), receipt))

    async def _hear(self, index: int, stream: str, value: Any) -> None:
        step = self.step(index)
        if step is not None:
            await step.hear(stream, _bytes(value))


def _bytes(value: str) -> bytes:
    """RunStep asks for base64. Raises InternalError when our node answers with something else."""
    try:
        return b64decode(value, validate=True)
    except (TypeError, ValueError) as exc:
        raise InternalError(f"the node sent output that is not base64: {str(value)[:80]!r}") from exc


def _exit_code(message: str) -> int:
    """Poll results carry the code in the message only (protocols/activity.md)."""
    words = message.removeprefix("ExeScript command exited with code ").split(":")[0].split()
    return int(words[0]) if message.startswith("ExeScript") and words and words[0].isdecimal() else -1


def _explanation(message: str) -> str:
    """What follows "… exited with code N: "."""
    return message.partition(": ")[2]
