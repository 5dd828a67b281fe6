"""Images of containers and virtual machines: one file is one image, named by the hash of its content.

Read without trusting them (docker save archives, OCI layouts, gvmi, squashfs), turned into what an engine loads by a
child process with limits (``convert_image``, ``ImageCache``), built and kept by name for their owner.
"""

from golemp2p.images.cache import ImageCache, image_tag
from golemp2p.images.inspecting import inspect_image
from golemp2p.images.launch import convert_image
from golemp2p.images.model import ImageConfig, ImageError, ImageInfo, ImageKind, Layer

__all__ = [
    "ImageCache",
    "ImageConfig",
    "ImageError",
    "ImageInfo",
    "ImageKind",
    "Layer",
    "convert_image",
    "image_tag",
    "inspect_image",
]
