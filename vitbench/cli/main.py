"""The command line: parse, call one function, print. Heavy imports happen inside the commands."""

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
    Data,
    DataDir,
    Download,
    EngineName,
    Json,
    Keep,
    Limit,
    MaxSeeds,
    Name,
    Names,
    Oom,
    Program,
    Recompute,
    Replace,
    Results,
    SeedsOption,
    Sets,
    Track,
    UntilSettled,
    Workers,
    console,
    data_options_of,
)
from vitbench.cli.commands.arguments import asked as asked_of
from vitbench.cli.commands.bench import bench
from vitbench.cli.commands.tools import tools
from vitbench.cli.setting_options import SettingsGroup

EXIT_CODES = """Exit codes: 0 done; 1 a reporting trial failed or diverged, or an arm has no eligible setting; 2 bad
input or usage; 3 incomplete; 4 a --check failed; 5 results folder refused; 6 no space; 129 SIGHUP, 130
Ctrl-C and 143 SIGTERM, which the same command resumes."""

NO_MEMORY = ("failed to map segment", "cannot allocate memory")
"""What the loader of shared libraries says where a limit on memory is too low for torch."""

app = typer.Typer(
    name="vitbench",
    cls=SettingsGroup,
    help="The ablations of the ViT paper, with seeds, tuned arms and verdicts, on your images and your budget.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def run(
    name: Name,
    data: Data = None,
    seeds: SeedsOption = None,
    sets: Sets = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    results: Results = Path("results"),
    limit: Limit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan and train nothing.")] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tables only.")] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Trials at once (default: one a core).")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads per trial.")] = 1,
    workers: Workers = None,
    data_dir: DataDir = None,
    download: Download = False,
    keep: Keep = "final",
    checkpoint_seconds: CheckpointSeconds = 60.0,
    oom: Oom = "fail",
    engine: EngineName = "auto",
    program: Program = "auto",
    recompute: Recompute = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    as_name: AsName = None,
    replace: Replace = False,
    until_settled: UntilSettled = False,
    max_seeds: MaxSeeds = None,
    track: Track = None,
) -> None:
    """Run an experiment or a suite: only what is missing is trained. The result tables come at the end."""
    asked, options = asked_of(name, data, seeds, sets, as_name), data_options_of(data_dir, download)
    if dry_run:
        from vitbench.cli.commands.listing import plan as show_plan

        raise typer.Exit(show_plan(asked, options, results, None, console(), as_json))
    from vitbench.cli.commands import run as running
    from vitbench.cli.commands.prepare import command_of

    how = running.RunOptions(
        root=results,
        data=options,
        device=device,
        jobs=jobs,
        workers=workers,
        threads=threads,
        limit=limit,
        keep=keep,
        retry_failed=retry_failed,
        quiet=quiet,
        as_json=as_json,
        command=command_of(asked, results, until_settled, max_seeds),
        until_settled=until_settled,
        max_seeds=max_seeds,
        track=track,
        checkpoint_seconds=checkpoint_seconds,
        oom=oom,
        engine=engine,
        program=program,
        recompute=recompute,
        replace_run=replace,
    )
    raise typer.Exit(running.run(asked, how, console()))


@app.command()
def plan(
    name: Name,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(help="List every way in which two arms differ.", metavar="A B", autocompletion=completion.arms),
    ] = None,
    data: Data = None,
    seeds: SeedsOption = None,
    sets: Sets = None,
    results: Results = Path("results"),
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what would run: arms, settings, seeds, parameters, FLOPs, what is done, and an estimate of the time."""
    from vitbench.cli.commands.listing import plan as show_plan

    asked = asked_of(name, data, seeds, sets)
    raise typer.Exit(show_plan(asked, data_options_of(data_dir), results, diff, console(), as_json))


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the experiments, with their question and cost."""
    from vitbench.cli.commands.listing import list_experiments

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
    """Show one experiment resolved: the baseline whole, every other arm as a diff against it."""
    from vitbench.cli.commands.listing import show as show_experiment

    raise typer.Exit(show_experiment(asked_of(name, data, seeds, sets), data_options_of(data_dir), console(), as_json))


@app.command()
def status(
    names: Names = None, results: Results = Path("results"), data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Show done, running, failed and missing trials of every run."""
    from vitbench.cli.commands.listing import status as show_status

    raise typer.Exit(show_status(names or [], results, data_options_of(data_dir), console(), as_json))


@app.command()
def report(
    names: Names = None,
    results: Results = Path("results"),
    formats: Annotated[str, typer.Option("--format", help="Any of md, html, tex, csv.")] = "md,html,tex,csv",
    open_page: Annotated[bool, typer.Option("--open", help="Open the scoreboard in a browser.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Show samples of any data, not to be published.")] = False,
    data_dir: DataDir = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 4 where a table is stale.")] = False,
) -> None:
    """Write tables (Markdown, CSV, LaTeX), plots (PNG, SVG) and pages, from the records alone."""
    from vitbench.cli.commands.report import Wanted, check_tables
    from vitbench.cli.commands.report import report as write_report

    if check:
        raise typer.Exit(check_tables(names or [], results, console()))
    wanted = Wanted(formats, open_page, images, data_options_of(data_dir))
    raise typer.Exit(write_report(names or [], results, console(), wanted))


@app.command()
def verdict(
    claim: Annotated[
        str | None, typer.Argument(help="A claim by id; none: all.", autocompletion=completion.claims)
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="Only this run; repeatable.", autocompletion=completion.runs),
    ] = None,
    results: Results = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="Exit 4 where a claim is contradicted, or not what its file expects.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say of every claim whether it is supported, contradicted, inconclusive or untested, and why."""
    from vitbench.cli.commands.report import verdict as show_verdict

    raise typer.Exit(show_verdict(claim, results, run or [], console(), check, as_json))


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="RUN:ARM, or a records file as FILE.jsonl:ARM.", autocompletion=completion.sides)
    ],
    b: Annotated[str, typer.Argument(help="The same, to be taken from A.", autocompletion=completion.sides)],
    metric: Annotated[
        str, typer.Option(help="What is compared.", autocompletion=completion.metrics)
    ] = "test_top1_percent",
    mixed: Annotated[bool, typer.Option("--mixed", help="Also where data or code version differ.")] = False,
    results: Results = Path("results"),
) -> None:
    """Compare two arms, paired by seed, with what differs between them."""
    from vitbench.cli.commands.report import compare as show_comparison

    raise typer.Exit(show_comparison(a, b, results, metric, mixed, console()))


app.add_typer(tools)
app.add_typer(bench)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"vitbench {version('vitbench')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """vitbench"""


def main() -> None:
    """Run the command line; errors of the user become lines on stderr and an exit code, never a traceback."""
    from vitbench.base.output import outlast_readers
    from vitbench.base.signals import Stopped

    outlast_readers()
    try:
        app(standalone_mode=True)
    except VitbenchError as error:
        for line in str(error).splitlines():
            print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # A name that no disk can hold, a folder that may not be read, a disk that is full.
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
