"""Arguments and options that several commands share, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli.commands import completion

if TYPE_CHECKING:
    from rich.console import Console

    from vitbench.cli.commands.prepare import Asked
    from vitbench.data import DataOptions

Name = Annotated[
    str,
    typer.Argument(help="An experiment or suite by name, or a YAML file.", autocompletion=completion.experiments),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Runs or experiments; none: all of the results folder.", autocompletion=completion.runs),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Other images: fashion_mnist, cifar10, folder:PATH, parquet:PATH, ...",
        metavar="NAME",
        autocompletion=completion.data,
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where named data sets lie (default: ./data or $VITBENCH_DATA_DIR).")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch a data set that is not there.")]
SeedsOption = Annotated[str | None, typer.Option("--seeds", help="Reporting seeds: 5, 0-4 or 0,3,7.", metavar="SEEDS")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a spec field, e.g. train.epochs=5; repeatable.", metavar="KEY=VALUE"),
]
Results = Annotated[Path, typer.Option("--results", help="The results folder.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Let the run take the place of another experiment's run of the same name.")
]
AsName = Annotated[str | None, typer.Option("--as", help="Name the run yourself.", metavar="NAME")]
Limit = Annotated[int | None, typer.Option(min=1, help="Run at most this many trials, then stop (exit code 3).")]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Image-loading processes, used only when the images do not fit in memory.")
]
CheckpointSeconds = Annotated[
    float, typer.Option(min=0.0, help="Save a running trial this often; a stopped one is always saved.")
]
Oom = Annotated[str, typer.Option(help="Out of memory: fail, or halve the micro-batch (never the batch) and go on.")]
EngineName = Annotated[
    str, typer.Option(help="How trials share the machine: auto, local, workers, fused (equal shapes as one).")
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--recompute", help="Large ViTs: keep only what enters each block, and compute it again for the gradient."
    ),
]
Program = Annotated[str, typer.Option(help="How a step is launched: auto, eager, graph (CUDA) or compile.")]
UntilSettled = Annotated[
    bool, typer.Option("--until-settled", help="Add seeds at the file's looks until every claim is settled.")
]
Track = Annotated[
    str | None,
    typer.Option(help="Also copy trials to tensorboard, wandb, mlflow or trackio.", metavar="TRACKER"),
]
MaxSeeds = Annotated[int | None, typer.Option(min=3, help="The last look that --until-settled may take.")]
Keep = Annotated[str, typer.Option(help="Weights kept: all, final (reporting and stage trials) or none.")]


def console() -> Console:
    """The terminal, or whatever stdout is."""
    from rich.console import Console

    return Console()


def asked(name: str, data: str | None, seeds: str | None, sets: list[str] | None, as_name: str | None = None) -> Asked:
    """What a command was asked for."""
    from vitbench.cli.commands.prepare import Asked

    return Asked(name, data, seeds, tuple(sets or ()), as_name)


def data_options_of(data_dir: Path | None, download: bool = False) -> DataOptions:
    """Where images lie, as the command line says it."""
    from vitbench.cli.commands.prepare import data_options

    return data_options(data_dir, download)
