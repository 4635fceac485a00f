"""The command line: parse the words, call one function, return its exit code. Heavy imports happen inside commands."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitbench.base.errors import VitbenchError, printable
from vitbench.cli.commands import completion
from vitbench.cli.commands.arguments import (
    AsName,
    CheckpointSeconds,
    Commit,
    Data,
    DataDir,
    Device,
    Download,
    DryRun,
    EngineName,
    GpusPerTrial,
    Help,
    Jobs,
    Json,
    Keep,
    Limit,
    MaxSeeds,
    MaxTrials,
    Name,
    Names,
    NoWait,
    Oom,
    Processes,
    Program,
    Quiet,
    RayAddress,
    Recompute,
    Replace,
    Results,
    RetryFailed,
    SeedsOption,
    Sets,
    Shard,
    Threads,
    Track,
    UntilSettled,
    Workers,
    console,
    data_options_of,
    experiment_request,
)
from vitbench.cli.commands.bench import bench
from vitbench.cli.commands.tools import tools
from vitbench.cli.setting_options import SettingsGroup
from vitbench.spec.limits import DEFAULT_MAX_TRIALS, allow_trials

EXIT_CODES = """Exit codes: 0 done; 1 a reporting trial failed or diverged, or an arm has no eligible setting; 2 bad
input or usage; 3 incomplete; 4 a --check or --test-once failed; 5 results folder refused; 6 no space; 129 SIGHUP, 130
Ctrl-C and 143 SIGTERM, which the same command resumes."""

NO_MEMORY = ("failed to map segment", "cannot allocate memory")
"""What the loader of shared libraries says where a limit on memory is too low for torch."""

app = typer.Typer(
    name="vitbench",
    cls=SettingsGroup,
    help="Run the ViT paper's ablations with paired seeds, tuned arms and verdicts, on your images and your budget.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(context_settings={"help_option_names": []})  # `Help` stands in a panel of its own choice
def run(
    name: Name,
    seeds: SeedsOption = None,
    sets: Sets = None,
    as_name: AsName = None,
    until_settled: UntilSettled = False,
    max_seeds: MaxSeeds = None,
    limit: Limit = None,
    shard: Shard = None,
    no_wait: NoWait = False,
    retry_failed: RetryFailed = False,
    dry_run: DryRun = False,
    data: Data = None,
    data_dir: DataDir = None,
    download: Download = False,
    results: Results = Path("results"),
    quiet: Quiet = False,
    as_json: Json = False,
    replace: Replace = False,
    keep: Keep = "final",
    track: Track = None,
    _: Help = False,
    device: Device = "auto",
    jobs: Jobs = None,
    threads: Threads = 1,
    processes: Processes = 1,
    workers: Workers = None,
    checkpoint_seconds: CheckpointSeconds = 60.0,
    oom: Oom = "fail",
    engine: EngineName = "auto",
    ray_address: RayAddress = None,
    gpus_per_trial: GpusPerTrial = None,
    commit: Commit = None,
    program: Program = "auto",
    recompute: Recompute = False,
) -> None:
    """Run an experiment or a suite. Trains only the missing trials, then prints the result tables."""
    from vitbench.cli.commands import listing, prepare, run, run_options

    request, options = experiment_request(name, data, seeds, sets, as_name), data_options_of(data_dir, download)
    if dry_run:
        raise typer.Exit(listing.plan(request, options, results, None, console(), as_json))
    how = run_options.RunOptions(
        root=results, data=options, device=device, jobs=jobs, workers=workers, threads=threads,
        processes=processes, limit=limit, shard=shard, no_wait=no_wait, keep=keep, retry_failed=retry_failed,
        quiet=quiet, as_json=as_json,
        command=prepare.command_of(request, results, until_settled, max_seeds), until_settled=until_settled,
        max_seeds=max_seeds, track=track, checkpoint_seconds=checkpoint_seconds, oom=oom, engine=engine,
        ray_address=ray_address, gpus_per_trial=gpus_per_trial, commit=commit, program=program, recompute=recompute,
        replace_run=replace,
    )  # fmt: skip
    raise typer.Exit(run.run(request, how, console()))


@app.command()
def plan(
    name: Name,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(help="List every difference between two arms.", metavar="A B", autocompletion=completion.arms),
    ] = None,
    data: Data = None,
    seeds: SeedsOption = None,
    sets: Sets = None,
    results: Results = Path("results"),
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what `run` would do: arms, settings, seeds, parameters, FLOPs, finished trials, estimated time."""
    from vitbench.cli.commands.listing import plan as show_plan

    request = experiment_request(name, data, seeds, sets)
    raise typer.Exit(show_plan(request, data_options_of(data_dir), results, diff, console(), as_json))


@app.command()
def recommend(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Your images: folder:PATH, parquet:PATH, fashion_mnist, ...",
            metavar="NAME",
            autocompletion=completion.data,
        ),
    ],
    max_hours: Annotated[
        float, typer.Option("--max-hours", help="The budget, all sessions together.", metavar="HOURS")
    ],
    aim: Annotated[
        str, typer.Option("--for", help="What counts: accuracy, speed or size.", metavar="AIM")
    ] = "accuracy",
    test_once: Annotated[
        bool, typer.Option("--test-once", help="Refuse if these test images were read before (exit code 4).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Measure this machine, print the plan.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also export the model as ONNX.")] = False,
    img_size: Annotated[
        int | None,
        typer.Option("--img-size", min=8, help="Side in pixels (default: that of the images, at most 64 on a CPU)."),
    ] = None,
    data_dir: DataDir = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="The results folder (default: results/recommend-NAME).")
    ] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Recommend a model for your images: ask what pays within your hours, and test the answer once."""
    from vitbench.cli.commands import recommend as command
    from vitbench.cli.commands.recommend_options import RecommendOptions, aim_named, check_hours

    options = RecommendOptions(
        data, check_hours(max_hours), aim_named(aim), data_options_of(data_dir), results, img_size, test_once, onnx,
        device, jobs, quiet,
    )  # fmt: skip
    raise typer.Exit(command.recommend(options, dry_run, console()))


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the experiments by question and data set, with their cost."""
    from vitbench.cli.commands.experiment_list import list_experiments

    raise typer.Exit(list_experiments(console(), as_json))


@app.command()
def show(
    name: Name,
    data: Data = None,
    seeds: SeedsOption = None,
    sets: Sets = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the resolved settings of an experiment: all of the baseline, and how every other arm differs from it."""
    from vitbench.cli.commands.listing import show as show_experiment

    request = experiment_request(name, data, seeds, sets)
    raise typer.Exit(show_experiment(request, data_options_of(data_dir), console(), as_json))


@app.command()
def status(
    names: Names = None, results: Results = Path("results"), data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Count finished, running, failed and missing trials per run."""
    from vitbench.cli.commands.listing import status as show_status

    raise typer.Exit(show_status(names or [], results, data_options_of(data_dir), console(), as_json))


@app.command()
def report(
    names: Names = None,
    results: Results = Path("results"),
    formats: Annotated[str, typer.Option("--format", help="Formats to write: md, html, tex, csv.")] = "md,html,tex,csv",
    open_page: Annotated[bool, typer.Option("--open", help="Open the scoreboard in a browser.")] = False,
    images: Annotated[
        bool, typer.Option("--images", help="Also show sample images of data that must not be published.")
    ] = False,
    data_dir: DataDir = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing. Exit code 4 if a table is stale.")] = False,
) -> None:
    """Write tables (Markdown, CSV, LaTeX), plots (PNG, SVG) and pages from the committed records."""
    from vitbench.cli.commands.report import ReportOptions, check_tables
    from vitbench.cli.commands.report import report as write_report

    if check:
        raise typer.Exit(check_tables(names or [], results, console()))
    options = ReportOptions(formats, open_page, images, data_options_of(data_dir))
    raise typer.Exit(write_report(names or [], results, console(), options))


@app.command()
def verdict(
    claim: Annotated[
        str | None, typer.Argument(help="Id of a claim; default: every claim.", autocompletion=completion.claims)
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="Only this run. Repeatable.", autocompletion=completion.runs),
    ] = None,
    results: Results = Path("results"),
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the full reasons.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 4 if a claim is contradicted or differs from its `expect`.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge every claim: supported, contradicted, inconclusive or untested, and why. Pipes get one line per claim."""
    from vitbench.cli.commands.verdicts import VerdictOptions
    from vitbench.cli.commands.verdicts import verdict as show_verdict

    options = VerdictOptions(claim, tuple(run or ()), check, verbose, as_json)
    raise typer.Exit(show_verdict(results, options, console()))


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="RUN:ARM or FILE.jsonl:ARM (a records file).", autocompletion=completion.sides)
    ],
    b: Annotated[str, typer.Argument(help="The arm to subtract, in the same form.", autocompletion=completion.sides)],
    metric: Annotated[str, typer.Option(help="A metric.", autocompletion=completion.metrics)] = "test_top1_percent",
    mixed: Annotated[bool, typer.Option("--mixed", help="Compare even if data or code version differ.")] = False,
    results: Results = Path("results"),
) -> None:
    """Compare two arms, paired by seed, and list the settings that differ."""
    from vitbench.cli.commands.report import compare as show_comparison

    raise typer.Exit(show_comparison(a, b, results, metric, mixed, console()))


app.add_typer(tools)
app.add_typer(bench)


def _version(is_given: bool) -> None:
    if is_given:
        from importlib.metadata import version

        print(f"vitbench {version('vitbench')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    max_trials: MaxTrials = DEFAULT_MAX_TRIALS,
) -> None:
    """vitbench"""
    allow_trials(max_trials)


def main() -> None:
    """Run the command line. A user's error becomes one line on stderr and an exit code, never a traceback."""
    from vitbench.base.output import outlast_readers
    from vitbench.base.signals import Stopped

    outlast_readers()
    try:
        app(standalone_mode=True)
    except VitbenchError as error:
        for line in str(error).splitlines():
            print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # for example a name that is too long, a folder without permission, a full disk
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if error.filename is None and not full:
            raise
        print("error:", printable(f"{error.filename or 'disk'}: {error.strerror}"), file=sys.stderr)
        sys.exit(6 if full else 2)
    except (MemoryError, ImportError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ImportError) and not any(words in line for words in NO_MEMORY):
            raise
        print(
            f"error: not enough memory ({printable(line)}); see `ulimit -v` and the container's limit", file=sys.stderr
        )
        sys.exit(2)
    except Stopped as stop:
        print("stopped; finished trials are kept, run the same command again to resume", file=sys.stderr)
        sys.exit(stop.exit_code)


if __name__ == "__main__":
    main()
