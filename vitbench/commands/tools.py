"""Commands beside running and reporting: weights out, the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitbench.commands.arguments import DataDir, Names, Results, console, data_options_of

tools = typer.Typer()


@tools.command()
def export(
    trial: Annotated[str, typer.Argument(help="A trial id, or the beginning of one.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder.", metavar="DIR")],
    results: Results = Path("results"),
    data_dir: DataDir = None,
) -> None:
    """Write a trial's weights as a folder that timm loads, with equal logits; what timm cannot hold is refused."""
    from vitbench.commands.weights import export as export_trial

    raise typer.Exit(export_trial(trial, to, results, data_options_of(data_dir), console()))


@tools.command()
def schema() -> None:
    """Print the JSON Schema of experiment files, for editors."""
    import json

    from vitbench.schema import schema as experiment_schema

    print(json.dumps(experiment_schema(), indent=2))


@tools.command()
def watch(names: Names = None, results: Results = Path("results")) -> None:
    """Show the live view of a run that goes on in another shell; Ctrl-C leaves the run alone."""
    from vitbench.commands.watch import watch as watch_run

    raise typer.Exit(watch_run(names or [], results, console()))
