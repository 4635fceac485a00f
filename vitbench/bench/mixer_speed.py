"""Training speed of one model with each token mixer, side by side: seconds of a step, and FLOPs that it needs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from vitbench.base.errors import InputError
from vitbench.bench.steps import seconds, spec_of, trainer_of
from vitbench.bench.suite import ratios
from vitbench.model.costs import forward_flops, hidden_flops, num_params
from vitbench.model.sizes import transformer
from vitbench.spec.mechanism import canonical, registered
from vitbench.spec.trial import ModelSpec, TrainSpec, TrialSpec

BASELINE = "attention"


def measure(
    name: str, size: tuple[int, int], mixers: Sequence[str], rounds: int, run: tuple[str, int]
) -> dict[str, Any]:
    """Time training steps of `name` with average pooling and each mixer; the mixers alternate in every round.

    On a CPU these are processor seconds, which other programs disturb less; else seconds of the clock.
    `size`: image side in pixels, and images per step. `run`: device and CPU threads. Raises InputError if no mixer
    fits; one that does not fit is left out, with the reason.
    """
    import torch

    (img_size, batch_size), (device, threads) = size, run
    torch.set_num_threads(threads)
    specs, left_out = _specs(name, img_size, batch_size, mixers or sorted(registered("token_mixer")))
    if BASELINE not in specs:
        raise InputError(f"bench mixers: {name} does not fit {img_size} px: {left_out.get(BASELINE)}")
    trainers = {mixer: trainer_of(spec, 1, device) for mixer, spec in specs.items()}
    steps = {mixer: _stepping(trainer) for mixer, trainer in trainers.items()}
    clock = time.process_time if device == "cpu" else time.perf_counter
    load, times = os.getloadavg()[0], dict[str, list[float]]()
    for turn in range(rounds):
        for mixer, step in steps.items():
            taken = seconds(step, device, warm_up=3 if turn == 0 else 1, repeats=3, clock=clock)
            times.setdefault(mixer, []).append(median(taken))
    first = specs[BASELINE].model
    return {
        "model": name,
        "img_size": img_size,
        "batch_size": batch_size,
        "device": device,
        "threads": threads,
        "clock": clock.__name__,
        "load_at_the_start": load,
        "num_patches": transformer(first).num_patches,
        "left_out": left_out,
        "seconds": times,
        "mixers": {mixer: _costs(spec) for mixer, spec in specs.items()},
    }


def _specs(
    name: str, img_size: int, batch_size: int, mixers: Sequence[str]
) -> tuple[dict[str, TrialSpec], dict[str, str]]:
    """The model with each mixer, the baseline first, and why others cannot be built."""
    train = TrainSpec(steps=10_000, batch_size=batch_size, augment="none")
    specs, left_out = dict[str, TrialSpec](), dict[str, str]()
    for mixer in dict.fromkeys(canonical("token_mixer", mixer) for mixer in (BASELINE, *mixers)):
        try:
            model = ModelSpec(name=name, token_mixer=mixer, global_pool="avg")
            specs[mixer] = spec_of(model, img_size, 10, train)
        except InputError as error:
            left_out[mixer] = str(error).splitlines()[0]
    return specs, left_out


def _stepping(trainer: Any) -> Callable[[], None]:
    numbers = iter(range(10_000))
    return lambda: trainer.step(next(numbers))


def _costs(spec: TrialSpec) -> dict[str, int]:
    return {
        "params": num_params(spec.model, spec.train.objective),
        "forward_flops": forward_flops(spec.model, spec.train.objective),
        "hidden_flops": hidden_flops(spec.model),
    }


def table(given: dict[str, Any]) -> str:
    """Markdown: seconds and FLOPs of every mixer, and how many times as long as attention."""
    costs, times = given["mixers"], given["seconds"]
    compared, needed = ratios(times, BASELINE), costs[BASELINE]["forward_flops"]
    clock = "processor" if given["clock"] == "process_time" else "wall-clock"
    lines = [
        f"{given['model']} at {given['img_size']} px, {given['num_patches']} patches, average pooling, batch "
        f"{given['batch_size']}; {given['device']}, {given['threads']} thread(s), fp32; training steps, "
        f"{len(times[BASELINE])} rounds, alternating; load average at the start {given['load_at_the_start']:.2f}.",
        "",
        f"| token mixer | {clock} ms per step, median | times as long as attention [95%] | FLOPs, times "
        "| computed, times |",
        "|---|---|---|---|---|",
    ]
    for mixer, cost in costs.items():
        ratio = compared.get(mixer)
        interval = "1" if ratio is None else f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        flops, computed = cost["forward_flops"], cost["forward_flops"] + cost["hidden_flops"]
        shares = f"{flops / needed:.2f} | {computed / needed:.2f}"
        lines.append(f"| {mixer} | {1000 * median(times[mixer]):.1f} | {interval} | {shares} |")
    lines += ["", *(f"Left out: {mixer} ({reason})." for mixer, reason in given["left_out"].items())]
    return "\n".join(lines).rstrip() + "\n"
