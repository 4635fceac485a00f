"""Commands around a run: export, inspect, schema, watch, doctor, clean, check-data, prepare, init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitbench.cli.commands import completion
from vitbench.cli.commands.arguments import (
    Code,
    DataDir,
    Download,
    Json,
    Names,
    Results,
    console,
    data_options_of,
    run_code,
)

tools = typer.Typer()


@tools.command()
def export(
    trial: Annotated[str, typer.Argument(help="A trial id or its beginning.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder.", metavar="DIR")],
    format_: Annotated[
        str, typer.Option("--format", help="timm, transformers (its ViT) or onnx.", metavar="FORMAT")
    ] = "timm",
    code: Code = None,
    results: Results = Path("results"),
    data_dir: DataDir = None,
) -> None:
    """Write a trial's weights as a folder that other software loads, with equal logits.

    A model that the software cannot hold is refused. `export RUN` lists the run's trials.
    """
    from vitbench.cli.commands.weights import Destination
    from vitbench.cli.commands.weights import export as export_trial

    options = data_options_of(data_dir)
    run_code(code)
    raise typer.Exit(export_trial(trial, Destination(to, format_), results, options, console()))


@tools.command()
def inspect(
    name: Annotated[
        str, typer.Argument(help="A run or experiment, a trial id, timm:NAME, or an exported folder.", metavar="NAME")
    ],
    what: Annotated[
        str | None,
        typer.Option(
            "--what",
            help="Choose from filters,positions,distance,rollout,layers,robustness,reconstruction.",
            metavar="LIST",
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option("--images", help="Use other images: folder:PATH or a data set.", metavar="NAME")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Largest number of images.", metavar="N")] = 1000,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for the figures of a single network.", metavar="DIR")
    ] = None,
    code: Code = None,
    results: Results = Path("results"),
    data_dir: DataDir = None,
) -> None:
    """Look into trained networks: figures and numbers on filters, positions, attention, layers and robustness."""
    from vitbench.cli.commands.inspect import inspect as look

    run_code(code)
    raise typer.Exit(look(name, results, (what, images, limit), to, data_options_of(data_dir), console()))


@tools.command()
def schema() -> None:
    """Print the JSON Schema of experiment files for editors."""
    import json

    from vitbench.spec.json_schema import schema as experiment_schema

    print(json.dumps(experiment_schema(), indent=2))


@tools.command()
def watch(names: Names = None, results: Results = Path("results")) -> None:
    """Watch a run that is active in another shell. Ctrl-C stops watching, not the run."""
    from vitbench.cli.commands.watch import watch as watch_run

    raise typer.Exit(watch_run(names or [], results, console()))


@tools.command()
def doctor(
    results: Results = Path("results"),
    fix: Annotated[
        bool, typer.Option("--fix", help="Remove leftovers that nobody needs; change nothing else.")
    ] = False,
    hold: Annotated[
        float | None,
        typer.Option(min=1.0, max=3600.0, help="Hold a lock for so many seconds, for a doctor on another host."),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check this machine and the results folder and list problems. Exit code 2, 5 or 6 on errors."""
    from vitbench.cli.commands.upkeep import doctor as examine
    from vitbench.cli.commands.upkeep import hold as hold_lock

    if hold is not None:
        raise typer.Exit(hold_lock(results, hold, console()))
    raise typer.Exit(examine(results, data_options_of(data_dir), console(), fix=fix, as_json=as_json))


@tools.command()
def clean(
    results: Results = Path("results"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, it is listed.")] = False,
    data_dir: DataDir = None,
) -> None:
    """List files that no run in the results folder needs; --yes removes them. Records in use are always kept."""
    from vitbench.cli.commands.upkeep import clean as clean_root

    raise typer.Exit(clean_root(results, data_options_of(data_dir), console(), yes=yes))


@tools.command("check-data")
def check_data(
    name: Annotated[str, typer.Argument(help="fashion_mnist, folder:PATH, parquet:PATH, ...")], data_dir: DataDir = None
) -> None:
    """Decode every image of a data set, check its labels, and count test images that are also training images."""
    from vitbench.cli.commands.upkeep import check_data as check_images

    raise typer.Exit(check_images(name, data_options_of(data_dir), console()))


@tools.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(help="folder:PATH, parquet:PATH, imagenet, ...", metavar="DATA", autocompletion=completion.data),
    ],
    img_size: Annotated[
        str, typer.Option("--img-size", help="The run's data.img_size: pixels per side, HEIGHTxWIDTH, or original.")
    ],
    in_chans: Annotated[
        int | None, typer.Option("--in-chans", help="1 prepares grey images, for runs with data.in_chans: 1.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Processes that decode (default: one per core).")
    ] = None,
    data_dir: DataDir = None,
    download: Download = False,
) -> None:
    """Decode a data set once, into the cache folder; later runs read these pixels, shared in memory.

    A size serves runs of this size, except for augmented training above 64 px: its crops are cut from the original
    images (--img-size original serves every run). A killed command goes on. On a whole set, it compares checksums.
    """
    from vitbench.cli.commands.prepare_images import prepare_images

    options = data_options_of(data_dir, download)
    raise typer.Exit(prepare_images(name, (img_size, in_chans), options, jobs, console()))


@tools.command()
def init(path: Annotated[Path, typer.Argument(help="The new file, e.g. my-ablation.yaml.")]) -> None:
    """Write a commented experiment file to start from."""
    from vitbench.cli.commands.init import init as write_starter

    raise typer.Exit(write_starter(path, console()))


@tools.command("check-mechanism")
def check_mechanism(
    kind: Annotated[
        str,
        typer.Argument(help="patch_embed, position, token_mixer, channel_mixer, readout or objective.", metavar="KIND"),
    ],
    name: Annotated[str, typer.Argument(help="The mechanism's name, or NAME(field=value).", metavar="NAME")],
    code: Code = None,
) -> None:
    """Check that a mechanism keeps the contract: costs, state, stacking, resuming, export, inspection."""
    from vitbench.cli.commands.mechanism_check import check

    raise typer.Exit(check(kind, name, tuple(code or ()), console()))
