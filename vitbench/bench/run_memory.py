"""The most memory that a run with several trial processes holds, against another checkout.

A page that several processes share counts once: proportional set sizes, added up over the command, the fork server and
the trial processes. Pages of libraries are shared with other programs on the machine, too, so the two parts (own pages,
pages of files) are shown beside the sum. The builds alternate, and every measurement is a command of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from vitbench.base.errors import VitbenchError
from vitbench.bench.suite import ratios

Say = Callable[[str], None]
THIS = "this"
SAMPLE_SECONDS = 0.2
PARTS = {"peak_mib": "Pss", "own_mib": "Pss_Anon", "files_mib": "Pss_File", "shared_mib": "Pss_Shmem"}
"""The sum of the proportional set sizes, and its parts at that moment: memory without a file, files, shared images."""
TEXT = """name: memory
question: How much memory does a run take?
base:
  data: {{name: "{data}", val_fraction: 0.05}}
  model: {{name: Mu/{patch_size}}}
  train: {{steps: {steps}, batch_size: 64, lr: 4e-3, augment: none}}
factors:
  model.global_pool: [token, avg]
seeds: 2
"""


def measure(
    data: Mapping[str, int], builds: Mapping[str, Path], rounds: int, say: Say, steps: int = 100
) -> dict[str, Any]:
    """The peak of every build on each data set `{name: patch size}`, the builds in turn, as plain data."""
    costs = []
    for name, patch_size in data.items():
        for _ in range(rounds):
            for build, code in builds.items():
                text = TEXT.format(data=name, patch_size=patch_size, steps=steps)
                costs.append({"data": name, "build": build, **peak(code, text)})
                say(
                    " ".join(f"{value:.0f}" if isinstance(value, float) else f"{value}" for value in costs[-1].values())
                )
    return {"rounds": rounds, "steps": steps, "costs": costs}


def peak(code: Path, text: str) -> dict[str, float]:
    """Run the experiment with a checkout and two trial processes; its largest sum in MiB, with the parts.

    Raises VitbenchError if the run fails.
    """
    program = ["-m", "vitbench"] if (code / "vitbench" / "__main__.py").is_file() else [str(code / "cli.py")]
    with TemporaryDirectory() as work:
        file = Path(work) / "memory.yaml"
        file.write_text(text)
        command = subprocess.Popen(
            [sys.executable, *program, "run", str(file), "--results", f"{work}/results", "--jobs", "2", "--quiet"],
            env={**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
            cwd=work,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        largest = dict.fromkeys(PARTS, 0.0)
        while command.poll() is None:
            held = session_mib(command.pid)
            largest = max(largest, held, key=lambda sizes: sizes["peak_mib"])
            time.sleep(SAMPLE_SECONDS)
    if command.returncode:
        raise VitbenchError(f"{code}: the run ended with exit code {command.returncode}")
    return largest


def session_mib(session: int) -> dict[str, float]:
    """The proportional set sizes of all processes of a session, added up, with their parts."""
    total = dict.fromkeys(PARTS, 0.0)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            sizes = dict(line.split(":", 1) for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
        except (OSError, ValueError, IndexError):
            continue  # It ended meanwhile.
        for part, name in PARTS.items():
            total[part] += int(sizes[name].split()[0]) / 1024
    return total


def table(measured: Mapping[str, Any]) -> str:
    """The medians as Markdown, and the ratio to this build, paired by round."""
    head = (
        "# Memory of a run with two trial processes\n\n"
        "Proportional set sizes of the command, the fork server and the trial processes, added up; the largest sum, "
        f"sampled every {SAMPLE_SECONDS} s.\n{measured['steps']} steps per training, "
        f"{measured['rounds']} rounds in which the builds alternate. `vitbench bench memory` writes this page.\n\n"
        "| data | build | peak MiB | own pages | files | shared images | times this build [95%] |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        _rows(measured["costs"], name) for name in dict.fromkeys(c["data"] for c in measured["costs"])
    )


def _rows(costs: Sequence[Mapping[str, Any]], data: str) -> str:
    of_build: dict[str, list[Mapping[str, Any]]] = {}
    for cost in costs:
        if cost["data"] == data:
            of_build.setdefault(cost["build"], []).append(cost)
    peaks = {build: [cost["peak_mib"] for cost in of] for build, of in of_build.items()}
    times = ratios(peaks, THIS) if THIS in peaks else {}
    lines = ""
    for build, of in of_build.items():
        sizes = " | ".join(f"{median(cost[part] for cost in of):.0f}" for part in PARTS)
        ratio = times.get(build)
        words = f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else "1"
        lines += f"| {data} | {build} | {sizes} | {words} |\n"
    return lines
