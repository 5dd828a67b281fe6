"""Layers put on top of each other, as a tree in memory whose data stay where they are.

Whiteouts (``.wh.NAME``, ``.wh..wh..opq``) take away what lower layers have. A layer may write through a directory
link of a lower layer (``bin -> usr/bin``); such links are followed inside the tree and never lead out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from golemp2p import limits
from golemp2p.images.model import ImageError
from golemp2p.images.tarstream import EntryKind, TarEntry, path_parts

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_MAX_LINKS: Final = 40  # as the kernel
_MAX_STEPS: Final = 20 * limits.MAX_IMAGE_FILES  # an entry lies about five directories deep


@dataclass(slots=True, eq=False)
class Item:
    """A file of the tree; a hard linked one is in it under several names. ``source`` is the layer's number."""

    entry: TarEntry
    source: int
    children: dict[str, Item] = field(default_factory=dict)
    cleared_by: int = -1  # the last layer that took away what was below; once is enough


class RootFs:
    """Raises ImageError for what leads out, is too much, or cannot be."""

    def __init__(self) -> None:
        self.root = Item(TarEntry("", EntryKind.DIR, mode=0o755), 0)
        self._files = 0
        self._bytes = 0
        self._steps = 0  # directories looked into

    def add_layer(self, entries: Iterable[TarEntry], source: int) -> None:
        for entry in entries:
            parts = path_parts(entry.name)
            if not parts:
                if entry.kind is EntryKind.DIR:
                    self.root.entry, self.root.source = entry, source
                continue
            parent = self._directory(parts[:-1], source)
            name = parts[-1]
            if name == _OPAQUE:
                self._keep_only(parent, source)
            elif name.startswith(_WHITEOUT):
                hidden = parent.children.get(name.removeprefix(_WHITEOUT))
                if hidden is not None and not self._keep_only(hidden, source):
                    del parent.children[name.removeprefix(_WHITEOUT)]
            else:
                self._put(parent, name, entry, source)

    def _count(self) -> None:
        self._files += 1
        if self._files > limits.MAX_IMAGE_FILES:
            raise ImageError("the image holds too many files", hint=f"at most {limits.MAX_IMAGE_FILES}")

    def _put(self, parent: Item, name: str, entry: TarEntry, source: int) -> None:
        self._count()
        self._bytes += entry.size_bytes
        if self._bytes > limits.MAX_IMAGE_BYTES:
            raise ImageError("the image's files are too large together", hint=f"at most {limits.MAX_IMAGE_BYTES} bytes")
        there = parent.children.get(name)
        if entry.kind is EntryKind.HARDLINK:
            target = self._find(path_parts(entry.link))
            if target is None or target.entry.kind is EntryKind.DIR:
                raise ImageError(f"{entry.name[:200]!r} in the image is a hard link to what is not there")
            parent.children[name] = target
        elif there is not None and there.entry.kind is EntryKind.DIR and entry.kind is EntryKind.DIR:
            there.entry, there.source = entry, source
        else:
            parent.children[name] = Item(entry, source)

    def _keep_only(self, item: Item, source: int) -> bool:
        """Take away what is of lower layers than ``source``; whether anything is left."""
        if item.cleared_by == source:
            return bool(item.children) or item.source >= source
        item.cleared_by = source
        todo = [item]
        order = []
        while todo:
            at = todo.pop()
            order.append(at)
            todo.extend(child for child in at.children.values() if child.children)
        for at in reversed(order):
            at.children = {
                name: child for name, child in at.children.items() if child.children or child.source >= source
            }
        return bool(item.children) or item.source >= source

    def _directory(self, parts: tuple[str, ...], source: int) -> Item:
        """The directory, made when it is missing; links on the way are followed."""
        at, found, links = [self.root], list(reversed(parts)), 0
        while found:
            name = found.pop()
            self._steps += 1
            if self._steps > _MAX_STEPS:
                raise ImageError("the image's paths lead over too many links")
            if name == "..":  # of a link's target
                at = at[:-1] or at
                continue
            child = at[-1].children.get(name)
            if child is not None and child.entry.kind is EntryKind.SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    raise ImageError(f"too many links on the way to {'/'.join(parts)[:200]!r} in the image")
                target = child.entry.link
                if target.startswith("/"):
                    at = at[:1]
                found.extend(reversed([part for part in target.split("/") if part not in ("", ".")]))
                continue
            if child is None or child.entry.kind is not EntryKind.DIR:
                child = Item(TarEntry("", EntryKind.DIR, mode=0o755), source)
                at[-1].children[name] = child
                self._count()
            if len(at) > limits.MAX_IMAGE_DEPTH:
                raise ImageError("the image nests directories too deeply", hint=f"at most {limits.MAX_IMAGE_DEPTH}")
            at.append(child)
        return at[-1]

    def _find(self, parts: tuple[str, ...]) -> Item | None:
        """What a hard link names; links on the way are not followed, no writer makes such."""
        at: Item | None = self.root
        for part in parts:
            at = at.children.get(part) if at is not None else None
        return at

    def walk(self) -> Iterator[tuple[str, Item]]:
        """Every path with its item, sorted, parents first; the root's path is empty."""
        stack = [("", self.root)]
        while stack:
            path, item = stack.pop()
            yield path, item
            if item.entry.kind is EntryKind.DIR:
                prefix = f"{path}/" if path else ""
                stack.extend((prefix + name, item.children[name]) for name in sorted(item.children, reverse=True))
