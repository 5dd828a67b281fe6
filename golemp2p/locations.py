"""Every path that golemp2p uses. Nothing else in the package builds one.

``data`` is private to one node (mode 0700); ``cache`` is shared by the nodes of one user and may be deleted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

DATA_ENV = "GOLEMP2P_DATA_DIR"
CACHE_ENV = "GOLEMP2P_CACHE_DIR"


@dataclass(frozen=True)
class Locations:
    data: Path
    cache: Path

    @classmethod
    def find(cls, data: Path | None = None) -> Locations:
        """Flag > environment > the platform's place for application data."""
        env = os.environ.get(DATA_ENV)
        cache_env = os.environ.get(CACHE_ENV)
        return cls(
            (data or (Path(env) if env else platformdirs.user_data_path("golemp2p"))).expanduser().absolute(),
            (Path(cache_env) if cache_env else platformdirs.user_cache_path("golemp2p")).expanduser().absolute(),
        )

    @property
    def config(self) -> Path:
        return self.data / "config.toml"

    @property
    def keystore(self) -> Path:
        return self.data / "key.json"

    @property
    def password(self) -> Path:
        """Only there when the owner chose that the node unlocks itself."""
        return self.data / "password"

    @property
    def database(self) -> Path:
        return self.data / "node.sqlite"

    @property
    def content(self) -> Path:
        """Files by content hash."""
        return self.data / "content"

    @property
    def work(self) -> Path:
        """Work directories of activities."""
        return self.data / "work"

    @property
    def networks(self) -> Path:
        """Profiles of the networks that were joined; the keys of private ones are in them."""
        return self.data / "networks"

    @property
    def active_network(self) -> Path:
        """The name of the one that the node runs on."""
        return self.data / "network"

    @property
    def peers(self) -> Path:
        """Addresses of peers that were good, for the next start."""
        return self.data / "peers.json"

    @property
    def lock(self) -> Path:
        """Held by the running node."""
        return self.data / "lock"

    @property
    def running(self) -> Path:
        """What the running node says of itself (REST URL, PeerId, ...), for the commands on this machine."""
        return self.data / "running.json"

    @property
    def app_key(self) -> Path:
        """The app-key that the commands on this machine use."""
        return self.data / "app-key"

    @property
    def modules(self) -> Path:
        """Compiled WASM modules, keyed by content, engine version and configuration."""
        return self.cache / "modules"

    @property
    def guests(self) -> Path:
        """What virtual machines and containers start with: the guest agent, kernels, converted images."""
        return self.cache / "guests"

    @property
    def images(self) -> Path:
        """The user's own image store (`golemp2p image`)."""
        return self.cache / "images"

    def all(self) -> dict[str, Path]:
        names = ("data", "cache", "config", "keystore", "database", "content", "work", "running", "app_key", "modules")
        return {name: getattr(self, name) for name in names}
