"""`golemp2p image`: build images, keep them by name, hand them to the node."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from golemp2p.cli.common import (
    ApiUrl,
    AppKeyOption,
    AsJson,
    DataDir,
    echo,
    echo_json,
    facts,
    locations_of,
    say,
    table,
    with_client,
)
from golemp2p.errors import UsageError

if TYPE_CHECKING:
    from golemp2p.images.store import ImageStore, StoredImage

GVMI_HASH: Final = "sha3-224"  # Golem's clients name images by it; ours by sha3-256
app = typer.Typer(help="Images for the vm runtime: build, list, hand to the node.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="Name[:tag], the hash or its first 8 digits, or a file.")]


def _store() -> ImageStore:
    from golemp2p.images.store import ImageStore

    return ImageStore(locations_of(None).images)


@app.command(
    epilog="Examples: golemp2p image build ./rootfs -t my-tool --cmd '/bin/sh'; golemp2p image build alpine:3.20 "
    "-t alpine; golemp2p image build app.gvmi. Exit codes: 1 no image or a damaged one, 4 no Docker engine answers."
)
def build(
    source: Annotated[
        str, typer.Argument(help="A root file system's directory, an OCI layout, a .tar, a .gvmi, or a Docker image.")
    ],
    tag: Annotated[str | None, typer.Option("--tag", "-t", help="Name[:tag] of the image.")] = None,
    entrypoint: Annotated[
        str | None, typer.Option(help="What every command is handed to, quoted as in a shell.")
    ] = None,
    cmd: Annotated[str | None, typer.Option(help="The command when none is given, quoted as in a shell.")] = None,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE; repeatable.")] = None,
    workdir: Annotated[str | None, typer.Option(help="Directory that commands start in.")] = None,
    user: Annotated[str | None, typer.Option(help="User that commands run as: name or uid[:gid].")] = None,
    as_json: AsJson = False,
) -> None:
    """Build an image and print its hash."""
    from golemp2p.images.build import BuildOptions, build_image
    from golemp2p.images.store import full_name

    if tag is not None:
        full_name(tag)  # a wrong one is said before the work
    if workdir is not None and not workdir.startswith("/"):
        raise UsageError(f"the directory {workdir!r} is not absolute", hint="like /work")
    options = BuildOptions(
        None if entrypoint is None else _words(entrypoint),
        None if cmd is None else _words(cmd),
        tuple(_pair(item) for item in env or ()),
        workdir,
        user,
    )
    store = _store()
    part = store.new_file()
    try:
        build_image(source, part, options, warn=say)
        image = store.add(part, tag)
    finally:
        part.unlink(missing_ok=True)
    if as_json:
        echo_json(_shown(image))
    else:
        echo(image.sha3_256)
        say(f"{image.kind}, {_size(image.size_bytes)}{', ' + ', '.join(image.names) if image.names else ''}")


@app.command("ls", epilog="Example: golemp2p image ls --json")
def list_images(as_json: AsJson = False) -> None:
    """Images that were built here."""
    images = _store().list()
    if as_json:
        echo_json([_shown(image) for image in images])
        return
    rows = [
        (
            ", ".join(image.names) or "-",
            image.sha3_256[:16],
            image.kind,
            _size(image.size_bytes),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(image.created_s)),
        )
        for image in images
    ]
    table(("name", "sha3-256", "kind", "size", "made"), rows)


@app.command(epilog="Example: golemp2p image inspect my-tool. Exit codes: 1 no image, 3 not there.")
def inspect(reference: Reference, as_json: AsJson = False) -> None:
    """What an image holds and how it is meant to be started. Reads it anew, so a damaged file is noticed."""
    import hashlib

    from golemp2p.images.inspecting import inspect_image

    store = _store()
    path = store.resolve(reference)
    info = inspect_image(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha3_256").hexdigest()
    known = store.find(digest)
    if as_json:
        names = known.names if known is not None else ()
        echo_json({"sha3_256": digest, "names": names, "file": str(path), **asdict(info)})
        return
    config = info.config
    facts(
        [
            ("sha3-256", digest),
            ("names", ", ".join(known.names) if known is not None else ""),
            ("file", path),
            ("kind", info.kind.value),
            ("size", _size(info.size_bytes)),
            ("layers", len(info.layers)),
            ("platform", f"{config.os}/{config.architecture}"),
            ("entrypoint", shlex.join(config.entrypoint)),
            ("cmd", shlex.join(config.cmd)),
            ("workdir", config.workdir),
            ("user", config.user),
            ("volumes", ", ".join(config.volumes)),
            ("env", " ".join(f"{name}={value}" for name, value in config.env)),
        ]
    )


@app.command(epilog="Example: golemp2p image push my-tool. Exit codes: 1 no image, 3 not there, 4 no node.")
def push(
    reference: Reference,
    data_dir: DataDir = None,
    api_url: ApiUrl = None,
    app_key: AppKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Give an image to the node, which announces it; print the task_package link that demands name it by."""
    from golemp2p.images.inspecting import inspect_image

    path = _store().resolve(reference)
    inspect_image(path)  # what no provider could run is not pushed
    stored = with_client(data_dir, api_url, app_key, lambda client: client.files.publish(path, also=(GVMI_HASH,)))
    link = f"hash:sha3:{stored.sha3_256}:{stored.url}"
    if as_json:
        echo_json({"task_package": link, "sha3_256": stored.sha3_256, "url": stored.url, "size_bytes": stored.size})
    else:
        echo(link)


@app.command(epilog="Example: golemp2p image rm my-tool:old. Exit code 3: not there.")
def rm(reference: Reference, as_json: AsJson = False) -> None:
    """Forget a name; the image goes with its last one, or at once when it is given by hash."""
    left = _store().remove(reference)
    if as_json:
        echo_json({"sha3_256": left.sha3_256, "names": left.names, "removed": not left.names})
    else:
        say(f"{left.sha3_256[:16]} {'keeps the names ' + ', '.join(left.names) if left.names else 'is removed'}")


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as exc:
        raise UsageError(f"{text!r} is not a command: {exc}", hint="quote it as in a shell") from exc


def _pair(item: str) -> tuple[str, str]:
    name, sign, value = item.partition("=")
    if not name or not sign:
        raise UsageError(f"--env {item!r} is not NAME=VALUE")
    return name, value


def _shown(image: StoredImage) -> dict[str, Any]:
    return {**asdict(image), "file": str(Path(_store().path_of(image)))}


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes} B"
