"""Arguments and options that several commands share, and their conversion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli.commands import completion

if TYPE_CHECKING:
    from rich.console import Console

    from vitbench.cli.commands.prepare import ExperimentRequest
    from vitbench.data import DataOptions

WHAT, DATA, OUTPUT, MACHINE = "What to run", "Data", "Output", "Machine"
"""Panels of `run --help`, in this order."""


def _show_help(context: typer.Context, is_given: bool) -> None:
    if is_given:
        print(context.get_help())
        raise typer.Exit


Name = Annotated[
    str,
    typer.Argument(help="Name of an experiment or suite, or a YAML file.", autocompletion=completion.experiments),
]
Code = Annotated[
    list[str] | None,
    typer.Option("--code", help="A Python file or entry point with a mechanism of yours; it is run.", metavar="FILE"),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Runs or experiments; default: all in the results folder.", autocompletion=completion.runs),
]
SeedsOption = Annotated[
    str | None,
    typer.Option("--seeds", help="Reporting seeds: 5, 0-4 or 0,3,7.", metavar="SEEDS", rich_help_panel=WHAT),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Set a spec field, e.g. train.epochs=5. Repeatable.", metavar="KEY=VALUE", rich_help_panel=WHAT
    ),
]
AsName = Annotated[
    str | None, typer.Option("--as", help="Choose the run's name.", metavar="NAME", rich_help_panel=WHAT)
]
UntilSettled = Annotated[
    bool,
    typer.Option(
        "--until-settled",
        help="Add seeds, look by look as the file declares, until every claim is settled.",
        rich_help_panel=WHAT,
    ),
]
MaxSeeds = Annotated[
    int | None, typer.Option(min=3, help="Stop --until-settled at this number of seeds.", rich_help_panel=WHAT)
]
MaxTrials = Annotated[
    int,
    typer.Option(
        min=1,
        envvar="VITBENCH_MAX_TRIALS",
        help="Refuse an experiment with more trials. Above the default, seeds may go up to it too.",
        metavar="N",
    ),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.", rich_help_panel=WHAT)]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Stop after this many trials (exit code 3).", rich_help_panel=WHAT)
]
Shard = Annotated[
    str | None,
    typer.Option(
        help="I/N: begin with part I of N. For N commands on one results folder: each then helps the others.",
        metavar="I/N",
        rich_help_panel=WHAT,
    ),
]
NoWait = Annotated[
    bool,
    typer.Option(
        "--no-wait", help="End when other commands hold all missing trials (exit code 3).", rich_help_panel=WHAT
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan; train nothing.", rich_help_panel=WHAT)]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Use other images: fashion_mnist, cifar10, folder:PATH, parquet:PATH, ...",
        metavar="NAME",
        autocompletion=completion.data,
        rich_help_panel=DATA,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the named data sets (default: $VITBENCH_DATA_DIR, else ./data).", rich_help_panel=DATA
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Download the data set if it is missing.", rich_help_panel=DATA)
]
Results = Annotated[Path, typer.Option("--results", help="The results folder.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result tables.", rich_help_panel=OUTPUT)]
Keep = Annotated[
    str,
    typer.Option(help="Weights to keep: all, final (reporting and stage trials) or none.", rich_help_panel=OUTPUT),
]
Track = Annotated[
    str | None,
    typer.Option(
        help="Also log trials to tensorboard, wandb, mlflow or trackio.", metavar="TRACKER", rich_help_panel=OUTPUT
    ),
]
Help = Annotated[
    bool,
    typer.Option(
        "--help", "-h", is_eager=True, callback=_show_help, help="Show this message and exit.", rich_help_panel=OUTPUT
    ),
]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda, cuda:1, several GPUs as cuda:0,2 or cuda:all, mps.", rich_help_panel=MACHINE),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", help="Trials at the same time (default: one per core or GPU).", rich_help_panel=MACHINE
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        min=1,
        help="Processes that train one trial together, each on its share of every batch; one GPU each. Under torchrun: "
        "its number of processes.",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads per trial.", rich_help_panel=MACHINE)]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Replace another experiment's run of the same name.", rich_help_panel=OUTPUT),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Image-loading processes, used only when the images do not fit in memory.",
        rich_help_panel=MACHINE,
    ),
]
CheckpointSeconds = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Seconds between checkpoints of a running trial. Stopping a run always saves one.",
        rich_help_panel=MACHINE,
    ),
]
Oom = Annotated[
    str,
    typer.Option(
        help="When memory runs out: fail, or halve the micro-batch (the batch stays the same).", rich_help_panel=MACHINE
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        help="How trials share the machine: auto, local, workers, fused (trials of equal shapes as one program), or "
        "ray (tasks on a cluster).",
        rich_help_panel=MACHINE,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="The cluster of --engine ray: local (start one here), auto (join this machine's) or HOST:PORT.",
        metavar="ADDRESS",
        rich_help_panel=MACHINE,
    ),
]
GpusPerTrial = Annotated[
    float | None,
    typer.Option(
        help="GPUs of a task of --engine ray: 0 (CPU) to 1; a fraction shares a GPU.", rich_help_panel=MACHINE
    ),
]
Commit = Annotated[
    str | None,
    typer.Option(
        help="Who writes the records of --engine ray: driver (no shared folder needed) or workers (shared --results).",
        metavar="WHO",
        rich_help_panel=MACHINE,
    ),
]
Program = Annotated[
    str,
    typer.Option(help="How to launch a training step: auto, eager, graph (CUDA) or compile.", rich_help_panel=MACHINE),
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--recompute",
        help="Save memory in large ViTs: recompute each block's activations in the backward pass.",
        rich_help_panel=MACHINE,
    ),
]


def console() -> Console:
    """A Rich console on stdout."""
    from rich.console import Console

    return Console()


def experiment_request(
    name: str, data: str | None, seeds: str | None, sets: list[str] | None, as_name: str | None = None
) -> ExperimentRequest:
    """The experiment on the command line with its overrides."""
    from vitbench.cli.commands.prepare import ExperimentRequest

    return ExperimentRequest(name, data, seeds, tuple(sets or ()), as_name)


def run_code(code: list[str] | None) -> None:
    """Import the files of `--code`. Raises InputError."""
    from vitbench.spec.mechanism import load_code, located_code

    load_code(located_code(code or (), Path()))


def data_options_of(data_dir: Path | None, download: bool = False) -> DataOptions:
    """Where to find images, from the options and the environment."""
    from vitbench.cli.commands.prepare import data_options

    return data_options(data_dir, download)
