"""Entry point of the ``golemp2p`` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from golemp2p import __version__
from golemp2p.cli import (
    agreement,
    app_key,
    audit,
    bootnode,
    explain,
    explore,
    image,
    init,
    job,
    localnet,
    match,
    network,
    payment,
    run,
    runtime,
    verify,
)
from golemp2p.cli.common import ExitCode, exit_code_of, first_error, say
from golemp2p.errors import GolemError

app = typer.Typer(
    name="golemp2p",
    help="A peer-to-peer market for computing power. Data goes to stdout, everything else to stderr.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"golemp2p {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A peer-to-peer market for computing power. Data goes to stdout, everything else to stderr."""


init.add_to(app)
run.add_to(app)
bootnode.add_to(app)
explore.add_to(app)
explain.add_to(app)
match.add_to(app)
localnet.add_to(app)
verify.add_to(app)
app.add_typer(job.app, name="job")
app.add_typer(image.app, name="image")
app.add_typer(app_key.app, name="app-key")
app.add_typer(agreement.app, name="agreement")
app.add_typer(network.app, name="network")
app.add_typer(payment.app, name="payment")
app.add_typer(audit.app, name="audit")
app.add_typer(runtime.app, name="runtime")


def main() -> None:
    try:
        app()
    except (GolemError, BaseExceptionGroup) as raised:
        error = first_error(raised)
        if not isinstance(error, GolemError):
            raise
        say(f"golemp2p: {error.message}")
        if error.hint:
            say(f"  hint: {error.hint}")
        sys.exit(exit_code_of(error))
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `golemp2p offers | head`
        sys.stderr.close()
        sys.exit(ExitCode.OK)


if __name__ == "__main__":
    main()
