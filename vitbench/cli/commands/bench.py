"""`vitbench bench`: how fast it is here, against the loops that people write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitbench.cli.commands.arguments import console

bench = typer.Typer(name="bench", no_args_is_help=True, help="Measure speed here, against the loops that people write.")

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")]
To = Annotated[Path, typer.Option("--to", help="Where tables and plots go.", metavar="DIR")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
RESULTS = Path("results/bench")


@bench.command()
def suite(
    which: Annotated[
        str, typer.Argument(help="positions (5 arms x 4 seeds) or rates (5 learning rates x 4 seeds).")
    ] = "positions",
    repeats: Annotated[int, typer.Option(min=1, help="Times that everybody runs, in turn.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training.")] = 10,
    loaders: Annotated[int, typer.Option(min=0, help="Loader processes of the plain loops.")] = 2,
    compiled: Annotated[
        bool, typer.Option(help="Let timm's loop run compiled, too; on a CPU that takes minutes a round.")
    ] = True,
    device: Device = "cpu",
    to: To = RESULTS,
) -> None:
    """Twenty trainings by vitbench, by plain loops over timm (eager, compiled, in memory) and over vit-pytorch."""
    from vitbench.bench import pages, suite
    from vitbench.cli.commands.device import choose_device
    from vitbench.stats.tuning import choose

    terminal = console()
    rules = suite.Rules(repeats, loaders, compiled)
    found = suite.run(which, suite.Size(epochs=epochs), choose_device(device), rules, choose, terminal.print)
    table = pages.suite_table(found)
    pages.write(to, f"suite_{which}", found, table, pages.suite_figure(found))
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
    """Images per second, share of the measured peak, and memory of one model's training, against timm's same model."""
    from vitbench.bench import model_speed, pages
    from vitbench.cli.commands.device import choose_device

    found = model_speed.measure(name, (img_size, batch), precision, choose_device(device), threads)
    table = pages.model_table(found)
    slug = "".join(c if c.isalnum() else "_" for c in name).lower()
    pages.write(to, f"model_{slug}_{precision}", found, table, None)
    console().print(table, markup=False, soft_wrap=True)


@bench.command()
def scaling(threads: Threads = 1, device: Device = "cpu", to: To = RESULTS) -> None:
    """Cost against members of a stack, batch, depth, tokens and finished trials, with fitted exponents."""
    from vitbench.bench import pages, scaling
    from vitbench.cli.commands.device import choose_device
    from vitbench.stats.tuning import choose

    terminal = console()
    found = scaling.measure(choose_device(device), threads, choose, terminal.print)
    table = pages.scaling_table(found)
    pages.write(to, "scaling", found, table, pages.scaling_figure(found))
    terminal.print(table, markup=False, soft_wrap=True)
