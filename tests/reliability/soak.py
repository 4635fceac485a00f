"""Trials on two workers under SIGKILL at random (seeded) moments until all are done; then the tables must be, byte for
byte, those of a run that nobody disturbed.

    python tests/reliability/soak.py --kills 200 [--design race | teacher]

The command itself is killed, its fork server, or a worker, also while they start; the same command is then given again.
One round is 24 trials, 2 arms at 12 seeds. `race` has three rates per arm, up to the first look. `teacher` is such
a race too, but every trial holds two networks: a student, and the frozen teacher that an earlier stage trained. Rounds
follow, each in a folder of its own, until the kills are spent. Nothing is ever repaired.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
BASE = """
name: soak
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2, mlp_ratio: 2.0}
  train: {steps: 120, batch_size: 16, lr: 4e-3}
"""
PLAIN = f"{BASE}factors: {{model.global_pool: [token, avg]}}\n"
RACE = """tune: {grid: {STAGEtrain.lr: [1e-3, 4e-3, 1.6e-2]}, by: race}
seeds: {looks: [6]}
"""
TEACHER = f"""{BASE}stages:
  - name: teach
    train: {{steps: 120}}
  - {{name: learn, uses: {{teacher: teach}}, train: {{steps: 120}}}}
factors: {{learn.train.objective.name: [classify, distill]}}
"""
DESIGNS = {
    "plain": f"{PLAIN}seeds: 12\n",
    "race": PLAIN + RACE.replace("STAGE", ""),
    "teacher": TEACHER + RACE.replace("STAGE", "learn."),
}
PATIENCE_SECONDS = 300.0


@dataclass
class Tally:
    """What happened: kills by who was hit, commands given, attempts made, trials that ended otherwise than alone."""

    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    per_round: int = 0
    commands: int = 0
    attempts: int = 0
    resumed: int = 0
    trials: int = 0
    lost: list[str] = field(default_factory=list)


def command(*words: object) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), *map(str, words)]


def start(root: Path, experiment: Path) -> subprocess.Popen[bytes]:
    """The run, in a process group of its own."""
    words = command("run", experiment, "--results", root, "-j", 2, "--quiet", "--checkpoint-seconds", 0.02)
    with (root.parent / f"{root.name}.log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)


def processes(group: int) -> dict[int, str]:
    """The living processes of a group, by what they are."""
    out, server = {}, None
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            words = (path / "cmdline").read_text()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z" and "resource_tracker" not in words:
            out[int(path.name)] = int(fields[1])
            if "forkserver" in words and int(fields[1]) == group:
                server = int(path.name)
    kinds = {group: "command", server: "fork server"}
    return {pid: kinds.get(pid, "worker") for pid in out}


def records(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in root.glob("trials/*/record.json")}


def at_work(root: Path) -> Any:
    """Something that changes as soon as a trial goes on."""
    return sorted(path.name for path in root.glob("trials/*/checkpoints/step-*")), len(records(root))


def disturb(process: subprocess.Popen[bytes], root: Path, rng: random.Random, tally: Tally) -> None:
    """One kill: of anything at any moment of the start, or of what works, a moment after it is seen to."""
    if rng.random() < 0.15:
        time.sleep(rng.uniform(0.0, 2.0))
    else:
        before = at_work(root)
        wait_for(lambda: at_work(root) != before or process.poll() is not None)
        time.sleep(rng.uniform(0.0, 0.3))
    there = processes(process.pid)
    if not there or process.poll() is not None:
        return
    kinds = sorted(set(there.values()))
    kind = rng.choices(kinds, [{"command": 2, "fork server": 1, "worker": 7}[kind] for kind in kinds])[0]
    victim = rng.choice(sorted(pid for pid, found in there.items() if found == kind))
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return
    tally.kills[kind] += 1


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        if time.monotonic() > end:
            raise TimeoutError("nothing goes on any more")
        time.sleep(0.01)


def soak_round(root: Path, experiment: Path, rng: random.Random, kills: int, tally: Tally) -> None:
    """Run the experiment to its end under kills; raises AssertionError where a committed record changes or goes."""
    seen: dict[str, bytes] = {}
    target = sum(tally.kills.values()) + kills
    while True:
        process = start(root, experiment)
        tally.commands += 1
        while process.poll() is None:
            if sum(tally.kills.values()) < target:
                disturb(process, root, rng, tally)
            else:
                time.sleep(0.05)
            now = records(root)
            assert {key: now.get(key) for key in seen} == seen, "a committed record changed or went"
            seen = now
        wait_for(lambda group=process.pid: not processes(group))  # Workers end by themselves.
        if process.returncode == 0:
            break
    tally.rounds += 1
    tally.trials += len(seen)
    tally.attempts += sum(json.loads(content)["run"]["attempt"] for content in seen.values())
    tally.resumed += sum("resumed_at_step" in json.loads(content)["run"] for content in seen.values())


def outcome(root: Path) -> dict[str, bytes]:
    """Tables, predictions, results and weights of a finished run; its times, which tables show too, are set equal."""
    lines = (root / "soak" / "records.jsonl").read_text().splitlines()
    rows = [{**row, "run": {**row["run"], "train_seconds": 1.0}} for row in map(json.loads, lines)]
    (root / "soak" / "records.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    subprocess.run(command("report", "--results", root), check=True, capture_output=True)
    out = {path.name: path.read_bytes() for path in (root / "soak").glob("table.*")}
    assert {"table.md", "table.csv", "table.tex"} <= out.keys()
    out["predictions.npz"] = (root / "soak" / "predictions.npz").read_bytes()
    out["records.jsonl"] = json.dumps([{**row, "run": None} for row in rows]).encode()
    for path in root.glob("trials/*/checkpoints/final.safetensors"):
        out[path.parent.parent.name] = path.read_bytes()
    return out


def soak(folder: Path, kills: int, seed: int, content: str, per_round: int = 60) -> Tally:
    """Rounds until `kills` have been dealt out; `lost` names what differs from the undisturbed run.

    `content` is the experiment's YAML.
    """
    experiment = folder / "soak.yaml"
    experiment.write_text(content)
    alone = folder / "alone"
    assert start(alone, experiment).wait() == 0
    expected, tally, rng = outcome(alone), Tally(), random.Random(seed)
    tally.per_round = len(records(alone))
    while sum(tally.kills.values()) < kills:
        root = folder / f"round {tally.rounds + 1}"
        left = kills - sum(tally.kills.values())
        soak_round(root, experiment, rng, min(per_round, left), tally)
        found = outcome(root)
        tally.lost += [name for name in expected | found if expected.get(name) != found.get(name)]
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--design", choices=DESIGNS, default="plain", help="what the trials are, see above")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vitbench-soak-") as folder:
        tally = soak(Path(folder), given.kills, given.seed, DESIGNS[given.design])
    print(f"{tally}\n{time.monotonic() - began:.0f} s; lost: {tally.lost or 'nothing'}")
    sys.exit(bool(tally.lost))


if __name__ == "__main__":
    main()
