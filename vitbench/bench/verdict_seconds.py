"""Core seconds of starting a run and of one training of CLS-01: this build, another build, a plain timm loop.

`python -m vitbench.bench.verdict_seconds IMAGES TRIALS` is the plain loop.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean
from time import process_time, sleep
from typing import Any

from vitbench.base.errors import VitbenchError
from vitbench.bench.side_by_side import CHECKOUT, STEPS, experiment_file

POLL_SECONDS = 0.05
Seconds = dict[str, Any]
"""`start`: core seconds of start and end; `tuning`, `training`: those of each training but the first, in turn."""


def spent(pid: int) -> float:
    """Processor seconds of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watched(design: str, code: Path, work: Path, num_trials: int) -> Seconds:
    """Run trainings of CLS-01 by a checkout in one process; a training lasts from one record to the next."""
    file, root = work / f"{design}.yaml", work / design
    file.write_text(experiment_file("class_token", design))
    program = ["-m", "vitbench"] if (code / "vitbench" / "__main__.py").is_file() else [str(code / "cli.py")]
    arguments = [*program, "run", str(file), "--results", str(root), "--jobs", "1", "--limit", str(num_trials)]
    process = subprocess.Popen(
        [sys.executable, *arguments, "--until-settled"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=(work / f"{design}.err").open("w"),
    )
    at = list[float]()
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if sum(1 for _ in root.glob("trials/*/record.json")) > len(at):
            at.append(spent(process.pid))
        sleep(POLL_SECONDS)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3) or len(at) != num_trials:
        raise VitbenchError(
            f"{code}: exit {process.returncode}, {len(at)} trainings\n{(work / f'{design}.err').read_text()[-500:]}"
        )
    trainings = [after - before for before, after in pairwise(at)]
    start = usage.ru_utime + usage.ru_stime - num_trials * mean(trainings)
    return {"start": start, "tuning": trainings, "training": trainings}


def plain_seconds(images: Path, num_trials: int) -> Seconds:
    """The same of the plain loop: trainings read on held-out images and on test images in turn."""
    done = subprocess.run(
        [sys.executable, "-m", "vitbench.bench.verdict_seconds", str(images), str(num_trials)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise VitbenchError(f"the plain loop: exit {done.returncode}\n{done.stderr[-500:]}")
    start, *took = (float(text) for text in done.stdout.split())
    return {"start": start, "tuning": took[2::2], "training": took[3::2]}


def main(arguments: Sequence[str]) -> None:
    """Print core seconds of the start, then of `arguments[1]` trainings read on held-out and on test images in turn."""
    import torch

    from vitbench.bench.second_look import PlainArm, read_images, train, vit

    torch.set_num_threads(1)
    images, arm = read_images(Path(arguments[0])), PlainArm(partial(vit, 7), 4e-3, 64, STEPS)
    print(process_time(), flush=True)
    for seed in range(int(arguments[1])):
        for tuning in (True, False):
            before = process_time()
            train(arm, seed, images, tuning=tuning)
            print(process_time() - before, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
