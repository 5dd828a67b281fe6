"""`golemp2p init`, `id`, `paths`; and where passwords come from."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golemp2p.cli.common import AsJson, DataDir, echo, echo_json, facts, locations_of, say
from golemp2p.errors import UsageError

if TYPE_CHECKING:
    from golemp2p.locations import Locations

PASSWORD_ENV = "GOLEMP2P_PASSWORD"  # noqa: S105 - the name of a variable
PASSWORD_FILE_ENV = "GOLEMP2P_PASSWORD_FILE"  # noqa: S105

PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", envvar=PASSWORD_FILE_ENV, help="File with the key's password.", show_default=False),
]

CONFIG = """\
# Settings of this golemp2p node. Flag > environment (GOLEMP2P_<SECTION>__<NAME>) > this file > default.
version = 1

[net]
listen = ["/ip4/0.0.0.0/tcp/11155"]
# What follows is said by the network's profile (golemp2p network join FILE); here it would count more.
# network = "local"
# subnet = "public"
# bootstrap = []          # multiaddrs of nodes that are up, e.g. "/ip4/…/tcp/11155/p2p/16Uiu2…"

[rest]
listen = "127.0.0.1:7465"
# allowed_origins = ["http://localhost:8000"]   # web pages that may call, with any app-key

# golemp2p payment init --network NAME writes this: polygon, mainnet, amoy, hoodi, holesky, sepolia
# [[payment.networks]]
# name = "amoy"
# rpc_urls = ["env:AMOY_RPC", "https://…"]   # instead of public ones; "env:NAME": a variable holds the URL with its key

[provider]
runtimes = ["wasmtime"]   # and "vm" for container images: golemp2p runtime list says what this machine can run
price_per_hour = 0.02     # GLM
price_per_cpu_hour = 0.1
max_activities = 2

# [provider.outbound]
# whitelist = ["api.example.org"]   # what payloads may reach when their manifest asks; also "*.name" and "all"

# [vm]
# capabilities = "usual"   # root in containers has what engines usually leave it; default: nothing
# pull = []                # prefixes of registry images that may be pulled
"""


def read_password(password_file: Path | None, where: Locations, *, new: bool = False) -> str:
    """File > environment > the file that `init --auto-unlock` left > prompt. Raises UsageError."""
    if password_file is None and where.password.exists() and PASSWORD_ENV not in os.environ:
        password_file = where.password
    if password_file is not None:
        try:
            return password_file.read_text().rstrip("\n")
        except OSError as exc:
            raise UsageError(f"cannot read the password file: {exc}") from exc
    if PASSWORD_ENV in os.environ:
        return os.environ[PASSWORD_ENV]
    if not sys.stdin.isatty():
        raise UsageError(
            "no password for the key", hint=f"set {PASSWORD_ENV}, give --password-file, or use init --auto-unlock"
        )
    return str(typer.prompt("Password of the key", hide_input=True, confirmation_prompt=new, err=True))


def add_to(app: typer.Typer) -> None:
    @app.command(epilog="Example: golemp2p init --password-file ~/golem-password")
    def init(
        data_dir: DataDir = None,
        password_file: PasswordFile = None,
        auto_unlock: Annotated[
            bool, typer.Option("--auto-unlock", help="Make a random password and keep it beside the key (mode 0600).")
        ] = False,
        key_file: Annotated[
            Path | None, typer.Option("--import", help="Import a private key: a file with 64 hex digits.")
        ] = None,
        light_kdf: Annotated[
            bool, typer.Option("--light-kdf", help="Cheap key derivation; for throw-away keys.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Make a key (keystore V3) and a settings file."""
        from golemp2p.identity import NodeKey, create_keystore

        where = locations_of(data_dir)
        if where.keystore.exists():
            raise UsageError(f"there is a key at {where.keystore} already", hint="use another --data-dir")
        key = NodeKey.generate() if key_file is None else NodeKey(_read_key(key_file))
        where.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        if auto_unlock:
            password = secrets.token_urlsafe(24)
            with os.fdopen(os.open(where.password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(password)
        else:
            password = read_password(password_file, where, new=True)
        create_keystore(where.keystore, key, password, light=light_kdf)
        if not where.config.exists():
            where.config.touch(mode=0o600)  # a payment network's URL may hold a secret
            where.config.write_text(CONFIG)
        if as_json:
            echo_json({"address": key.address, "peer_id": key.peer_id, "key": where.keystore, "config": where.config})
        else:
            facts(
                [("address", key.address), ("peer id", key.peer_id), ("key", where.keystore), ("config", where.config)]
            )
            say("Back up the key file and its password: nobody else can restore them.")

    @app.command("id", epilog="Example: golemp2p id --json")
    def show_id(data_dir: DataDir = None, password_file: PasswordFile = None, as_json: AsJson = False) -> None:
        """Print the node's identity: Ethereum address and PeerId. The PeerId needs the key's password."""
        from golemp2p.identity import unlock_keystore
        from golemp2p.identity.keystore import keystore_address

        where = locations_of(data_dir)
        address = keystore_address(where.keystore)
        key = unlock_keystore(where.keystore, read_password(password_file, where))
        if as_json:
            echo_json({"address": address, "peer_id": key.peer_id, "public_key": key.public_key.hex()})
        else:
            facts([("address", address), ("peer id", key.peer_id), ("public key", key.public_key.hex())])

    @app.command(epilog="Example: golemp2p paths --json")
    def paths(data_dir: DataDir = None, as_json: AsJson = False) -> None:
        """Print every path that golemp2p uses."""
        where = locations_of(data_dir).all()
        if as_json:
            echo_json({name: str(path) for name, path in where.items()})
        else:
            for name, path in where.items():
                echo(f"{name:<10} {path}")


def _read_key(path: Path) -> bytes:
    try:
        secret = bytes.fromhex(path.read_text().strip().removeprefix("0x"))
    except (OSError, ValueError) as exc:
        raise UsageError(f"cannot read a private key from {path}: {exc}", hint="64 hex digits") from exc
    if len(secret) != 32:
        raise UsageError(f"the key in {path} has {len(secret)} bytes", hint="64 hex digits are 32 bytes")
    return secret
