"""`vitbench bench`: measure speed on this machine against plain training loops."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from vitbench.cli.commands.arguments import console

bench = typer.Typer(
    name="bench", no_args_is_help=True, help="Measure speed on this machine against plain training loops."
)

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")]
To = Annotated[Path, typer.Option("--to", help="Folder for tables and plots.", metavar="DIR")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
RESULTS = Path("results/bench")


@bench.command()
def suite(
    which: Annotated[
        str, typer.Argument(help="positions (5 arms x 4 seeds) or rates (5 learning rates x 4 seeds).")
    ] = "positions",
    repeats: Annotated[int, typer.Option(min=1, help="Repeats; the contestants alternate.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training.")] = 10,
    loaders: Annotated[int, typer.Option(min=0, help="DataLoader processes of the plain loops.")] = 2,
    device: Device = "cpu",
    to: To = RESULTS,
) -> None:
    """Time twenty trainings by vitbench, by plain loops over timm (with a loader, in memory) and over vit-pytorch."""
    from vitbench.bench import pages, suite
    from vitbench.cli.commands.device import choose_device
    from vitbench.stats.race import CHOOSER

    terminal = console()
    rules = suite.Rules(repeats, loaders)
    measurement = suite.run(which, suite.Size(epochs=epochs), choose_device(device), rules, CHOOSER, terminal.print)
    table = pages.suite_table(measurement)
    pages.write(to, f"suite_{which}", measurement, table, pages.suite_figure(measurement))
    terminal.print(table, markup=False, soft_wrap=True)


@bench.command()
def model(
    name: Annotated[str, typer.Argument(help="ViT-B/16, R50x1, R50x1+ViT-B/16, ...")],
    img_size: Annotated[int, typer.Option(min=1, help="Image side in pixels.")] = 224,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 8,
    precision: Annotated[str, typer.Option(help="fp32, tf32 or bf16.")] = "fp32",
    threads: Threads = 1,
    device: Device = "cpu",
    to: To = RESULTS,
) -> None:
    """Measure one model's training against timm's: images per second, share of the machine's peak, memory."""
    from vitbench.bench import model_speed, pages
    from vitbench.cli.commands.device import choose_device

    measurement = model_speed.measure(name, (img_size, batch), precision, choose_device(device), threads)
    table = pages.model_table(measurement)
    slug = "".join(c if c.isalnum() else "_" for c in name).lower()
    pages.write(to, f"model_{slug}_{precision}", measurement, table, None)
    console().print(table, markup=False, soft_wrap=True)


@bench.command()
def mixers(
    name: Annotated[str, typer.Argument(help="The model whose token mixer is exchanged.")] = "ViT-Mu/2",
    mixer: Annotated[
        list[str] | None, typer.Option(help="A token mixer beside attention, repeatable; all without it.")
    ] = None,
    img_size: Annotated[int, typer.Option(min=1, help="Image side in pixels.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 32,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds; the mixers alternate.")] = 5,
    threads: Threads = 1,
    device: Device = "cpu",
    to: To = RESULTS,
) -> None:
    """Measure a model's training step with every token mixer, side by side with attention."""
    from vitbench.bench import mixer_speed, pages
    from vitbench.cli.commands.device import choose_device

    run = (choose_device(device), threads)
    measurement = mixer_speed.measure(name, (img_size, batch), mixer or (), rounds, run)
    text = mixer_speed.table(measurement)
    pages.write(to, "mixers", measurement, text, None)
    console().print(text, markup=False, soft_wrap=True)


@bench.command()
def scaling(threads: Threads = 1, device: Device = "cpu", to: To = RESULTS) -> None:
    """Measure how cost grows with stack size, batch, depth, tokens and finished trials; fit the exponents."""
    from vitbench.bench import pages, scaling
    from vitbench.cli.commands.device import choose_device
    from vitbench.stats.race import CHOOSER

    terminal = console()
    measurement = scaling.measure(choose_device(device), threads, CHOOSER, terminal.print)
    table = pages.scaling_table(measurement)
    pages.write(to, "scaling", measurement, table, pages.scaling_figure(measurement))
    terminal.print(table, markup=False, soft_wrap=True)


@bench.command()
def store(
    old: Annotated[
        Path | None, typer.Option(help="A checkout of another build, measured in turn with this one.", metavar="DIR")
    ] = None,
    trials: Annotated[
        list[int] | None, typer.Option(min=100, help="Finished trials, repeatable; default 1000, 10000 and 100000.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the builds alternate.")] = 3,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for the synthetic results, kept; default: a temporary one.", metavar="DIR"),
    ] = None,
    to: To = RESULTS,
) -> None:
    """Measure what looks, status, plan and verdict cost with many finished trials; synthetic records."""
    from vitbench.bench import pages, store_scale

    terminal = console()
    builds = {store_scale.THIS: Path(__file__).parents[3], **({"old": old.resolve()} if old else {})}
    with TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        measurement = store_scale.measure(trials or (1_000, 10_000, 100_000), builds, rounds, folder, terminal.print)
    text = store_scale.table(measurement)
    pages.write(to, "store", measurement, text, None)
    terminal.print(text, markup=False, soft_wrap=True)


@bench.command()
def memory(
    old: Annotated[
        Path | None, typer.Option(help="A checkout of another build, measured in turn with this one.", metavar="DIR")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="A data set, repeatable; default digits and fashion_mnist.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the builds alternate.")] = 3,
    to: To = RESULTS,
) -> None:
    """Measure the most memory that a run with two trial processes holds; shared pages count once (Linux)."""
    from vitbench.bench import pages, run_memory

    terminal = console()
    builds = {run_memory.THIS: Path(__file__).parents[3], **({"old": old.resolve()} if old else {})}
    patches = {name: 7 if name == "fashion_mnist" else 2 for name in data or ("digits", "fashion_mnist")}
    measurement = run_memory.measure(patches, builds, rounds, terminal.print)
    text = run_memory.table(measurement)
    pages.write(to, "memory", measurement, text, None)
    terminal.print(text, markup=False, soft_wrap=True)


@bench.command()
def prepare(
    data: Annotated[str, typer.Argument(help="folder:PATH, parquet:PATH, ...; read whole, so a part of a large set.")],
    img_size: Annotated[int, typer.Option(min=1, help="Image side in pixels.")] = 224,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds; the ways to read alternate.")] = 5,
    jobs: Annotated[
        list[int] | None,
        typer.Option("--jobs", "-j", min=1, help="Processes that decode, repeatable; 1 and 2 without."),
    ] = None,
    to: To = RESULTS,
) -> None:
    """Measure prepared images against decoding on the fly: time of a pass, memory of processes, preparing."""
    from vitbench.bench import pages, prepared_speed

    terminal = console()
    with TemporaryDirectory() as work:
        subject = prepared_speed.BenchedImages(data, img_size, Path(work))
        measurement = prepared_speed.measure(subject, rounds, jobs or (1, 2), terminal.print)
    text = prepared_speed.table(measurement)
    pages.write(to, "prepare", measurement, text, None)
    terminal.print(text, markup=False, soft_wrap=True)


@bench.command(name="second-look")
def second_look(
    images: Annotated[Path, typer.Option(help="Folder of Fashion-MNIST's four .gz files.", metavar="DIR")] = Path(
        "/usr/share/datasets/fashion-mnist"
    ),
    seeds: Annotated[int, typer.Option(min=3, help="Seeds of every arm.")] = 6,
    to: To = RESULTS,
) -> None:
    """Train the three most surprising verdicts again with timm's models in a plain loop, at other seeds."""
    from vitbench.bench import pages, second_look

    terminal = console()
    measurement = second_look.measure(second_look.read_images(images), seeds, terminal.print)
    text = second_look.table(measurement)
    pages.write(to, "second_look", measurement, text, None)
    terminal.print(text, markup=False, soft_wrap=True)


@bench.command()
def verdict(
    old: Annotated[
        Path | None, typer.Option(help="A checkout of commit ca16abd, measured in turn with this one.", metavar="DIR")
    ] = None,
    images: Annotated[Path, typer.Option(help="Folder of Fashion-MNIST's four .gz files.", metavar="DIR")] = Path(
        "/usr/share/datasets/fashion-mnist"
    ),
    trials: Annotated[int, typer.Option(min=3, help="Trainings of each contestant; the first is not counted.")] = 6,
    runs: Annotated[int, typer.Option(min=100, help="Simulated runs per cell.")] = 4_000,
    to: To = RESULTS,
) -> None:
    """Core time until one equality and one difference are settled: measured seconds times simulated trainings."""
    from vitbench.bench import pages, verdict_cost

    terminal = console()
    measurement = verdict_cost.measure(old.resolve() if old else None, images, trials, runs, terminal.print)
    text = verdict_cost.table(measurement)
    pages.write(to, "verdict", measurement, text, None)
    terminal.print(text, markup=False, soft_wrap=True)


@bench.command()
def share(
    trials: Annotated[int, typer.Option(min=2, help="Trainings of each experiment; the first is not counted.")] = 5,
    to: To = RESULTS,
) -> None:
    """Measure the share of an experiment's core time in training steps, on digits and on Fashion-MNIST."""
    from vitbench.bench import pages, training_share

    terminal = console()
    measurement = training_share.measure(trials, terminal.print)
    text = training_share.table(measurement)
    pages.write(to, "share", measurement, text, None)
    terminal.print(text, markup=False, soft_wrap=True)


@bench.command()
def cuda(
    device: Device = "cuda",
    to: To = RESULTS,
    minutes: Annotated[float, typer.Option(min=0.1, help="No step begins after this many minutes.")] = 8.0,
) -> None:
    """Check a CUDA device against the CPU and measure it; an interrupted command goes on. On a CPU: a rehearsal.

    Exit code 4 if a check failed, 3 if a step was left for want of time.
    """
    from vitbench.bench import cuda
    from vitbench.cli.commands.device import choose_device

    terminal, results = console(), []
    for result in cuda.run(choose_device(device), to, 60.0 * minutes):
        terminal.print(result.line(), markup=False, highlight=False, soft_wrap=True)
        results.append(result)
    late = any("no time" in str(result.found.get("summary")) for result in results)
    raise typer.Exit(4 if any(result.passed is False for result in results) else 3 if late else 0)
