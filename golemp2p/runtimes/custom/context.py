"""What a runtime of a third party is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RuntimeContext:
    """``settings`` is the section ``[runtime.NAME]`` of config.toml, unchecked.

    ``cache_dir`` is the runtime's own and may be deleted between runs of the node (make it when you need it);
    ``work_root`` holds the work directories of all activities of this node: what a killed node left belongs to them.
    """

    name: str
    settings: Mapping[str, Any] = field(repr=False)  # may hold secrets
    cache_dir: Path
    work_root: Path
