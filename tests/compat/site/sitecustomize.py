"""On the PYTHONPATH of unmodified Python examples: they ask the registry of our node instead of the public one.

yapapi and golem-core take the registry's address from no setting. Nothing but that address changes.
"""

import importlib.abc
import importlib.util
import os
import sys

URL = os.environ.get("GOLEM_REGISTRY_URL")


def _yapapi(module):
    module.repo.__kwdefaults__["repository_url"] = URL


def _golem_core(module):
    async def resolve(*_args, **_kwargs):
        return URL

    module.resolve_repository_url = resolve


PATCHES = {"yapapi.payload.vm": _yapapi, "golem.payload.vm": _golem_core}


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        patch = PATCHES.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_patch(module):
            load(module)
            patch(module)

        spec.loader.exec_module = load_and_patch
        return spec


if URL:
    sys.meta_path.insert(0, Finder())
