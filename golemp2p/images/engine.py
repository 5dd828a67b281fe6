"""Images out of a Docker engine. The only module of this package that knows the docker SDK."""

from __future__ import annotations

from pathlib import Path

import docker
import docker.errors
import requests

from golemp2p import limits
from golemp2p.errors import NetworkError
from golemp2p.images.model import ImageError

_TIMEOUT_S = 120  # between two pieces: a large image is prepared for a while


def save_image(name: str, target: Path) -> None:
    """``docker save`` of the image called ``name`` into ``target``; the engine is that of DOCKER_HOST. Blocking.

    Raises ImageError (no such image, too large), NetworkError (no engine).
    """
    try:
        client = docker.from_env(timeout=_TIMEOUT_S)
    except docker.errors.DockerException as exc:
        raise _no_engine(name, exc) from exc
    try:
        size = 0
        with target.open("wb") as out:
            for piece in client.api.get_image(name, chunk_size=limits.MIB):
                size += len(piece)
                if size > limits.MAX_IMAGE_BYTES:
                    raise ImageError(f"the image {name!r} is too large", hint=f"at most {limits.MAX_IMAGE_BYTES} bytes")
                out.write(piece)
    except (docker.errors.ImageNotFound, docker.errors.NotFound) as exc:
        raise ImageError(f"there is no file, directory or Docker image {name!r}", hint="docker images") from exc
    except docker.errors.APIError as exc:
        raise ImageError(f"the Docker engine refused to save {name!r}: {exc.explanation or exc}") from exc
    except (docker.errors.DockerException, requests.RequestException) as exc:
        raise _no_engine(name, exc) from exc
    finally:
        client.close()


def _no_engine(name: str, cause: Exception) -> NetworkError:
    return NetworkError(
        f"{name!r} is no file or directory, and no Docker engine answers that could know it as an image",
        hint=f"DOCKER_HOST names the engine ({str(cause)[:120]})",
    )
