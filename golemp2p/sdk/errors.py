"""What goes wrong for a requestor, beyond golemp2p.errors."""

from __future__ import annotations

from golemp2p.errors import DeadlineError, GolemError, NetworkError, PolicyError, UsageError


class NoOffersError(GolemError):
    """No provider could be hired; the message says which clauses or refusals were in the way."""

    code = "no_offers"


class BudgetError(PolicyError):
    """The budget does not cover the job (any more)."""

    code = "budget"


class ProviderLostError(NetworkError):
    """The provider or its activity is gone. The SDK repeats the task elsewhere; workers need not handle it."""

    code = "provider_lost"


class SetupFailedError(GolemError):
    """The payload could not be deployed or started at a provider."""

    code = "setup_failed"


class CommandFailedError(GolemError):
    """A command of a script failed. ``exit_code`` and the outputs are those of a ``run``; else None and empty."""

    code = "command_failed"

    def __init__(
        self, message: str, *, exit_code: int | None = None, stdout: bytes = b"", stderr: bytes = b"", hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class TaskRejectedError(GolemError):
    """The worker rejected what the provider had made of a task."""

    code = "task_rejected"


class TaskTimeoutError(DeadlineError):
    """A task was not finished within ``task_timeout_s``."""

    code = "task_timeout"


class WorkerBugError(UsageError):
    """The worker function does not keep to its contract (see :mod:`golemp2p.sdk`)."""

    code = "worker_bug"
