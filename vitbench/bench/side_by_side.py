"""Core time until three claims on Fashion-MNIST are settled: the race against a build with tuning seeds of its own.

`python -m vitbench.bench.side_by_side OLD WORK [SECONDS]` alternates commands of this checkout and of the checkout OLD
in the folder WORK until all claims are settled, the seeds are used up, or SECONDS have passed; run again, it resumes.
`python -m vitbench.bench.side_by_side WORK --table FOLDER` writes the table.

A core second is a processor second, in user and system mode, of a whole command with its start and its verdicts.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STEPS = 300
TRIALS_PER_COMMAND = 12
CHECKOUT = Path(__file__).resolve().parents[2]
BASE = f"""base:
  data: {{name: fashion_mnist, val_fraction: 0.05}}
  model: {{name: Mu/7}}
  train: {{steps: {STEPS}, batch_size: 64, augment: none}}
"""
QUESTIONS = {
    "class_token": """question: Are average pooling and the class token equal once both are tuned?
factors: {model.global_pool: [token, avg]}
claims:
  - {id: CLS-01, form: equivalence, arms: [avg, token], margin_points: 1.0}
""",
    "positions": """question: What are positions worth, and does it matter how they are encoded?
arms:
  learned_1d: {model.pos_embed: learned_1d}
  none: {model.pos_embed: none}
  learned_2d: {model.pos_embed: learned_2d}
  relative_1d: {model.pos_embed: relative_1d}
claims:
  - {id: POS-01, form: difference, arms: [learned_1d, none], above_points: 1.0}
  - id: POS-02
    form: equivalence
    pairs: [[learned_1d, learned_2d], [learned_1d, relative_1d], [learned_2d, relative_1d]]
    margin_points: 1.0
""",
}
RATES = {"class_token": "2e-3, 4e-3, 8e-3, 1.6e-2", "positions": "2e-3, 4e-3, 8e-3"}
CLAIMS = {"class_token": ("CLS-01",), "positions": ("POS-01", "POS-02")}
DESIGNS = {
    "race": "tune: {{grid: {{train.lr: [{rates}]}}, by: race}}\nseeds: {{looks: [6, 9, 13, 20]}}\n",
    "before": "tune: {{train.lr: [{rates}], seeds: 2}}\nseeds: {{looks: [5, 8, 12, 20]}}\n",
}
LOOK = re.compile(r"n = (\d+): (open: (?P<open>.*)|every claim is settled)")


@dataclass(frozen=True)
class Command:
    """One command of one design: what it took, and which claims were open at each look that it reached."""

    experiment: str
    design: str
    exit_code: int
    core_seconds: float
    seconds: float
    trainings: int
    looks: tuple[tuple[int, tuple[str, ...]], ...]


def experiment_file(experiment: str, design: str) -> str:
    """The YAML text of an experiment under a design."""
    tuning = DESIGNS[design].format(rates=RATES[experiment])
    return f"name: {experiment}\n{BASE}{QUESTIONS[experiment]}{tuning}"


def looks_in(output: str) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """(seeds, open claims) of each look that a command's output names."""
    lines = (LOOK.search(line) for line in output.splitlines())
    return tuple((int(m[1]), tuple((m["open"] or "").split(", ")) if m["open"] else ()) for m in lines if m)


def run_command(experiment: str, design: str, code: Path, work: Path) -> Command:
    """Run the next trials of an experiment with the code of a checkout, and measure the command."""
    file, root = work / f"{experiment}_{design}.yaml", work / design
    file.write_text(experiment_file(experiment, design))
    program = ["-m", "vitbench"] if (code / "vitbench" / "__main__.py").is_file() else [str(code / "cli.py")]
    options = ["--results", str(root), "--jobs", "1", "--until-settled", "--limit", str(TRIALS_PER_COMMAND)]
    before, started, core = _num_records(root), time.monotonic(), _children_seconds()
    done = subprocess.run(
        [sys.executable, *program, "run", str(file), *options],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    with (work / f"{design}.out").open("a") as log:
        log.write(done.stdout + done.stderr)
    return Command(
        experiment,
        design,
        done.returncode,
        _children_seconds() - core,
        time.monotonic() - started,
        _num_records(root) - before,
        looks_in(done.stdout),
    )


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _num_records(root: Path) -> int:
    return sum(1 for _ in root.glob("trials/*/record.json"))


def alternate(old: Path, work: Path, seconds: float) -> None:
    """Run commands of both designs in turn, experiment by experiment, and append each to WORK/commands.jsonl."""
    work.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    for experiment in QUESTIONS:
        codes = {design: last for design in DESIGNS if (last := _last_code(work, experiment, design)) in (None, 3)}
        while codes:
            for design in list(codes):
                if time.monotonic() > deadline:
                    return
                command = run_command(experiment, design, CHECKOUT if design == "race" else old, work)
                with (work / "commands.jsonl").open("a") as log:
                    log.write(json.dumps(asdict(command)) + "\n")
                if command.exit_code != 3:
                    del codes[design]


def _last_code(work: Path, experiment: str, design: str) -> int | None:
    codes = [c.exit_code for c in read_commands(work) if (c.experiment, c.design) == (experiment, design)]
    return codes[-1] if codes else None


def read_commands(work: Path) -> list[Command]:
    """The commands so far."""
    path = work / "commands.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [Command(**{**line, "looks": tuple((n, tuple(claims)) for n, claims in line["looks"])}) for line in lines]


def settled_at(commands: Iterable[Command], claim: str) -> int | None:
    """The seeds at which a claim was first settled for good, None if it is open at the last look reached."""
    looks = dict(look for command in commands for look in command.looks)
    still_open = [n for n, claims in looks.items() if claim in claims]
    later = [n for n in looks if n > max(still_open, default=0)]
    return min(later, default=None)


def summary(commands: Sequence[Command]) -> list[dict[str, Any]]:
    """Per experiment and design: trainings, core seconds, the last look and where each claim was settled."""
    lines = []
    for experiment in QUESTIONS:
        for design in DESIGNS:
            these = [c for c in commands if (c.experiment, c.design) == (experiment, design)]
            if these:
                lines.append(
                    {
                        "experiment": experiment,
                        "design": design,
                        "commands": len(these),
                        "trainings": sum(c.trainings for c in these),
                        "core_seconds": round(sum(c.core_seconds for c in these), 1),
                        "wall_seconds": round(sum(c.seconds for c in these), 1),
                        "finished": these[-1].exit_code != 3,
                        "last_look": max((n for c in these for n, _ in c.looks), default=None),
                        "settled_at": {claim: settled_at(these, claim) for claim in CLAIMS[experiment]},
                    }
                )
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The summary as Markdown."""
    head = (
        "# Core time until claims are settled\n\n"
        f"Fashion-MNIST, `Mu/7`, {STEPS} steps of 64 images, margins and cut 1.0 points, one machine, one process,\n"
        f"commands of {TRIALS_PER_COMMAND} trainings in turn. `race`: this build, looks 6, 9, 13, 20. `before`:\n"
        "commit ca16abd, two tuning seeds, looks 5, 8, 12, 20. "
        "`python -m vitbench.bench.side_by_side`\nwrites this page.\n\n"
        "| experiment | design | trainings | core seconds | ended | claims settled at n seeds |\n"
        "|---|---|---|---|---|---|\n"
    )
    return head + "".join(f"{_row(line)}\n" for line in lines)


def _row(line: Mapping[str, Any]) -> str:
    settled = ", ".join(f"{claim}: {'open' if n is None else n}" for claim, n in line["settled_at"].items())
    ended = f"n = {line['last_look']}" if line["finished"] else "stopped by the time limit"
    return (
        f"| {line['experiment']} | {line['design']} | {line['trainings']} | {line['core_seconds']:.0f} "
        f"| {ended} | {settled} |"
    )


def main(arguments: Sequence[str]) -> int:
    """Run the comparison, or write its table."""
    if "--table" in arguments:
        lines, folder = summary(read_commands(Path(arguments[0]))), Path(arguments[2])
        (folder / "settling_side_by_side.md").write_text(table(lines))
        (folder / "settling_side_by_side.json").write_text(
            json.dumps({"steps": STEPS, "lines": lines}, indent=1) + "\n"
        )
        return 0
    old, work, *rest = arguments
    alternate(Path(old).resolve(), Path(work).resolve(), float(rest[0]) if rest else float("inf"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
