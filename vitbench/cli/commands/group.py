"""`--processes K`: what several processes of one trial need, checked before the first step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from vitbench.base.errors import InputError
from vitbench.base.signals import stoppable
from vitbench.cli.commands.run_options import RunOptions
from vitbench.engines.options import Options, why_not_share
from vitbench.engines.processes import visible_gpu
from vitbench.plan.trials import Builder, settings
from vitbench.spec.mechanism import load_code


def launched_rank(processes: int) -> int | None:
    """The number of this process in the group of a launcher such as torchrun; None if this command starts the group.

    Raises InputError.
    """
    if processes == 1 or not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    if os.environ["WORLD_SIZE"] != str(processes):
        size = os.environ["WORLD_SIZE"]
        raise InputError(f"--processes {processes}: the launcher started {size} (WORLD_SIZE); give the same number")
    return int(os.environ["RANK"])


def as_launched(options: RunOptions) -> RunOptions:
    """The options of this process in a launched group: it sees the GPU of its local number; process 0 alone prints."""
    rank = launched_rank(options.processes)
    if rank is not None and "LOCAL_RANK" in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpu(int(os.environ["LOCAL_RANK"]))
    return replace(options, quiet=True, as_json=False) if rank else options


def follow_launcher(options: Options) -> int:
    """In a process other than 0 of a launched group: train along until process 0 ends; return the exit code."""
    from vitbench.engines.several_processes import follow, join_launched

    with stoppable():
        load_code(options.code)
        follow(join_launched(), options)
    return 0


@contextmanager
def launched_group(is_launched: bool) -> Iterator[None]:
    """In process 0 of a launched group: join it, and tell the other processes when there is nothing left."""
    if not is_launched:
        yield
        return
    from vitbench.engines.several_processes import join_launched

    group = join_launched()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # They are gone already.
            group.announce(None)


def check_group(options: RunOptions, device: str) -> None:
    """Raise InputError for options that do not go with `--processes`."""
    if options.processes == 1:
        return
    for option, value, allowed in (
        ("--engine", options.engine, ("auto", "local")),
        ("--jobs", options.jobs, (None, 1)),
        ("--oom", options.oom, ("fail",)),
        ("--device", device.partition(":")[0], ("cpu", "cuda")),
    ):
        if value not in allowed:
            raise InputError(
                f"--processes {options.processes} trains one trial at a time: {option} {value} does not go with it"
            )


def check_trials(builders: Sequence[Builder], processes: int) -> None:
    """Raise InputError if several processes cannot train a trial of these experiments together."""
    for builder in builders if processes > 1 else ():
        specs = (
            (arm.name, stage.spec)
            for setting in settings(builder.experiment)
            for arm in builder.arms.values()
            for stage in builder.stages(arm, setting)
        )
        for arm, spec in specs:
            if why := why_not_share(spec, processes):
                where = f"{builder.experiment.name}, arm {arm}"
                raise InputError(f"--processes {processes}: {where}: {why}; leave the option out")


def gpus_of(device: str, gpus: tuple[int, ...], processes: int, is_launched: bool) -> tuple[int, ...]:
    """The GPU of each process that this command starts, by torch's number; empty on a CPU. Raises InputError."""
    if processes == 1 or is_launched or not device.startswith("cuda"):
        return gpus
    import torch

    chosen = gpus or tuple(range(processes))
    if len(chosen) != processes or max(chosen) >= torch.cuda.device_count():
        raise InputError(
            f"--processes {processes}: one GPU for each; torch sees {torch.cuda.device_count()}, "
            f"--device names {len(gpus) or 'none'}"
        )
    return chosen
