"""Runtimes of third parties: a Python package's entry point, or an executable with Golem's runtime CLI.

Documented for their authors in protocols/runtimes.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from golemp2p.errors import GolemError, UsageError
from golemp2p.runtimes.base import Runtime
from golemp2p.runtimes.custom.context import RuntimeContext
from golemp2p.runtimes.custom.guard import GuardedRuntime

GROUP: Final = "golemp2p.runtimes"


def installed() -> tuple[str, ...]:
    """Names of the runtimes that installed Python packages bring."""
    return tuple(sorted({entry.name for entry in metadata.entry_points(group=GROUP)}))


def load_custom(name: str, settings: Mapping[str, Any], cache_dir: Path, work_root: Path) -> Runtime:
    """The runtime ``name``: an executable when the settings have ``command``, else the entry point of that name.

    Nothing is started. Raises UsageError saying what is missing or what the package did wrong.
    """
    context = RuntimeContext(name, dict(settings), cache_dir / "runtimes" / name, work_root)
    if "command" in settings:
        from golemp2p.runtimes.custom.executable import ExecutableRuntime

        return GuardedRuntime(ExecutableRuntime.from_context(context), f"the command of runtime {name!r}")
    entry = next((entry for entry in metadata.entry_points(group=GROUP) if entry.name == name), None)
    if entry is None:
        raise UsageError(
            f"there is no runtime {name!r}",
            hint="built in are wasmtime, vm, vm/docker and vm/qemu; install a package that brings it "
            f"(there are: {', '.join(installed()) or 'none'}), "
            f'or set [runtime.{name}] command = ["/path/to/it"]',
        )
    source = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
    try:
        made = entry.load()(context)
    except GolemError:
        raise
    except (Exception, SystemExit) as exc:
        raise UsageError(f"runtime {name!r} of {source} cannot be made: {type(exc).__name__}: {exc}") from exc
    return GuardedRuntime(made, source)


__all__ = ["GROUP", "RuntimeContext", "installed", "load_custom"]
