"""Coming in this change."""

import typer

app = typer.Typer(no_args_is_help=True)


def add_to(parent: typer.Typer) -> None:
    del parent
